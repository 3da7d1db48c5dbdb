"""Peers: the work that all of them do, how they are started and ended, and what is made of the blocks."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roadwork_bench import cli, peers
from roadwork_bench.errors import BenchError
from roadwork_bench.inprocess import InProcessEngine
from roadwork_bench.overhead import read_images
from roadwork_bench.peering import environment
from roadwork_bench.peering.accuracy import staged_accuracy
from roadwork_bench.peering.client import arrivals
from roadwork_bench.peering.figures import quantile_ratio, rate_figures, saturated_figures, side_figures
from roadwork_bench.peering.keeping import marked
from roadwork_bench.peering.openai_client import make_body, read_tokens
from roadwork_bench.peering.openai_side import OpenAISide
from roadwork_bench.peering.rounds import Measured, Plan, idle_shares, measure
from roadwork_bench.peering.servers import Peer, PeerServer, choose_peers, known_peers
from roadwork_bench.peering.sides import BARE, OURS, STAGED, Expected, ServerSide
from roadwork_bench.peering.summary import goals, summary
from roadwork_bench.peers_apps.looking import Looker
from roadwork_bench.tiers.folder import read_tier
from roadwork_bench.tiers.timing import Requests
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.policy import Policy, parse_policy, write_policy

ROOT = Path(__file__).resolve().parents[3]
THREADS = {"scene": 1, "eye": 1}


@pytest.fixture
def ready(repository: Path, small_policy: Policy) -> Path:
    """`repository` with a policy."""
    (repository / "roadwork").mkdir()
    write_policy(small_policy, repository / "roadwork" / "policy.yaml")
    return repository


# The work ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("several", [False, True])
def test_a_peer_says_what_the_cascade_says(ready: Path, small_policy: Policy, photographs: Path, several: bool) -> None:
    from concurrent.futures import ThreadPoolExecutor

    looker = Looker(ready, THREADS)
    with InProcessEngine(ready) as engine, ThreadPoolExecutor(2) as executor:
        for image in read_images(photographs)[::8]:
            verdict = asyncio.run(Cascade(small_policy, engine).run(image, all_stages=True, tiers=False))
            found = looker.look(image, executor if several else None)
            assert found["probability"] == pytest.approx(verdict["probability"], abs=1e-4)  # verdicts are rounded
            assert (found["roadwork"], found["boxes"]) == (verdict["roadwork"], verdict["boxes"])


# A peer, end to end --------------------------------------------------------------------------------------------------
def test_fastapi_answers_as_the_bare_models_do_and_nothing_is_left(
    ready: Path, photographs: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fastapi", reason="FastAPI comes with vLLM, which is not installed")
    pytest.importorskip("uvicorn", reason="uvicorn comes with vLLM, which is not installed")
    images = read_images(photographs)[::8]
    assert len(images) == 3
    looker = Looker(ready, THREADS)
    expected = Expected([looker.look(image)["probability"] for image in images])
    assert len({round(p, 3) for p in expected.probabilities}) > 1
    (tmp_path / "images").write_bytes(pickle.dumps(images))
    peer = known_peers(2)["fastapi"]
    settings = {"workers": 2, "threads": 1}
    server = PeerServer(peer, settings, Path(sys.executable), ready, THREADS, images[0], tmp_path)
    try:
        client = {"kind": "http", "url": server.url}
        side = ServerSide("fastapi", client, tmp_path / "images", expected, server.cpu_seconds, tmp_path)
        try:
            plan = Plan(4, 0.4, {"some": {"fastapi": 20.0}}, 0.5, 2)
            found = measure({"fastapi": side}, plan, {})
            wrong = ServerSide("wrong", client, tmp_path / "images", Expected([0.5] * 3), server.cpu_seconds, tmp_path)
            try:
                with pytest.raises(BenchError, match=r"wrong says .* they do not do the same work"):
                    wrong.saturate(1, 0.1)
            finally:
                wrong.close()
        finally:
            side.close()
        assert len(server.pids()) >= 3
        status = _post(server.url, b"no image")
        assert status == 400
    finally:
        server.close()
    assert server.pids() == []
    blocks = found.saturated["fastapi"]
    assert len(blocks) == len(found.rated["some"]["fastapi"]) == 2
    assert all(len(block.ends) >= 4 and block.latencies.min() > 0 for block in blocks)
    figures = side_figures(blocks)
    assert figures["milliseconds_p50"] <= figures["milliseconds_p99"]
    assert figures["cpu_milliseconds_per_image"] > 0
    assert figures["client_cpu_milliseconds_per_image"] > 0
    assert figures["others_share_of_a_core"] == 0
    assert side.largest_difference < 1e-6
    assert len(found.rated["some"]["fastapi"][0].ends) == len(arrivals(20.0, 0.5, 1000))


def _post(url: str, data: bytes) -> int:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, data, {"Content-Type": "application/octet-stream"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit('no such framework')", "Made up ended with status 1: no such framework"),
        ("import time; print('still loading', flush=True); time.sleep(60)", "did not start within 1.5 s"),
    ],
)
def test_a_peer_that_does_not_start_is_told_with_its_log_and_is_not_left(
    ready: Path, tmp_path: Path, code: str, words: str
) -> None:
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); {code}"
    peer = Peer("made_up", "Made up", ("-c", child), ())
    with pytest.raises(BenchError, match=words) as error:
        PeerServer(peer, {}, Path(sys.executable), ready, THREADS, b"", tmp_path, seconds=1.5)
    assert "\n" not in str(error.value)
    (folder,) = tmp_path.glob("made_up-*")
    mark = str(folder / "job.json").encode()
    assert not [path for path in Path("/proc").glob("[0-9]*/environ") if mark in _read(path)]


def test_a_peer_ends_with_a_command_that_is_killed(tmp_path: Path) -> None:
    """Killed as by a machine short of memory: no handler of its own can run."""
    mark = str(tmp_path / "job.json")
    started = "subprocess.Popen(['sleep', '60'], env={**os.environ, VARIABLE: sys.argv[1]}, start_new_session=True)"
    code = f"""
import os, subprocess, sys
from roadwork_bench.peering.keeping import VARIABLE, Keeper
keeper = Keeper(sys.argv[1])
{started}
print("up", flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code, mark], stdout=subprocess.PIPE, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (-9, b"up\n")
    end = time.monotonic() + 10
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.05)
    assert marked(mark) == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# Bad cases -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "fastapi,flask"], "--only flask: no such peer; known are fastapi, litserve, bentoml, ray"),
        (["--rates", "0.5,70"], "--rates is a list of shares between 0 and 1"),
        (["--rates", "half"], "--rates is a list of shares between 0 and 1"),
        (["--rounds", "0"], "--rounds must be over 0"),
    ],
)
def test_bad_arguments_are_one_line(words: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["peers", *words]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told


def test_every_peer_has_candidates_that_differ() -> None:
    for cores in (1, 2, 8):
        for peer in choose_peers(None, cores):
            assert len({json.dumps(dict(settings)) for settings in peer.candidates}) >= 3


def test_a_folder_of_something_else_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BenchError, match="holds something else than an environment; name another one"):
        environment.ensure(print, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_environment_that_cannot_be_made_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Really pip, in a real environment, which is told that there is no index."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        BenchError, match=r"pip could not install the peers .*command: pip install --constraint"
    ) as error:
        environment.ensure(lambda line: None, tmp_path / "peers")
    assert "onnxruntime==" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "peers").exists()


def test_constraints_leave_what_computes_to_this_environment() -> None:
    text = environment.CONSTRAINTS.read_text()
    pinned = {line.split("==")[0].lower() for line in text.splitlines() if "==" in line}
    assert pinned.isdisjoint(environment.SAME)
    assert {name.partition("[")[0] for name in environment.FRAMEWORKS} <= pinned
    assert "://" not in text


# Figures -------------------------------------------------------------------------------------------------------------
def block(each: float, count: int = 60, in_flight: int = 1) -> Requests:
    """Requests of `each` seconds, `in_flight` at a time without a gap."""
    begins = [each * (index // in_flight) for index in range(count)]
    return Requests(begins, [begin + each for begin in begins], in_flight, {"cpu_milliseconds_per_image": 5.0})


def test_throughput_is_compared_with_neighbours() -> None:
    machine = [1.0, 1.0, 3.0, 1.0, 0.5]  # a slow minute hits every side of its round
    made: dict[str, Callable[[float], Requests]] = {
        BARE: lambda s: block(0.1 * s),
        OURS: lambda s: block(0.125 * s),
        "quick": lambda s: block(0.12 * s),
        "slow": lambda s: block(0.2 * s),
    }
    found = saturated_figures(
        {name: [make(s) for s in machine] for name, make in made.items()}, BARE, OURS, ["quick", "slow"]
    )
    assert found["best_peer"] == "quick"
    assert found["to_bare"][OURS]["median"] == pytest.approx(0.8)
    assert found["to_bare"][OURS]["interval_95"] == pytest.approx([0.8, 0.8])
    assert found["ours_to_each_peer"]["slow"]["median"] == pytest.approx(1.6)
    assert found["to_best_peer"][OURS]["median"] == pytest.approx(0.96)
    assert found["sides"][BARE]["images_per_second"] == pytest.approx(10, rel=0.02)


def test_tails_are_compared_over_the_same_rounds() -> None:
    rng = np.random.default_rng(3)
    rounds = [rng.exponential(0.1, 80) for _ in range(6)]
    ours = [Requests([0.0] * 80, list(r), 1) for r in rounds]
    theirs = [Requests([0.0] * 80, list(2 * r), 1) for r in rounds]
    found = quantile_ratio(ours, theirs, 0.99)
    assert found == {"median": 0.5, "interval_95": [0.5, 0.5]}
    both = rate_figures({OURS: ours, "twice": theirs}, OURS, ["twice"])
    assert both["ours_to_each_peer_p50"]["twice"]["median"] == 0.5
    low, high = both["sides"][OURS]["milliseconds_p99_interval_95"]
    assert low <= both["sides"][OURS]["milliseconds_p99"] <= high


def test_goals_are_those_of_the_worst_comparison() -> None:
    def times(value: float) -> dict[str, Any]:
        return {"median": value, "interval_95": [value, value]}

    report: dict[str, Any] = {
        "saturated": {"to_bare": {OURS: times(0.93)}, "best_peer": "a", "ours_to_each_peer": {"a": times(0.96)}},
        "rates": [{"rate": "0.7 of bare", "ours_to_each_peer_p99": {"a": times(0.8), "b": times(1.1)}}],
        "stages_on": {
            "to_best_peer": times(1.7),
            "accuracy": {"as_served": {"mcnemar": {"p": 0.01}, "not_worse": False}},
        },
    }
    found = goals(report)
    assert [goal["reached"] for goal in found] == [True, False, False, True, False]
    assert "quickest peer's (b)" in found[2]["what"]
    alone = {**report, "saturated": {**report["saturated"], "best_peer": None}}
    assert len(goals(alone)) == 1


class Failing:
    """A side that answers so many blocks and then no more."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks

    def saturate(self, in_flight: int, seconds: float) -> Requests:
        self.left -= 1
        if self.left < 0:
            raise BenchError("it answers no more")
        return block(0.1)

    def cpu_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


def test_a_peer_that_fails_in_a_round_is_left_out_and_the_others_go_on() -> None:
    plan = Plan(8, 1.0, {}, 1.0, 3, ["ray", "fastapi"])
    failures: dict[str, str] = {}
    found = measure({BARE: Failing(3), OURS: Failing(3), "ray": Failing(1), "fastapi": Failing(3)}, plan, failures)
    assert failures == {"ray": "it answers no more"}
    assert {name: len(blocks) for name, blocks in found.saturated.items()} == {BARE: 3, OURS: 3, "fastapi": 3}
    with pytest.raises(BenchError, match="it answers no more"):
        measure({BARE: Failing(3), OURS: Failing(1)}, plan, {})


def test_the_report_is_whole_and_can_be_read() -> None:
    speeds = {BARE: 0.1, OURS: 0.105, "fastapi": 0.104, STAGED: 0.06}
    saturated = {name: [block(each) for _ in range(3)] for name, each in speeds.items()}
    for name, blocks in saturated.items():
        for one in blocks:
            one.measured["client_cpu_milliseconds_per_image"] = 1.0
            one.measured.update({"stages_asked": 1.4} if name == STAGED else {})
    rates = {"0.7 of bare": {OURS: 7.0, "fastapi": 7.0}}
    rated = {"0.7 of bare": {name: [block(speeds[name]) for _ in range(3)] for name in (OURS, "fastapi")}}
    found = peers.figures(Measured(saturated, rated), Plan(8, 1.0, rates, 1.0, 3, ["fastapi"]))
    report = {**found, "sides": {"fastapi": {"settings": {"workers": 2}}}, "failures": {"ray": "it ended"}}
    report["goals"] = goals(report)
    assert report["stages_on"]["to_best_peer"]["median"] == pytest.approx(0.104 / 0.06, rel=1e-3)
    assert report["stages_on"]["to_all_stages"]["median"] == pytest.approx(0.105 / 0.06, rel=1e-3)
    assert report["stages_on"]["stages_asked"] == 1.4
    assert STAGED not in report["saturated"]["sides"]
    assert [goal["reached"] for goal in report["goals"]] == [True, True, False, True]
    text = summary(report)
    assert "fastapi (workers=2): 9.6" in text
    assert "ray was not measured: it ended" in text
    assert json.loads(json.dumps(report)) == report


def test_arrivals_are_those_of_a_poisson_process() -> None:
    times = np.array(arrivals(50.0, 200.0, 7))
    gaps = np.diff(times)
    assert arrivals(50.0, 200.0, 7) == times.tolist() != arrivals(50.0, 200.0, 8)
    assert times[0] > 0
    assert times[-1] < 200
    assert len(times) == pytest.approx(10_000, rel=0.04)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_what_idle_sides_take_is_a_share_of_a_core() -> None:
    class Busy:
        name, spent = "busy", 0.0

        def saturate(self, in_flight: int, seconds: float) -> Requests:
            raise AssertionError

        def cpu_seconds(self) -> float:
            self.spent += 0.05
            return self.spent

        def close(self) -> None:
            """Nothing to end."""

    found = idle_shares({"busy": Busy()}, 0.1)["busy"]
    assert 0 < found <= 0.5 + 1e-6
    assert STAGED.partition(",")[0] == OURS  # two sides of one server: neither counts as idle beside the other


def test_accuracy_of_leaving_early_is_judged_without_tiers(
    make_policy: Callable[..., Policy], make_table: Callable[..., Any], tmp_path: Path
) -> None:
    make_table(drives=12, frames=10, information=1.0).save(tmp_path / "table.json")
    data = make_policy().to_dict()
    data["stages"][0] |= {"accept": 0.6, "reject": 0.4}  # nearly all end with what the scene model says
    found = staged_accuracy(tmp_path / "table.json", parse_policy(data))
    assert set(found) == {"out_of_fold", "as_served"}
    for judged in found.values():
        mcnemar = judged["mcnemar"]
        assert judged["images"] == 120
        assert 0 < judged["asked"]["perception"] <= 1
        assert judged["not_worse"] == (
            mcnemar["only_staged_right"] >= mcnemar["only_all_stages_right"] or mcnemar["p"] >= 0.05
        )
    served = found["as_served"]
    assert served["asked"]["perception"] < 0.5
    assert served["mcc"]["staged"] < served["mcc"]["all_stages"]
    assert served["mcnemar"]["only_staged_right"] < served["mcnemar"]["only_all_stages_right"]


# Tiers ---------------------------------------------------------------------------------------------------------------
def test_a_tier_is_asked_and_read_as_vllms_server_has_it() -> None:
    body = make_body("tiny", {"temperature": 0, "max_tokens": 1, "logprobs": 20, "allowed_token_ids": [3, 4]})
    assert body["top_logprobs"] == 20
    assert body["logprobs"] is True
    assert body["allowed_token_ids"] == [3, 4]
    tokens = [{"token": "token_id:3", "logprob": -0.5}, {"token": "token_id:4", "logprob": -1.5}]
    data = {"choices": [{"logprobs": {"content": [{**tokens[0], "top_logprobs": tokens}]}}]}
    assert read_tokens(data) == {"3": -0.5, "4": -1.5}


def test_a_question_that_is_not_in_the_prompt_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tier_peers", "tiny_vlm_s", "--question", "Any cones?"]) == 2
    assert "--question: 'Any cones?' is not once in the prompt of tiny_vlm_s" in capsys.readouterr().err


def test_a_server_of_vllm_that_ends_is_told_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadwork_bench.peering.openai_side.SERVER", "no_such_server")
    subject = read_tier(ROOT / "model_repository", "tiny_vlm_s")
    with pytest.raises(BenchError, match=r"vLLM's server ended with status 1: .*no_such_server"):
        OpenAISide(subject, "Roadwork?", True, {}, 30, tmp_path)
