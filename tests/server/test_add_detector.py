"""Adding a detector or a scene model is adding a folder: nothing else in the project is touched."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rich.console import Console
from roadwork_cascade.policy import load_policy
from roadwork_cascade.taxonomy import load_taxonomy
from roadwork_client import RoadworkClient, Verdict
from roadwork_deploy.cli import main
from roadwork_deploy.errors import RepositoryError
from roadwork_deploy.profile import known_profiles, load_profile
from roadwork_deploy.repository import default_repository
from roadwork_deploy.serve import prepare
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.table import show_server
from tritonclient.utils import InferenceServerException

DETECTOR = "brightness_boxes"
SCENE_MODEL = "brightness"
FIRST_BOX = (160.0, 200.0, 320.0, 400.0)  # canvas pixels
CONFIG = """backend: "onnxruntime"
max_batch_size: 8
input [ {{ name: "canvas" data_type: TYPE_UINT8 dims: [ 640, 640, 3 ] }} ]
output [ {} ]
dynamic_batching {{ }}
"""
DETECTOR_OUTPUTS = """
  { name: "boxes" data_type: TYPE_FP32 dims: [ 100, 4 ] },
  { name: "scores" data_type: TYPE_FP32 dims: [ 100 ] },
  { name: "classes" data_type: TYPE_INT32 dims: [ 100 ] }
"""


Constants = dict[str, np.ndarray]


def add_folder(
    repository: Path,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Constants,
    shown: str,
) -> None:
    """What a person adds: `config.pbtxt` and `1/model.onnx`. `nodes` go on from `light` FP32 [batch, 1] in [0, 1]."""
    light = [
        helper.make_node("Cast", ["canvas"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Div", ["mean", "full"], ["share"]),
        helper.make_node("Reshape", ["share", "column"], ["light"]),
    ]
    constants = {"full": np.array(255, np.float32), "column": np.array([-1, 1], np.int64), **constants}
    graph = helper.make_graph(
        [*light, *nodes],
        name,
        [helper.make_tensor_value_info("canvas", TensorProto.UINT8, ["batch", 640, 640, 3])],
        list(outputs),
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    (repository / name / "config.pbtxt").write_text(CONFIG.format(shown))


def add_detector(repository: Path) -> None:
    """A cone at `FIRST_BOX` wherever it is bright: its score is the mean light of the canvas."""
    first = np.zeros((1, 100), np.float32)
    first[0, 0] = 1
    boxes = np.zeros((1, 100, 4), np.float32)
    boxes[0, 0] = FIRST_BOX
    cone = next(entry.id for entry in load_taxonomy().classes if entry.name == "cone")
    classes = np.full((1, 100), -1, np.int32)
    classes[0, 0] = cone
    nodes = [
        helper.make_node("Mul", ["light", "first"], ["scores"]),
        helper.make_node("Mul", ["scores", "zero"], ["none"]),
        helper.make_node("Unsqueeze", ["none", "last"], ["no_box"]),
        helper.make_node("Add", ["no_box", "fixed_boxes"], ["boxes"]),
        helper.make_node("Cast", ["none"], ["no_class"], to=TensorProto.INT32),
        helper.make_node("Add", ["no_class", "fixed_classes"], ["classes"]),
    ]
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 100, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 100]),
        helper.make_tensor_value_info("classes", TensorProto.INT32, ["batch", 100]),
    ]
    constants: Constants = {
        "first": first,
        "zero": np.array(0, np.float32),
        "last": np.array([2], np.int64),
        "fixed_boxes": boxes,
        "fixed_classes": classes,
    }
    add_folder(repository, DETECTOR, nodes, outputs, constants, DETECTOR_OUTPUTS)


def add_scene_model(repository: Path) -> None:
    """Presence is the mean light of the canvas."""
    outputs = [helper.make_tensor_value_info("presence", TensorProto.FLOAT, ["batch", 1])]
    shown = '{ name: "presence" data_type: TYPE_FP32 dims: [ 1 ] }'
    add_folder(repository, SCENE_MODEL, [helper.make_node("Identity", ["light"], ["presence"])], outputs, {}, shown)


def add_weightless(repository: Path) -> list[str]:
    """30 folders as the catalogue has them before anybody brings weights: detectors and tiers; their names."""
    names = []
    for number in range(20):
        names.append(f"bare_{number}")
        text = (repository / "yolox_nano" / "config.pbtxt").read_text().replace("yolox_nano", names[-1])
        (repository / names[-1]).mkdir()
        (repository / names[-1] / "config.pbtxt").write_text(text)
    for number in range(10):
        names.append(f"far_{number}")
        text = (repository / "tiny_vlm_s" / "config.pbtxt").read_text().replace("tiny_vlm_s", names[-1])
        (repository / names[-1] / "1").mkdir(parents=True)
        (repository / names[-1] / "config.pbtxt").write_text(text)
        (repository / names[-1] / "1" / "model.json").write_text(f'{{"model": "nobody/has-{number}"}}')
    return names


def wire(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "roadwork_deploy.cli", "wire", "--model-repository", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed repository, and folders without weights, which have no part in anything that follows."""
    repository = tmp_path_factory.mktemp("added") / "model_repository"
    shutil.copytree(default_repository(), repository, ignore=shutil.ignore_patterns("__pycache__"))
    add_weightless(repository)
    return repository


@pytest.fixture(scope="module")
def wired(copy: Path) -> Path:
    """The copy with two folders more, and what `roadwork-deploy wire` made of them."""
    assert wire(copy).returncode == 0  # whatever the committed repository still lacks is no matter of these tests
    before = contents(copy)
    policy = load_policy(copy / "roadwork" / "policy.yaml").to_dict()
    add_detector(copy)
    add_scene_model(copy)

    with pytest.raises(RepositoryError, match="run: roadwork-deploy wire"):
        prepare(copy, "cpu")
    assert wire(copy, "--check").returncode == 1
    done = wire(copy)
    assert done.returncode == 0, done.stderr
    assert wire(copy, "--check").returncode == 0

    after = contents(copy)
    changed = {name for name in before if after[name] != before[name]}
    wired = {
        f"{name}/{file}"
        for name in ("perception", "glance", "everything", "networks")
        for file in ("config.pbtxt", "configs/cpu.pbtxt")
    }
    assert changed == {*wired, "roadwork/policy.yaml"}
    configs = {f"configs/{load_profile(profile).config_name}.pbtxt" for profile in known_profiles()}
    assert set(after) - set(before) == {
        f"{name}/{file}" for name in (DETECTOR, SCENE_MODEL) for file in ("config.pbtxt", "1/model.onnx", *configs)
    }
    now = load_policy(copy / "roadwork" / "policy.yaml").to_dict()
    for stage in now["stages"]:  # the members of old keep their fitted numbers
        for name in (DETECTOR, SCENE_MODEL):
            stage["members"].pop(name, None)
    assert now == policy
    return copy


@pytest.fixture(scope="module")
def grown(wired: Path) -> Iterator[EmbeddedServer]:
    with prepare(wired, "cpu").server as started:
        yield started


def ask(server: EmbeddedServer, light: int) -> Verdict:
    buffer = io.BytesIO()
    Image.new("RGB", (1280, 1280), (light, light, light)).save(buffer, "PNG")
    with RoadworkClient(server.grpc_url, deadline=60) as client:
        return client.predict(buffer.getvalue(), all_stages=True)


def test_new_members_are_asked_and_answer_as_they_see(grown: EmbeddedServer) -> None:
    for light in (230, 20):
        verdict = ask(grown, light)
        assert verdict.status == "ok", verdict.missing
        answers = {answer.member: answer for answer in verdict.answers}
        assert answers[DETECTOR].stage == "perception"
        assert answers[SCENE_MODEL].stage == "glance"
        for name in (DETECTOR, SCENE_MODEL):
            assert answers[name].raw == pytest.approx(light / 255, abs=0.01)
            assert answers[name].weight == 1.0
            assert verdict.versions.models[name] == "1"
        assert {"scene", "yolox_nano", "centernet_nano"} <= set(answers)


def test_folders_without_weights_are_left_alone(
    wired: Path, grown: EmbeddedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Triton knows of them, none is loaded, and asked to load one it says what is missing and goes on serving."""
    with grpc.InferenceServerClient(grown.grpc_url) as client:
        index = {model.name: model.state for model in client.get_model_repository_index(client_timeout=10).models}
        bare = {f"bare_{number}" for number in range(20)} | {f"far_{number}" for number in range(10)}
        assert bare <= set(index)
        assert {index[name] for name in bare} == {""}
        assert index[DETECTOR] == index["yolox_nano"] == "READY"
        with pytest.raises(InferenceServerException, match="bare_0"):
            client.load_model("bare_0", client_timeout=30)
    assert ask(grown, 20).status == "ok"
    assert main(["models", "--json", "--model-repository", str(grown.repository)]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name for name, row in rows.items() if not row["ready"]} >= bare
    assert rows["far_3"]["command"] == "roadwork-export tier far_3 --weights nobody/has-3"
    assert rows[DETECTOR]["ready"]
    assert rows[DETECTOR]["kind"] == "detector"
    console = Console(record=True, width=200)
    show_server(dataclasses.replace(prepare(wired), server=grown), 1.0, console)
    count = sum(not row["ready"] for row in rows.values())
    assert f"{count} more models have no weights here: roadwork-deploy models" in console.export_text()


def test_what_a_new_detector_sees_is_drawn_in_pixels_of_the_original(grown: EmbeddedServer) -> None:
    seen = [box for box in ask(grown, 230).boxes if DETECTOR in box.seen_by]
    assert [box.class_name for box in seen] == ["cone"]
    if seen[0].seen_by == (DETECTOR,):  # else it is fused with what others saw there
        assert seen[0].box == pytest.approx([2 * side for side in FIRST_BOX], abs=1)
    assert not [box for box in ask(grown, 20).boxes if DETECTOR in box.seen_by]
