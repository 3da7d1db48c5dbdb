"""A real tritonserver for the tests, on the committed repository or on small ones that a test makes up."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc
from onnx import TensorProto, helper
from roadwork_deploy.repository import default_repository
from roadwork_deploy.serve import prepare
from roadwork_deploy.server import EmbeddedServer

STAND_IN = Path(__file__).with_name("stand_in.py")
TRITON_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.STRING: "TYPE_STRING",
}
Tensors = dict[str, tuple[int, list]]  # name -> (ONNX type, shape; a text is a variable dimension)


class TemporaryRepository:
    """A model repository that a test fills; `models` are the names in it, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.models: list[str] = []

    def add_onnx(
        self,
        name: str,
        nodes: Sequence[onnx.NodeProto],
        inputs: Tensors,
        outputs: Tensors,
        *,
        initializers: Sequence[onnx.TensorProto] = (),
        max_batch_size: int = 0,
        config: str = "",
        text: str | None = None,
        filename: str = "model.onnx",
    ) -> None:
        """A model of real ONNX; its `config.pbtxt` is written from the tensors, `config` is put behind.

        Where the model batches, the first dimension of each shape is the batch. `text` replaces the whole of the file.
        """
        takes, gives = ([helper.make_tensor_value_info(n, *v) for n, v in side.items()] for side in (inputs, outputs))
        graph = helper.make_graph(list(nodes), name, takes, gives, initializer=list(initializers))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        folder = self.path / name / "1"
        folder.mkdir(parents=True)
        onnx.save(model, folder / filename)
        skip = 1 if max_batch_size else 0
        sides = {"input": inputs, "output": outputs}
        lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {max_batch_size}"]
        lines += [
            f'{side} [{{ name: "{n}" data_type: {TRITON_TYPES[kind]} dims: {_dims(shape[skip:])} }}]'
            for side, tensors in sides.items()
            for n, (kind, shape) in tensors.items()
        ]
        if "instance_group" not in config:
            lines.append("instance_group [{ count: 1 }]")
        (self.path / name / "config.pbtxt").write_text(text if text is not None else "\n".join([*lines, config]) + "\n")
        self.models.append(name)

    def add_adder(self, name: str, *, max_batch_size: int = 8, config: str = "", number: float = 1.0) -> None:
        """`y` = `x` + number, four numbers a row."""
        batch: list = ["batch"] if max_batch_size else []
        self.add_onnx(
            name,
            [helper.make_node("Add", ["x", "number"], ["y"])],
            {"x": (TensorProto.FLOAT, [*batch, 4])},
            {"y": (TensorProto.FLOAT, [*batch, 4])},
            initializers=[helper.make_tensor("number", TensorProto.FLOAT, [1], [number])],
            max_batch_size=max_batch_size,
            config=config,
        )

    def add_stand_in(
        self, name: str, *, signature: str | None = None, max_batch_size: int = 8, config: str = "", **parameters: Any
    ) -> None:
        """A Python model that obeys DELAY, FAIL, ANSWER and SLOW_START (see `stand_in`).

        `signature` is the text of its inputs and outputs; without it, `x` and `y` of four numbers.
        """
        folder = self.path / name / "1"
        folder.mkdir(parents=True)
        shutil.copy(STAND_IN, folder / "model.py")
        default = (
            "input [{ name: 'x' data_type: TYPE_FP32 dims: [4] }] output [{ name: 'y' data_type: TYPE_FP32 dims: [4] }]"
        )
        lines = [f'name: "{name}"', 'backend: "python"', f"max_batch_size: {max_batch_size}", signature or default]
        if "instance_group" not in config:
            lines.append("instance_group [{ count: 1 kind: KIND_CPU }]")
        for key, value in parameters.items():
            shown = json.dumps(value if isinstance(value, str) else json.dumps(value))
            lines.append(f'parameters {{ key: "{key}" value: {{ string_value: {shown} }} }}')
        (self.path / name / "config.pbtxt").write_text("\n".join([*lines, config]) + "\n")
        self.models.append(name)

    def control(self, name: str, **settings: Any) -> None:
        """Change how a stand-in behaves from its next request on; no settings: as configured."""
        path = self.path / name / "control.json"
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(settings))
        draft.replace(path)


def _dims(shape: Sequence) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape]


def infer(
    server: EmbeddedServer, model: str, outputs: Sequence[str] | None = None, **inputs: Any
) -> dict[str, np.ndarray]:
    """One request in a client of its own; name -> array."""
    with grpc.InferenceServerClient(server.grpc_url) as client:
        made = []
        for name, value in inputs.items():
            array = np.asarray(value)
            kind = (
                "BYTES"
                if array.dtype.kind in "OSU"
                else grpc.model_config_pb2.DataType.Name(_number(array)).removeprefix("TYPE_")
            )
            made.append(grpc.InferInput(name, list(array.shape), kind))
            made[-1].set_data_from_numpy(array.astype(object) if kind == "BYTES" else array)
        wanted = [grpc.InferRequestedOutput(name) for name in outputs] if outputs else None
        result = client.infer(model, made, outputs=wanted, client_timeout=30)
        names = outputs or [output.name for output in result.get_response().outputs]
        return {name: result.as_numpy(name) for name in names}


def _number(array: np.ndarray) -> int:
    names = {"f4": "FP32", "i4": "INT32", "i8": "INT64", "u1": "UINT8"}
    return grpc.model_config_pb2.DataType.Value("TYPE_" + names[array.dtype.str[1:]])


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until it holds; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


@pytest.fixture
def repository(tmp_path: Path) -> TemporaryRepository:
    """An empty repository of this test's own."""
    path = tmp_path / "repository"
    path.mkdir()
    return TemporaryRepository(path)


@pytest.fixture(scope="module")
def module_repository(tmp_path_factory: pytest.TempPathFactory) -> TemporaryRepository:
    """An empty repository that the tests of a module share."""
    return TemporaryRepository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """The committed repository, served with profile cpu on free ports."""
    with prepare(default_repository(), "cpu").server as started:
        yield started


@pytest.fixture(scope="session")
def tier_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A `tier_policy.TierServer`: the committed models and the tiny tiers, whose engines the tests of tiers share."""
    pytest.importorskip("vllm", reason="vLLM is not installed (python -m roadwork_deploy.install_vllm)")
    sys.path.append(str(Path(__file__).parent))
    import tier_policy
    import watching

    absent = [name for name in tier_policy.TIERS if not (default_repository() / name).is_dir()]
    if absent:
        pytest.skip(f"the model repository has no {', '.join(absent)}")
    path = tmp_path_factory.mktemp("tiers")
    tier_policy.build(path)
    with EmbeddedServer(
        path,
        tier_policy.MODELS,
        probes=["roadwork", "roadwork_stream"],
        tiers=tier_policy.TIERS,
        environment={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        drain=2,
    ) as server:
        yield tier_policy.TierServer(server)
        if not server.running:  # a crash of Triton itself: its log would go with the server
            print(server.log_text()[-4000:])
            pytest.fail("tritonserver ended while the tests ran")
        left = watching.engines(server)
    wait_until(lambda: all(watching.gone(pid) for pid in left), 10, "no engine outlives its server")


@pytest.fixture
def tiers(tier_server: Any) -> Any:
    """`tier_server` once all of its tiers answer, also where an earlier test has unloaded or killed one."""
    tier_server.restore()
    return tier_server


@pytest.fixture(name="infer", scope="session")
def infer_fixture() -> Callable[..., dict[str, np.ndarray]]:
    """`infer(server, model, outputs=None, **inputs)`."""
    return infer


@pytest.fixture(name="wait_until", scope="session")
def wait_until_fixture() -> Callable[..., None]:
    """`wait_until(condition, seconds, what)`."""
    return wait_until
