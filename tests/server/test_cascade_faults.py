"""The cascade on a real server whose members fail, hang, die or are unloaded while it serves.

The repository is a copy of the committed one: `decode`, `yolox_nano`, the ensembles and the cascade as they are, with
stand-ins for the other members, a policy of short times, and one instance of the cascade, so one set of breakers.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from PIL import Image
from roadwork_cascade.policy import load_policy
from roadwork_cascade.policy_text import policy_text
from roadwork_client import AsyncRoadworkClient, DeadlineExceeded, InvalidImage, RoadworkClient, RoadworkError, Verdict
from roadwork_deploy.repository import default_repository
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.watchdog import Watchdog

sys.path.append(str(Path(__file__).parent))
from watching import children, command_of

TOGETHER = "roadwork_together"
CROWD = "roadwork_crowd"
AT_ONCE = 12
MODELS = ["decode", "glance", "perception", "everything", "roadwork", TOGETHER, CROWD]
MODELS += ["scene", "sign_text", "yolox_nano", "centernet_nano"]
STAND_INS = {
    "scene": (32, {"presence": 0.6}),
    "centernet_nano": (
        32,
        {
            "boxes": [[100.0, 200.0, 180.0, 300.0]] + [[0.0] * 4] * 99,
            "scores": [0.9] + [0.0] * 99,
            "classes": [0] + [-1] * 99,
        },
    ),
    "sign_text": (0, {"presence": 0.0, "words": "[]"}),
}
OPEN_SECONDS = 1.0
WINDOW = 4
MINIMUM = 2
STAGE_MS = 1500.0
DEADLINE_MS = 8000.0
DEADLINE = DEADLINE_MS / 1000.0
ALL = {"scene", "yolox_nano", "centernet_nano", "sign_text"}


def signature(config: Path) -> str:
    """The inputs and outputs of a `config.pbtxt`, as text."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    parsed = text_format.Parse(config.read_text(), model_config_pb2.ModelConfig())
    kept = model_config_pb2.ModelConfig(input=parsed.input, output=parsed.output)
    return text_format.MessageToString(kept)


def short_policy(path: Path, together: str | None) -> None:
    """The committed policy with every stage always asked, short times and quick breakers."""
    data = {**load_policy(path).to_dict(), "together": together}
    data.update(name="faults", all_stages=True, deadline_ms=DEADLINE_MS, quorum=0.5)
    data["breaker"].update(window=WINDOW, minimum=MINIMUM, failure_rate=0.5, open_seconds=OPEN_SECONDS)
    for stage in data["stages"]:
        stage["deadline_ms"] = STAGE_MS
    path.write_text(policy_text(data))


@pytest.fixture(scope="module")
def faults(module_repository: Any) -> Any:
    """The repository: `control` changes how its stand-ins behave. `roadwork` asks its stages in turn, `TOGETHER` is the
    same cascade and asks them in one call, and `CROWD` serves many requests at a time and asks for several in one call.
    """
    root = module_repository.path
    shutil.copytree(
        default_repository(), root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "configs")
    )
    for name in (TOGETHER, CROWD):
        shutil.copytree(root / "roadwork", root / name)
    crowd = {"requests": str(AT_ONCE), "gather": "4"}
    for name, together, more in (("roadwork", None, {}), (TOGETHER, "everything", {}), (CROWD, "everything", crowd)):
        short_policy(root / name / "policy.yaml", together)
        config = root / name / "config.pbtxt"
        text = config.read_text()
        assert "count: 4" in text
        text = text.replace("count: 4", "count: 1").replace('name: "roadwork"', f'name: "{name}"')
        for key, value in more.items():
            empty = f'key: "{key}" value {{ string_value: "" }}'
            assert empty in text
            text = text.replace(empty, empty.replace('""', f'"{value}"'))
        config.write_text(text)
    for name, (batch, answer) in STAND_INS.items():
        tensors = signature(root / name / "config.pbtxt")
        shutil.rmtree(root / name)
        module_repository.add_stand_in(name, signature=tensors, max_batch_size=batch, ANSWER=answer)
    return module_repository


@pytest.fixture(scope="module")
def served(faults: Any) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(faults.path, MODELS, probes=["roadwork"], drain=2) as started:
        yield started
        if not started.running:  # a crash of Triton itself: its log would go with the server
            print(started.log_text()[-4000:])
            pytest.fail("tritonserver ended while the tests ran")


@pytest.fixture(scope="module")
def triton(served: EmbeddedServer) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(served.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def client(served: EmbeddedServer) -> Iterator[RoadworkClient]:
    with RoadworkClient(served.grpc_url, deadline=DEADLINE) as made:
        yield made


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (36, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((640, 360), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


Ask = Callable[..., Verdict]


@pytest.fixture
def ask(client: RoadworkClient, faults: Any, jpeg: bytes, wait_until: Callable) -> Iterator[Ask]:
    """One request, checked for what holds whatever fails. Afterwards every member is well again, and asked again."""

    def asked(*, deadline: float = DEADLINE) -> Verdict:
        began = time.monotonic()
        verdict = client.predict(jpeg, deadline=deadline)
        assert time.monotonic() - began < deadline
        assert verdict.milliseconds < deadline * 1000
        told = [answer.member for answer in verdict.answers] + [gap.member for gap in verdict.missing]
        assert sorted(told) == sorted(ALL)  # each member once, answered or missing
        return verdict

    wait_until(lambda: asked().status == "ok", 30, "all members answer")
    yield asked
    for name in STAND_INS:
        faults.control(name)
    wait_until(lambda: asked().status == "ok", 30, "all members recover")


def missing(verdict: Verdict) -> dict[str, str]:
    return {gap.member: gap.reason for gap in verdict.missing}


def breaker(served: EmbeddedServer, model: str) -> float | None:
    """The breaker's state on the metrics endpoint: 0 closed, 1 half open, 2 open."""
    with urllib.request.urlopen(served.metrics_url, timeout=10) as page:
        lines = page.read().decode().splitlines()
    for line in lines:
        if line.startswith("roadwork_breaker_state{") and f'model="{model}"' in line and 'instance="roadwork_0' in line:
            return float(line.rsplit(" ", 1)[1])
    return None


def test_a_verdict_of_all_members(ask: Ask) -> None:
    verdict = ask()
    assert verdict.status == "ok"
    assert {answer.member for answer in verdict.answers} == ALL
    assert any("centernet_nano" in box.seen_by for box in verdict.boxes)
    assert verdict.versions.policy.startswith("faults@")


def until_open(ask: Ask, member: str, reasons: set[str]) -> list[Verdict]:
    """Ask until the member's breaker opens; the degraded verdicts before that, each with one of `reasons`."""
    verdicts: list[Verdict] = []
    for _ in range(WINDOW + 1):
        verdict = ask()
        assert verdict.status == "degraded"
        assert set(missing(verdict)) == {member}
        if missing(verdict)[member] == "breaker_open":
            assert verdicts, "the breaker was open from the beginning"
            return verdicts
        assert missing(verdict)[member] in reasons, verdict.missing
        assert {answer.member for answer in verdict.answers} == ALL - {member}
        verdicts.append(verdict)
    raise AssertionError(f"the breaker of {member} stays closed")


def test_a_detector_that_errors(ask: Ask, faults: Any, served: EmbeddedServer, wait_until: Callable) -> None:
    faults.control("centernet_nano", FAIL="out of memory")
    for verdict in until_open(ask, "centernet_nano", {"error"}):
        assert "out of memory" in verdict.missing[0].detail
        assert {stage.name: stage.outcome for stage in verdict.stages}["perception"] == "partial"
    wait_until(lambda: breaker(served, "centernet_nano") in (1, 2), 5, "the open breaker is on the metrics page")
    time.sleep(OPEN_SECONDS)
    assert missing(ask()) == {"centernet_nano": "error"}  # the probe finds it failing still
    assert missing(ask()) == {"centernet_nano": "breaker_open"}
    faults.control("centernet_nano")
    time.sleep(OPEN_SECONDS)
    assert ask().status == "ok"
    wait_until(lambda: breaker(served, "centernet_nano") == 0, 5, "the closed breaker is on the metrics page")


def test_a_detector_that_hangs(ask: Ask, faults: Any, wait_until: Callable) -> None:
    faults.control("centernet_nano", DELAY=12)
    for verdict in until_open(ask, "centernet_nano", {"timed_out"}):
        assert verdict.milliseconds < 3 * STAGE_MS
    verdict = ask()
    assert missing(verdict) == {"centernet_nano": "breaker_open"}
    assert verdict.milliseconds < STAGE_MS / 2  # nobody waits for it any more
    faults.control("centernet_nano")
    wait_until(lambda: ask().status == "ok", 40, "the breaker closes when the detector is back")


def test_a_hanging_detector_and_a_short_deadline(ask: Ask, faults: Any) -> None:
    """The best verdict so far comes within the deadline, and the caller's haste is not held against the detector."""
    faults.control("centernet_nano", DELAY=2)
    for _ in range(WINDOW):
        verdict = ask(deadline=0.8)
        assert verdict.status == "timed_out"
        assert missing(verdict)["centernet_nano"] == "timed_out"
        assert verdict.decided_by is not None
        assert "scene" in {answer.member for answer in verdict.answers}
    faults.control("centernet_nano")
    time.sleep(2.5)  # the call that hangs now ends
    assert ask().status == "ok"


def test_a_detector_that_is_unloaded_while_serving(
    ask: Ask, triton: grpc.InferenceServerClient, wait_until: Callable
) -> None:
    verdicts: list[Verdict] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            verdicts.append(ask())

    caller = threading.Thread(target=keep_asking)
    caller.start()
    try:
        time.sleep(0.3)
        triton.unload_model("yolox_nano")
        wait_until(lambda: not triton.is_model_ready("yolox_nano"), 20, "the detector is unloaded")
        wait_until(
            lambda: any(missing(v).get("yolox_nano") == "breaker_open" for v in verdicts),
            20,
            "the breaker of the detector opens",
        )
        triton.load_model("yolox_nano")
        wait_until(lambda: verdicts[-1].status == "ok", 20, "the detector is asked again once it is loaded")
    finally:
        stop.set()
        caller.join(30)
        triton.load_model("yolox_nano")
    assert not caller.is_alive()
    absent = [verdict for verdict in verdicts if verdict.missing]
    assert all(verdict.status == "degraded" for verdict in absent)
    assert all(set(missing(verdict)) == {"yolox_nano"} for verdict in absent)
    assert {missing(verdict)["yolox_nano"] for verdict in absent} >= {"unavailable", "breaker_open"}


def test_an_ensemble_that_is_unloaded_costs_nothing(ask: Ask, triton: grpc.InferenceServerClient) -> None:
    """Its members are asked one by one."""
    try:
        for name in ("perception", "glance"):
            triton.unload_model(name)
        for _ in range(MINIMUM + 1):
            verdict = ask()
            assert verdict.status == "ok"
            assert {answer.member for answer in verdict.answers} == ALL
    finally:
        for name in ("perception", "glance"):
            triton.load_model(name)


def test_all_stages_in_one_call(
    ask: Ask,
    faults: Any,
    served: EmbeddedServer,
    triton: grpc.InferenceServerClient,
    jpeg: bytes,
    wait_until: Callable,
) -> None:
    """The same verdict, also where a member or the ensemble fails; and the ensemble is what was asked."""

    def asked() -> int:
        return sum(one.inference_count for one in triton.get_inference_statistics("everything").model_stats)

    def outcomes(verdict: Verdict) -> list[tuple[str, str, float | None]]:
        return [(stage.name, stage.outcome, stage.probability) for stage in verdict.stages]

    with RoadworkClient(served.grpc_url, model=TOGETHER, deadline=DEADLINE) as client:
        before = asked()
        verdict, in_turn = client.predict(jpeg), ask()
        assert (verdict.status, outcomes(verdict), verdict.boxes) == ("ok", outcomes(in_turn), in_turn.boxes)
        assert asked() == before + 1
        faults.control("centernet_nano", FAIL="out of memory")
        verdict = client.predict(jpeg)
        assert missing(verdict) == {"centernet_nano": "error"}
        assert [outcome for _, outcome, _ in outcomes(verdict)][:2] == ["answered", "partial"]
        faults.control("centernet_nano")
        wait_until(lambda: client.predict(jpeg).status == "ok", 10, "the detector is asked again")
        triton.unload_model("everything")
        try:
            assert client.predict(jpeg).status == "ok"
        finally:
            triton.load_model("everything")


def test_a_crowd_is_asked_for_together(
    ask: Ask, faults: Any, served: EmbeddedServer, triton: grpc.InferenceServerClient, jpeg: bytes
) -> None:
    """Each gets the verdict that it would get alone, in fewer calls; the one that cannot be decoded fails alone."""

    def asked() -> tuple[int, int]:
        (found,) = triton.get_inference_statistics("everything").model_stats
        return found.inference_count, found.execution_count

    in_turn = ask()
    faults.control("centernet_nano", DELAY=0.05)
    images, calls = asked()
    broken = 5
    found = crowd(served, [jpeg[: len(jpeg) // 2] if n == broken else jpeg for n in range(2 * AT_ONCE)])
    assert isinstance(found.pop(broken), InvalidImage)
    for verdict in found:
        assert isinstance(verdict, Verdict)
        assert (verdict.status, verdict.probability, verdict.boxes) == ("ok", in_turn.probability, in_turn.boxes)
    images, calls = (after - before for after, before in zip(asked(), (images, calls), strict=True))
    assert images >= 2 * AT_ONCE - 1
    assert calls < images


@pytest.mark.parametrize(("fault", "reasons"), [({"FAIL": "out of memory"}, {"error"}), ({"DELAY": 12}, {"timed_out"})])
def test_a_crowd_and_a_member_that_fails(
    ask: Ask, faults: Any, served: EmbeddedServer, jpeg: bytes, wait_until: Callable, fault: Any, reasons: set[str]
) -> None:
    faults.control("centernet_nano", **fault)
    found = crowd(served, [jpeg] * (2 * AT_ONCE))
    for verdict in found:
        assert isinstance(verdict, Verdict), verdict
        assert verdict.status == "degraded"
        assert missing(verdict)["centernet_nano"] in {*reasons, "breaker_open"}
    # Behind one that hangs, so many at once may leave others too little time on a busy machine, never all of them.
    assert any(set(missing(verdict)) == {"centernet_nano"} for verdict in found)  # type: ignore[arg-type]
    faults.control("centernet_nano")
    wait_until(lambda: all(v.status == "ok" for v in crowd(served, [jpeg])), 60, "the crowd's breaker closes")  # type: ignore[union-attr]


def test_a_crowd_whose_callers_leave(
    ask: Ask, faults: Any, served: EmbeddedServer, jpeg: bytes, wait_until: Callable
) -> None:
    """Their places are free again; those who stay get their verdicts."""
    faults.control("scene", DELAY=0.4)

    async def some_leave() -> list[Verdict | BaseException]:
        async with AsyncRoadworkClient(served.grpc_url, model=CROWD, deadline=DEADLINE) as client:
            tasks = [asyncio.create_task(client.predict(jpeg)) for _ in range(2 * AT_ONCE)]
            await asyncio.sleep(0.3)
            for task in tasks[::2]:
                task.cancel()
            return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 40)

    found = asyncio.run(some_leave())
    assert all(isinstance(one, asyncio.CancelledError) for one in found[::2])
    assert all(isinstance(one, Verdict) for one in found[1::2]), found
    faults.control("scene")
    wait_until(lambda: all(v.status == "ok" for v in crowd(served, [jpeg] * AT_ONCE)), 30, "the crowd is well")  # type: ignore[union-attr]


def crowd(served: EmbeddedServer, images: Sequence[bytes]) -> list[Verdict | Exception]:
    """Verdicts of `CROWD` on images that come at the same time."""
    with (
        RoadworkClient(served.grpc_url, model=CROWD, deadline=DEADLINE) as client,
        ThreadPoolExecutor(len(images)) as pool,
    ):

        def one(image: bytes) -> Verdict | Exception:
            try:
                return client.predict(image)
            except RoadworkError as error:
                return error

        return list(pool.map(one, images))


def test_a_detector_whose_process_dies(
    ask: Ask, served: EmbeddedServer, triton: grpc.InferenceServerClient, wait_until: Callable
) -> None:
    """This Triton does not start the process again: the verdicts stay degraded until the model is loaded anew."""
    # One that an earlier test replaced may still be on its way out.
    wait_until(lambda: len(processes_of(served, "centernet_nano")) == 1, 20, "the detector has one process")
    os.kill(processes_of(served, "centernet_nano")[0], signal.SIGKILL)
    try:
        until_open(ask, "centernet_nano", {"timed_out", "error"})
    finally:
        triton.unload_model("centernet_nano")
        wait_until(lambda: not triton.is_model_ready("centernet_nano"), 20, "the dead detector is unloaded")
        triton.load_model("centernet_nano")
    wait_until(lambda: ask().status == "ok", 30, "the detector is asked again")


def test_a_watched_detector_whose_process_dies_is_started_anew(
    ask: Ask, served: EmbeddedServer, triton: grpc.InferenceServerClient, wait_until: Callable
) -> None:
    wait_until(lambda: len(processes_of(served, "centernet_nano")) == 1, 20, "the detector has one process")
    said: list[str] = []
    watchdog = Watchdog(served, said.append)
    watchdog.look()
    assert said == []
    (victim,) = processes_of(served, "centernet_nano")
    os.kill(victim, signal.SIGKILL)

    def brought_back() -> bool:
        watchdog.look()
        return bool(said) and "serves again" in said[-1]

    wait_until(brought_back, 30, "the detector is loaded anew")
    assert said[0] == f"centernet_nano: process {victim} has died; starting it anew"
    wait_until(lambda: ask().status == "ok", 30, "the detector is asked again")
    # What somebody unloads stays away, and comes back when somebody loads it.
    told = len(said)
    triton.unload_model("yolox_nano")
    try:
        wait_until(lambda: not triton.is_model_ready("yolox_nano"), 20, "the other detector is unloaded")
        for _ in range(3):
            watchdog.look()
    finally:
        triton.load_model("yolox_nano")
    for _ in range(3):
        watchdog.look()
    assert said[told:] == []
    wait_until(lambda: ask().status == "ok", 30, "the other detector is asked again")


def test_the_scene_model_fails(ask: Ask, faults: Any) -> None:
    """Its ensemble also decodes: the canvas comes from elsewhere then."""
    faults.control("scene", FAIL="broken")
    for _ in range(MINIMUM + 1):
        verdict = ask()
        assert verdict.status == "degraded"
        assert set(missing(verdict)) == {"scene"}
        assert verdict.image is not None
        assert {answer.member for answer in verdict.answers} == ALL - {"scene"}


def test_nobody_answers(ask: Ask, faults: Any, triton: grpc.InferenceServerClient) -> None:
    for name in STAND_INS:
        faults.control(name, FAIL="broken")
    try:
        triton.unload_model("yolox_nano")
        verdict = ask()
        assert verdict.status == "degraded"
        assert verdict.decided_by is None
        assert verdict.probability == 0.5
        assert set(missing(verdict)) == ALL
    finally:
        triton.load_model("yolox_nano")


async def test_200_requests_good_bad_hurried_and_cancelled(served: EmbeddedServer, ask: Ask, jpeg: bytes) -> None:
    """All in flight at once. Each ends as it should, and none of them harms another or the members' breakers."""
    async with AsyncRoadworkClient(served.grpc_url) as client:
        tasks: list[asyncio.Task[Verdict]] = []
        for number in range(200):
            image = b"this is no image" if number % 4 == 1 else jpeg
            seconds = (0.001, 0.01, 0.1, 0.3)[number // 4 % 4] if number % 4 == 2 else 150.0
            tasks.append(asyncio.create_task(client.predict(image, deadline=seconds)))
        await asyncio.sleep(0.2)
        for task in tasks[3::4]:
            task.cancel()
        outcomes: Sequence[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            good, bad, hurried, cancelled = (number % 4 == kind for kind in range(4))
            if good:
                assert isinstance(outcome, Verdict), outcome
                assert outcome.status == "ok", outcome.missing
            elif bad:
                assert isinstance(outcome, InvalidImage), outcome
            elif hurried:
                assert isinstance(outcome, (Verdict, DeadlineExceeded)), outcome
            elif cancelled:
                assert isinstance(outcome, (Verdict, asyncio.CancelledError)), outcome
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) >= 25
    assert ask().status == "ok"


def processes_of(server: EmbeddedServer, model: str) -> list[int]:
    """Process ids of the instances of a Python model."""
    commands = {pid: command_of(pid) for pid in children(server.pid)}
    return [pid for pid, text in commands.items() if "triton_python_backend_stub" in text and f"/{model}/1/" in text]
