"""A repository with the real tiny tiers, policies that really climb, and cascades of their own beside the server's.

A tier's engine takes the better part of a minute to start, a cascade seconds: tests share the engines and load a
cascade of their own (a copy of `roadwork_stream`) with the policy and the prompts that they are about.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import queue
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from PIL import Image
from roadwork_cascade.policy import load_policy
from roadwork_cascade.policy_text import policy_text
from roadwork_client import Event, RoadworkClient, Verdict
from roadwork_deploy.repository import default_repository
from roadwork_deploy.server import EmbeddedServer
from roadwork_export import scenes
from tritonclient.utils import InferenceServerException
from watching import command_of, engines, metric, parent

SMALL, MEDIUM, REASONER = TIERS = ("tiny_vlm_s", "tiny_vlm_m", "tiny_reasoner")
MODELS = (
    *("decode", "glance", "perception", "scene", "yolox_nano", "centernet_nano"),
    *("roadwork", "roadwork_stream"),
)
START = 240.0  # seconds that engines may take to start on a busy machine
STAGE_MS = 10_000.0  # no test is about perception being slow
DEADLINE = 30.0  # seconds of a request that is not about time
OPEN_SECONDS = 2.0
MOST_TOKENS = 2048  # of REASONER's prompt and answer, so that it can talk for a while
MOST_PIXELS = 4_000_000  # of an image that MEDIUM takes


def tier(name: str, member: str, **changes: Any) -> dict[str, Any]:
    """A tier of a policy whose one member outweighs perception, so that its answer can always change the verdict."""
    kind = "reasoner" if member == REASONER else "scorer"
    weight, mass = changes.pop("weight", 30.0), changes.pop("minimum_mass", 0.2)
    return {
        "name": name,
        "deadline_ms": 20_000.0,
        "price_per_second": 0.001,
        "price_per_1000_tokens": {"input": 0.01, "output": 0.03},
        "accept": None,
        "reject": None,
        "when": None,
        "findings": False,
        "required": False,
        "members": {
            member: {"kind": kind, "weight": weight, "a": 1.0, "b": 0.0, "nothing": None, "minimum_mass": mass}
        },
        **changes,
    }


FAST, PRECISE, REASON = tier("fast", SMALL, weight=10.0), tier("precise", MEDIUM), tier("reason", REASONER)


def policy(*tiers: Mapping[str, Any], climb: Sequence[str] | None = None, **changes: Any) -> dict[str, Any]:
    """The committed policy without its bounds and its reader of signs: every image climbs, by default to all tiers."""
    data = load_policy(default_repository() / "roadwork" / "policy.yaml").to_dict()
    stages = [
        {**stage, "accept": None, "reject": None, "when": None, "deadline_ms": STAGE_MS}
        for stage in data["stages"]
        if all(member["kind"] != "text" for member in stage["members"].values())
    ]
    names = [tier["name"] for tier in tiers] if climb is None else list(climb)
    return {
        **data,
        "version": 2,
        "name": "climbing",
        "fitted": None,
        "deadline_ms": DEADLINE * 1000,
        "all_stages": False,
        "breaker": {"window": 4, "minimum": 2, "failure_rate": 0.5, "open_seconds": OPEN_SECONDS},
        "stages": stages,
        "absent_tiers": "degrade",
        "budget": {"tokens": None, "cost": None},
        "routes": [{"name": "all", "when": None, "climb": names}],
        "tiers": list(tiers),
        **changes,
    }


def prompt(model: str, **changes: Any) -> dict[str, Any]:
    """A tier's committed prompt.json, changed. `sampling` is merged; None leaves a key out."""
    data = json.loads((default_repository() / model / "prompt.json").read_text())
    sampling = {**data["sampling"], **changes.pop("sampling", {})}
    data |= changes | {"sampling": {key: value for key, value in sampling.items() if value is not None}}
    return {key: value for key, value in data.items() if value is not None}


def talkative(letters: int = 3000) -> dict[str, Any]:
    """A reasoner's prompt.json that has it think for seconds before it answers as it should."""
    data = prompt(REASONER)
    schema = json.loads(data["sampling"]["structured_outputs"])
    schema["json"]["properties"]["thoughts"]["minLength"] = letters
    sampling = {"structured_outputs": json.dumps(schema), "max_tokens": 1700}
    return prompt(REASONER, sampling=sampling)


def street(width: int, height: int) -> bytes:
    """A JPEG of a rendered work zone."""
    scene = scenes.render_scene(79_000_001, roadwork=True, width=640, height=360)
    file = io.BytesIO()
    Image.fromarray(scene.image).resize((width, height)).save(file, "JPEG", quality=90)
    return file.getvalue()


def build(path: Path) -> None:
    """The committed repository with tiers, `policy` and one instance of `roadwork`: one memory, one set of breakers."""
    kept = (*MODELS, *TIERS)
    ignored = shutil.ignore_patterns("__pycache__", "configs")
    for name in kept:
        shutil.copytree(default_repository() / name, path / name, ignore=ignored)
    _write(path / "roadwork" / "policy.yaml", policy_text(policy(FAST, PRECISE)))
    config = path / "roadwork" / "config.pbtxt"
    text = config.read_text()
    assert "count: 4" in text
    config.write_text(text.replace("count: 4", "count: 1"))
    with (path / MEDIUM / "config.pbtxt").open("a") as file:
        file.write(f'parameters {{ key: "max_image_pixels" value: {{ string_value: "{MOST_PIXELS}" }} }}\n')
    settings = path / REASONER / "1" / "model.json"
    one_slot = {"max_num_seqs": 1, "max_model_len": MOST_TOKENS}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **one_slot}))


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


class TierServer:
    """A server of that repository that has just been started; `early` is what it said before its tiers had joined."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.image = street(640, 360)
        self.lost: str | None = None  # why the tiers, or the server, cannot be had back
        with self.client() as client:
            self.early = client.predict(self.image)
        self.early_states = {name: tier.state for name, tier in server.tiers.items()}

    def triton(self) -> grpc.InferenceServerClient:
        """A client, to be closed."""
        return grpc.InferenceServerClient(self.server.grpc_url)

    def client(self, **settings: Any) -> RoadworkClient:
        """A client, to be closed."""
        return RoadworkClient(self.server.grpc_url, deadline=DEADLINE, **settings)

    # Cascades ---------------------------------------------------------------------------------------------------------
    def load(self, name: str, rules: Mapping[str, Any], prompts: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Load a copy of `roadwork_stream` with a policy; `prompts` are tiers' prompt.json for it alone.

        A cascade reads prompts when it is loaded, so that the tiers' own are back right after.
        """
        root = self.server.repository
        folder = root / name
        if not folder.exists():
            shutil.copytree(root / "roadwork_stream", folder)
        config = (root / "roadwork_stream" / "config.pbtxt").read_text().replace('"roadwork_stream"', f'"{name}"')
        own = 'key: "policy" value { string_value: "%s" }'
        assert own % "" in config
        _write(folder / "config.pbtxt", config.replace(own % "", own % f"{name}.yaml"))
        _write(root / "roadwork" / f"{name}.yaml", policy_text(dict(rules)))
        before = {model: (root / model / "prompt.json").read_text() for model in prompts or ()}
        try:
            for model, data in (prompts or {}).items():
                _write(root / model / "prompt.json", json.dumps(data))
            with self.triton() as triton:
                triton.load_model(name, client_timeout=60)
        finally:
            for model, text in before.items():
                _write(root / model / "prompt.json", text)

    @contextlib.contextmanager
    def cascade(
        self, name: str, *tiers: Mapping[str, Any], prompts: Mapping[str, Mapping[str, Any]] | None = None, **rules: Any
    ) -> Iterator[Cascade]:
        """A cascade of these tiers, with breakers and a memory of its own."""
        self.load(name, policy(*tiers, **rules), prompts)
        try:
            with self.client(stream_model=name) as client:
                yield Cascade(client)
        finally:
            with self.triton() as triton:
                triton.unload_model(name, client_timeout=30)

    # Tiers ------------------------------------------------------------------------------------------------------------
    def restore(self) -> None:
        """Have all tiers answer, also where an earlier test has unloaded or killed one.

        A tier whose engine starts again by itself is waited for; one that is unloaded is loaded. What cannot be had
        back is told at once to the tests that follow, which would wait as long, one after another.
        """
        if self.lost is None:
            self.lost = self._lost()
        assert self.lost is None, self.lost

    def _lost(self) -> str | None:
        until = time.monotonic() + START
        settled = self.server.wait_for_tiers(START)
        if {tier.state for tier in settled.values()} != {"ready"}:
            return str(settled)
        for name in TIERS:
            while self.server.running and not self.answers(name):
                if time.monotonic() > until:
                    return f"{name} does not answer; the server's log ends so:\n{self.server.log_text()[-4000:]}"
                self._load_if_unloaded(name, until)
        if not self.server.running:
            return f"tritonserver has ended; its log ends so:\n{self.server.log_text()[-4000:]}"
        return None

    def _load_if_unloaded(self, name: str, until: float) -> None:
        time.sleep(0.2)
        with self.triton() as triton, contextlib.suppress(InferenceServerException):  # why not is in the log
            index = triton.get_model_repository_index(client_timeout=10)
            # One that does not come to an end of its unloading can be loaded all the same.
            if "READY" not in {model.state for model in index.models if model.name == name}:
                triton.load_model(name, client_timeout=max(1.0, until - time.monotonic()))

    def ask_tier(self, model: str, text: str, image: bytes | None, sampling: Mapping[str, Any]) -> dict[str, Any]:
        """One question to a tier itself: name -> first element of each output. Raises Triton's error."""
        tensors: dict[str, Any] = {"text_input": text.encode(), "sampling_parameters": json.dumps(sampling).encode()}
        if image is not None:
            tensors["image"] = base64.b64encode(image)
        flags = ("exclude_input_in_output", "return_logprobs", "return_num_input_tokens", "return_num_output_tokens")
        tensors |= dict.fromkeys(flags, True)
        inputs = []
        for key, value in tensors.items():
            inputs.append(grpc.InferInput(key, [1], "BOOL" if value is True else "BYTES"))
            inputs[-1].set_data_from_numpy(np.array([value], bool if value is True else object))
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        with self.triton() as triton:
            triton.start_stream(lambda result, error: answers.put((result, error)), stream_timeout=DEADLINE)
            triton.async_stream_infer(model, inputs)
            result, error = answers.get(timeout=DEADLINE + 1)
            # Not cancelled: Triton 2.51 can keep such a request, and its model then does not unload.
            triton.stop_stream()
        if error is not None:
            raise error
        return {output.name: result.as_numpy(output.name)[0] for output in result.get_response().outputs}

    def answers(self, model: str) -> bool:
        """Whether a tier is loaded and its engine answers."""
        try:
            self.ask_tier(model, "?", None, {"max_tokens": 1})
        except Exception:  # not loaded, dead or on its way back: all the same here
            return False
        return True

    def engine(self, model: str) -> int | None:
        """Process id of a tier's engine."""
        for pid in engines(self.server):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                if f"/{model}/" in command_of(parent(pid)):
                    return pid
        return None

    def metric(self, name: str, **labels: str) -> float:
        """See `watching.metric`."""
        return metric(self.server, name, **labels)

    def busy(self, model: str) -> float:
        """Requests in a tier's engine, running or waiting."""
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        return sum(self.metric(name, model=model) for name in names)


class Cascade:
    """Asks one cascade."""

    def __init__(self, client: RoadworkClient) -> None:
        self.client = client

    def events(self, image: bytes, **options: Any) -> Iterator[Event]:
        return self.client.stream(image, **options)

    def ask(self, image: bytes, *, deadline: float = DEADLINE, **options: Any) -> Verdict:
        """A verdict, checked for what holds in any case."""
        began = time.monotonic()
        events = list(self.client.stream(image, deadline=deadline, **options))
        assert time.monotonic() - began < deadline
        verdict = events[-1].verdict
        assert verdict is not None
        check(verdict)
        assert [event.tier for event in events if event.event == "tier"] == list(verdict.tiers)
        assert [event.sequence for event in events] == list(range(len(events)))
        assert [event.progress for event in events] == sorted(event.progress for event in events)
        return verdict


def check(verdict: Verdict) -> None:
    """`tiers`, `stages`, `answers`, `missing` and the sums of a verdict tell the same story."""
    asked = [entry for entry in verdict.tiers if entry.outcome != "skipped"]
    lines = {stage.name: stage for stage in verdict.stages}
    said = {answer.stage: answer for answer in verdict.answers}
    gaps = {gap.stage: gap for gap in verdict.missing}
    for entry in verdict.tiers:
        assert (entry.outcome == "skipped") == (entry.reason is not None)
        assert (entry.outcome == "answered") == (entry.name in said)
        assert (entry.outcome in ("failed", "timed_out")) <= (entry.name in gaps)
        assert (entry.name in lines) == (entry in asked)
    for entry in asked:
        assert lines[entry.name].outcome == entry.outcome
        assert (lines[entry.name].milliseconds, lines[entry.name].cost) == (entry.milliseconds, entry.cost)
        if entry.outcome == "answered":
            assert entry.raw is not None
            assert entry.mass is not None
            assert (said[entry.name].raw, said[entry.name].probability) == (entry.raw, entry.probability)
            assert 0.0 <= entry.raw <= 1.0
            assert 0.0 < entry.mass <= 1.0
            assert entry.tokens.input > 50  # the image's tokens are among them
            assert entry.tokens.output >= 1
    assert verdict.tokens.input == sum(entry.tokens.input for entry in verdict.tiers)
    assert verdict.tokens.output == sum(entry.tokens.output for entry in verdict.tiers)
    assert verdict.cost >= 0
    assert abs(verdict.cost - sum(stage.cost for stage in verdict.stages)) <= 1e-4 * verdict.cost
    assert verdict.milliseconds >= sum(entry.milliseconds for entry in verdict.tiers)


def outcomes(verdict: Verdict) -> dict[str, str]:
    """Tier -> how it went, or why it was left out."""
    return {entry.name: entry.reason or entry.outcome for entry in verdict.tiers}
