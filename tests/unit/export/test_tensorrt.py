"""TensorRT plans: profiles, names, messages and folders; builds by TensorRT for RTX, which needs no GPU."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import types
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

pytest.importorskip("torch", reason="the export extra is not installed")

from roadwork_export import plans, tensorrt
from roadwork_export.commands import tensorrt as command
from roadwork_export.errors import ExportError
from roadwork_export.folder import config
from roadwork_export.tensorrt import Plan, Profile, Settings, plan_name, program_arguments, short

from .families.rtx import assert_tensorrt_takes

REPOSITORY = Path(__file__).parents[3] / "model_repository"
SETTINGS = Settings(Profile(1, 8, 32))


def scene(*nodes: onnx.NodeProto, path: Path, precision: str | None = None) -> Path:
    """A small scene model; `nodes` turn `core/in` [batch, 3] into `core/out` [batch, 1]."""
    around = [
        helper.make_node("Cast", ["canvas"], ["float"], name="pre/cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["core/in"], name="pre/mean", axes=[1, 2], keepdims=0),
        *(nodes or [helper.make_node("MatMul", ["core/in", "core/weight"], ["core/out"], name="core/product")]),
        helper.make_node("Sigmoid", ["core/out"], ["presence"], name="decode/sigmoid"),
    ]
    graph = helper.make_graph(
        around, "scene",
        [helper.make_tensor_value_info("canvas", TensorProto.UINT8, ["batch", 640, 640, 3])],
        [helper.make_tensor_value_info("presence", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor("core/weight", TensorProto.FLOAT, [3, 1], [0.1, -0.2, 0.1])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    if precision:
        helper.set_model_props(model, {"recipe": f'{{"precision": "{precision}"}}'})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A served scene model with what `onnx` leaves in a folder."""
    found = tmp_path / "repository" / "small"
    scene(path=found / "1" / "model.onnx", precision="fp32")
    facts = {"licence": "Apache-2.0", "source": 'a "quoted" path', "pool_weight": "1"}
    (found / "config.pbtxt").write_text(config("small", "scene", facts))
    return found


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "gpu_name", lambda: "NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize(
    ("batches", "wanted"),
    [
        ([1, 8, 32], (1, 8, 32)),
        ([32, 8, 1], (1, 8, 32)),
        ([4], (1, 4, 4)),
        ([1, 16], (1, 16, 16)),
        ([8, 8, 2, 4], (1, 4, 8)),
    ],
)
def test_a_profile_goes_from_one_over_the_middle_to_the_largest_batch(
    batches: list[int], wanted: tuple[int, int, int]
) -> None:
    found = Profile.of(batches)
    assert (found.low, found.best, found.high) == wanted
    assert found.shapes()[2] == (wanted[2], 640, 640, 3)


@pytest.mark.parametrize("batches", [[], [0, 8], [-1], [257]])
def test_batches_that_make_no_sense_are_refused(batches: list[int]) -> None:
    with pytest.raises(ExportError, match="from 1 to 256"):
        Profile.of(batches)


def test_the_name_of_a_plan_tells_version_gpu_and_precision() -> None:
    name = plan_name(short("10.13.3.9"), "NVIDIA H100 80GB HBM3", "fp16")
    assert name == "model_trt10.13_nvidia-h100-80gb-hbm3_fp16.plan"
    assert [tensorrt.banner_version(v) for v in ("101303", "8601", "110400")] == ["10.13", "8.6", "11.4"]


def test_without_tensorrt_the_message_has_the_containers_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "at_hand", lambda: None)
    with pytest.raises(ExportError) as error:
        plans.make_plan(folder, "fp32", Settings(Profile(1, 8, 32), 4.0))
    text = str(error.value)
    assert "TensorRT is not installed here" in text
    assert f"docker run --rm --gpus all -v {folder}/1:/model nvcr.io/nvidia/tritonserver:" in text
    assert "trtexec --onnx=/model/model.onnx --saveEngine=/model/model_" in text
    for name, batch in (("min", 1), ("opt", 8), ("max", 32)):
        assert f"--{name}Shapes=canvas:{batch}x640x640x3" in text
    assert "--stronglyTyped" in text
    assert "--memPoolSize=workspace:4096M" in text
    assert "roadwork-export tensorrt small" in text
    assert "--precision" not in text

    with pytest.raises(ExportError, match="roadwork-export onnx MODEL --weights WEIGHTS --precision fp16 --as small"):
        plans.make_plan(folder, "fp16", SETTINGS)
    assert sorted(p.name for p in folder.iterdir()) == ["1", "config.pbtxt"]


def test_the_container_is_of_the_triton_that_the_project_deploys() -> None:
    dockerfile = (REPOSITORY.parent / "deploy" / "container" / "Dockerfile").read_text()
    assert f"ARG TRITON={tensorrt.IMAGE.rsplit(':')[-1]}" in dockerfile


def test_a_plan_takes_the_place_of_the_onnx_file_in_the_config(
    folder: Path, h100: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "at_hand", lambda: lambda path, settings, tell: Plan(b"plan", "10.13"))
    before = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    made = plans.make_plan(folder, "fp32", SETTINGS)
    assert made == folder / "1" / "model_trt10.13_nvidia-h100-80gb-hbm3_fp32.plan"
    assert made.read_bytes() == b"plan"
    assert (folder / "1" / "model.onnx").is_file()
    after = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (after.platform, after.backend) == ("tensorrt_plan", "")
    assert after.default_model_filename == made.name
    assert after.max_batch_size == 32
    assert (after.name, after.input, after.output, after.parameters) == (
        before.name, before.input, before.output, before.parameters,
    )  # fmt: skip
    # Once more, with another precision: the folder keeps both plans and serves the last.
    monkeypatch.setattr(plans, "in_precision", lambda model, *rest: model)
    other = plans.make_plan(folder, "fp16", Settings(Profile(1, 2, 4)))
    assert made.is_file()
    assert other.name in (folder / "config.pbtxt").read_text()


def test_a_build_that_fails_changes_nothing(folder: Path, h100: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, settings: Settings, tell: Any) -> Plan:
        raise ExportError("out of memory")

    monkeypatch.setattr(plans, "at_hand", lambda: fails)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(ExportError, match="out of memory"):
        plans.make_plan(folder, "fp16", SETTINGS)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["small"]


def test_half_precision_is_made_of_the_float_file_and_int8_is_not(
    folder: Path, h100: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def watch(path: Path, settings: Settings, tell: Any) -> Plan:
        seen.extend(t.data_type for t in onnx.load(str(path)).graph.initializer if t.name == "core/weight")
        return Plan(b"", "11.0")

    monkeypatch.setattr(plans, "at_hand", lambda: watch)
    plans.make_plan(folder, "fp16", SETTINGS)
    assert seen == [TensorProto.FLOAT16]
    with pytest.raises(ExportError, match=r"is fp32 and cannot be made int8.*\n.*--images"):
        plans.make_plan(folder, "int8", SETTINGS)


def test_a_folder_of_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(ExportError, match=r"nothing.1.model\.onnx: not there; roadwork-export onnx nothing"):
        plans.make_plan(folder.with_name("nothing"), "fp16", SETTINGS)
    (folder / "config.pbtxt").write_text('name: "small" output [ { name: "words" } ]')
    with pytest.raises(ExportError, match="its outputs are words"):
        plans.make_plan(folder, "fp16", SETTINGS)


def test_trtexec_builds_where_there_is_no_package(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "trtexec"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$@" > {tmp_path}/said\n'
        'for word in "$@"; do case $word in --saveEngine=*) echo -n plan > ${word#--saveEngine=};; esac; done\n'
        'echo "&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9] # trtexec"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(tensorrt.importlib.util, "find_spec", lambda name: None)
    build = tensorrt.at_hand()
    assert build is not None
    cache = tmp_path / "caches" / "timing.cache"
    plan = build(folder / "1" / "model.onnx", Settings(Profile(1, 8, 32), None, cache), print)
    assert plan == Plan(b"plan", "10.13")
    said = (tmp_path / "said").read_text()
    assert f"--timingCacheFile={cache}" in said
    assert "--optShapes=canvas:8x640x640x3" in said

    program.write_text("#!/bin/sh\necho '[E] node core/product: no implementation'\nexit 1\n")
    with pytest.raises(ExportError, match="no implementation"):
        build(folder / "1" / "model.onnx", SETTINGS, print)


def test_the_command_builds_or_takes_a_plan(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = argparse.ArgumentParser()
    command.add(top.add_subparsers())
    built = tmp_path / "model_container_fp16.plan"
    built.write_bytes(b"built elsewhere")
    words = ["tensorrt", "small", "--repository", str(folder.parent), "--batch", "1,4,16", "--plan", str(built)]
    arguments = top.parse_args(words)
    assert arguments.run(arguments) == 0
    served = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (served.default_model_filename, served.max_batch_size) == (built.name, 16)
    assert "batches 1 to 16" in capsys.readouterr().out
    # The container writes it into the folder itself.
    inside = [*words[:-1], str(folder / "1" / built.name)]
    arguments = top.parse_args(inside)
    assert arguments.run(arguments) == 0
    assert (folder / "1" / built.name).read_bytes() == b"built elsewhere"
    with pytest.raises(SystemExit):
        top.parse_args(["tensorrt", "small", "--batch", "a,b"])


def test_arguments_of_trtexec_are_absolute() -> None:
    found = program_arguments(Path("/a/model.onnx"), Path("/b/model.plan"), Settings(Profile(1, 1, 2), None, Path("t")))
    assert f"--timingCacheFile={Path('t').absolute()}" in found


def test_a_layer_that_tensorrt_does_not_know_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    path = scene(
        helper.make_node("Unique", ["core/in"], ["core/once"], name="core/unique"),
        helper.make_node("ReduceSum", ["core/in"], ["core/out"], name="core/sum"),
        path=tmp_path / "model.onnx",
    )
    problems = tensorrt.takes(path)
    assert "does not take" in problems[0]
    assert any("core/unique (Unique)" in line for line in problems)
    assert not any("core/sum" in line for line in problems)


def test_a_layer_that_tensorrt_knows_but_not_so_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    path = scene(
        helper.make_node("Transpose", ["canvas"], ["core/turned"], name="core/turn", perm=[0, 3, 1, 2]),
        helper.make_node("ReduceSum", ["core/in"], ["core/out"], name="core/sum"),
        path=tmp_path / "model.onnx",
    )
    problems = tensorrt.takes(path)
    assert any("core/turn (Transpose)" in line and "UInt8" in line for line in problems), problems


def test_tensorrt_builds_a_small_graph(folder: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    plan = tensorrt.build_with(trt, folder / "1" / "model.onnx", Settings(Profile(1, 8, 32), 1.0), compute="SM89")
    assert plan.version == short(trt.__version__)
    assert len(plan.data) > 1000


class Caches:
    """A builder's configuration, as far as timing caches go, which TensorRT for RTX keeps none of."""

    def __init__(self) -> None:
        self.chosen = b"none"

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        if ignore_mismatch or cache not in (b"", b"this GPU"):
            return False
        self.chosen = cache
        return True


@pytest.mark.parametrize(
    ("stored", "chosen", "says"), [(b"this GPU", b"this GPU", False), (b"another GPU", b"", True), (None, b"", False)]
)
def test_a_timing_cache_is_used_where_it_is_of_this_gpu(
    stored: bytes | None, chosen: bytes, says: bool, tmp_path: Path
) -> None:
    path = tmp_path / "timing"
    if stored is not None:
        path.write_bytes(stored)
    told: list[str] = []
    settings = Caches()
    tensorrt.open_cache(settings, path, told.append)
    assert settings.chosen == chosen
    assert bool(told) == says


def test_half_precision_and_int8_suit_tensorrt(folder: Path, tmp_path: Path) -> None:
    from roadwork_export.canvas import rendered
    from roadwork_export.graph.precision import to_half, to_int8

    model = folder / "1" / "model.onnx"
    to_half(model, tmp_path / "half.onnx", rendered(2))
    assert_tensorrt_takes(tmp_path / "half.onnx")
    to_int8(model, tmp_path / "int8.onnx", rendered(2))
    assert_tensorrt_takes(tmp_path / "int8.onnx")


@pytest.mark.parametrize("name", ["scene", "yolox_nano", "centernet_nano"])
def test_tensorrt_takes_the_committed_networks(name: str) -> None:
    assert_tensorrt_takes(REPOSITORY / name / "1" / "model.onnx")


def test_the_package_comes_before_trtexec(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("tensorrt")
    fake.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    build = tensorrt.at_hand()
    assert build is not None
    assert build.args == (fake,)  # type: ignore[attr-defined]
