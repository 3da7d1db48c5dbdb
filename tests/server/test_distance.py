"""A distance model is a folder: its map tells how near each box is, and nothing is decided by it.

The repository is a copy of the committed one with a stand-in for `centernet_nano` that sees a cone high up and one low
down, and a distance model whose nearness is brightness.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from roadwork_cascade.policy import load_policy, parse_policy, write_policy
from roadwork_client import RoadworkClient, Verdict
from roadwork_deploy.repository import default_repository
from roadwork_deploy.serve import prepare
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.wire import TOGETHER

DEPTH = "brightness_depth"
DETECTOR = "centernet_nano"
HIGH, LOW = [240.0, 40.0, 320.0, 120.0], [240.0, 520.0, 320.0, 600.0]  # canvas pixels
SECONDS = 20.0
DETECTOR_SIGNATURE = """
input [ { name: "canvas" data_type: TYPE_UINT8 dims: [ 640, 640, 3 ] } ]
output [
  { name: "boxes" data_type: TYPE_FP32 dims: [ 100, 4 ] },
  { name: "scores" data_type: TYPE_FP32 dims: [ 100 ] },
  { name: "classes" data_type: TYPE_INT32 dims: [ 100 ] }
]
"""


def add_depth(repository: Any) -> None:
    """Nearness of a cell is its mean brightness: `canvas` UINT8 [batch, 640, 640, 3] to FP32 [batch, 80, 80]."""
    nodes = [
        helper.make_node("Cast", ["canvas"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["grey"], axes=[3], keepdims=0),
        helper.make_node("Unsqueeze", ["grey", "channel"], ["planes"]),
        helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Squeeze", ["pooled", "channel"], ["cells"]),
        helper.make_node("Div", ["cells", "full"], ["nearness"]),
    ]
    repository.add_onnx(
        DEPTH,
        nodes,
        {"canvas": (TensorProto.UINT8, ["batch", 640, 640, 3])},
        {"nearness": (TensorProto.FLOAT, ["batch", 80, 80])},
        initializers=[
            numpy_helper.from_array(np.array([1], np.int64), "channel"),
            numpy_helper.from_array(np.array(255, np.float32), "full"),
        ],
        max_batch_size=8,
    )


def wire(repository: Path, *arguments: str) -> int:
    command = [sys.executable, "-m", "roadwork_deploy.cli", "wire", "--model-repository", str(repository), *arguments]
    return subprocess.run(command, timeout=60, check=False).returncode


def short_of_nothing(path: Path) -> None:
    """Stages wait as long as a busy machine needs; breakers try again soon."""
    data = load_policy(path).to_dict()
    data["deadline_ms"] = 3 * SECONDS * 1000
    data["breaker"]["open_seconds"] = 1.0
    for stage in data["stages"]:
        stage["deadline_ms"] = SECONDS * 1000
    write_policy(parse_policy(data), path)


@pytest.fixture(scope="module")
def wired(module_repository: Any) -> Path:
    root: Path = module_repository.path
    ignored = shutil.ignore_patterns("__pycache__", "tiny_*")
    shutil.copytree(default_repository(), root, dirs_exist_ok=True, ignore=ignored)
    shutil.rmtree(root / DETECTOR)
    answer = {
        "boxes": [HIGH, LOW] + [[0.0] * 4] * 98,
        "scores": [0.9, 0.8] + [0.0] * 98,
        "classes": [0, 0] + [-1] * 98,
    }
    module_repository.add_stand_in(DETECTOR, signature=DETECTOR_SIGNATURE, ANSWER=answer)
    assert wire(root) == 0
    policy = root / "roadwork" / "policy.yaml"
    short_of_nothing(policy)
    before = load_policy(policy).to_dict()

    add_depth(module_repository)
    assert wire(root, "--check") == 1
    assert wire(root) == 0
    assert wire(root, "--check") == 0
    now = load_policy(policy).to_dict()
    stage = next(stage for stage in now["stages"] if stage["model"] == "perception")
    assert stage["members"].pop(DEPTH) == {"kind": "distance"}
    assert now == before
    return root


@pytest.fixture(scope="module")
def served(wired: Path) -> Iterator[EmbeddedServer]:
    with prepare(wired, "cpu").server as started:
        yield started


@pytest.fixture(scope="module")
def ask(served: EmbeddedServer) -> Iterator[Callable[..., Verdict]]:
    """One request about a picture that is black at the top and white at the bottom, or the other way up."""
    with RoadworkClient(served.grpc_url, deadline=4 * SECONDS) as client:

        def asked(*, upside_down: bool = False) -> Verdict:
            rows = np.linspace(0, 255, 1280).astype(np.uint8)
            pixels = np.tile((rows[::-1] if upside_down else rows)[:, None, None], (1, 1280, 3))
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
            return client.predict(buffer.getvalue(), all_stages=True)

        yield asked


def nearness(verdict: Verdict) -> dict[str, float | None]:
    """Of the two cones, by place."""
    cones = [box for box in verdict.boxes if DETECTOR in box.seen_by]
    assert len(cones) == 2
    return {"high" if box.box[1] < 640 else "low": box.nearness for box in cones}


def test_boxes_have_the_nearness_of_their_place(ask: Callable[..., Verdict]) -> None:
    verdict = ask()
    assert verdict.status == "ok", verdict.missing
    assert nearness(verdict) == {"high": pytest.approx(80 / 640, abs=0.01), "low": pytest.approx(560 / 640, abs=0.01)}
    turned = nearness(ask(upside_down=True))
    assert turned == {"high": pytest.approx(560 / 640, abs=0.01), "low": pytest.approx(80 / 640, abs=0.01)}
    assert DEPTH not in {answer.member for answer in verdict.answers}
    assert verdict.versions.models[DEPTH] == "1"


def test_it_can_be_taken_away_and_brought_back_while_serving(
    served: EmbeddedServer, ask: Callable[..., Verdict], wait_until: Callable
) -> None:
    """`networks` has it too and goes with it: its ensembles then have nobody to ask, and networks are asked alone."""
    before = ask()
    with grpc.InferenceServerClient(served.grpc_url) as triton:
        try:
            for name in (TOGETHER, DEPTH):
                triton.unload_model(name)
            wait_until(lambda: not triton.is_model_ready(DEPTH), 20, "the distance model is unloaded")
            for _ in range(8):
                verdict = ask()
                (gap,) = verdict.missing
                assert (gap.member, gap.stage) == (DEPTH, "perception")
                assert gap.reason in ("unavailable", "breaker_open")
                assert verdict.status == "ok"
                assert nearness(verdict) == {"high": None, "low": None}
                assert verdict.probability == pytest.approx(before.probability, abs=1e-5)
                assert [stage.outcome for stage in verdict.stages] == ["answered"] * 3
        finally:
            for name in (DEPTH, TOGETHER):
                triton.load_model(name, client_timeout=60)
    wait_until(lambda: not ask().missing, 30, "the distance model is asked again")
    assert None not in nearness(ask()).values()
