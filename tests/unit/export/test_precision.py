"""Lower precisions convert the network alone, and keep what the file says of itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

pytest.importorskip("torch", reason="the export extra is not installed")

import torch
from roadwork_export import making
from roadwork_export.canvas import rendered
from roadwork_export.errors import ExportError
from roadwork_export.family import SIDE, Weights
from roadwork_export.graph import piece
from roadwork_export.graph.piece import write_graph
from roadwork_export.graph.precision import tail_of, to_half, to_int8
from roadwork_export.graph.resize import Normalise
from roadwork_export.random_weights import seeded
from torch import Tensor, nn

FACTS = {"licence": "Apache-2.0", "recipe": '{"model": "small"}'}


class Core(nn.Module):
    """A network whose squares pass what half precision can hold, and whose last step makes pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 8, 1)
        self.second = nn.Conv2d(16, 16, 3, 4, 1)
        self.last = nn.Linear(16, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.second(self.first(pixels).relu()).relu()
        scale = (features * 300).pow(2).mean((2, 3)).sqrt()
        return self.last(scale / 300).sigmoid() * SIDE


class Decode(nn.Module):
    """Steps that half precision would round: fractions of a pixel far from 0."""

    def forward(self, boxes: Tensor) -> Tensor:
        return (boxes + 4096.0) - 4096.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    with seeded(1):
        pieces = Normalise(160, (0.5,) * 3, (0.25,) * 3), Core(), Decode()
    path = folder / "model.onnx"
    write_graph(pieces, ("boxes",), path, 17, FACTS, folder)
    return path


def said(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"canvas": canvas[None]})[0] for canvas in rendered(3)])


def metadata(path: Path) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load(str(path)).metadata_props}


def test_half_precision_is_of_the_core_alone(whole: Path, tmp_path: Path) -> None:
    to_half(whole, tmp_path / "half.onnx", rendered(2))
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(tmp_path / "half.onnx"))).graph
    halves = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    halves |= {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    products = [n for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul") and n.name.startswith("core/")]
    assert len(products) == 3
    assert all(halves.issuperset(n.input) for n in products)
    outside = [n for n in graph.node if n.name.startswith(("pre/", "decode/"))]
    assert outside
    assert not [n.name for n in outside if halves.intersection([*n.input, *n.output])]


def test_what_stands_between_a_mean_square_and_its_root_stays_wide(tmp_path: Path) -> None:
    class Norm(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels / (pixels.pow(2).mean((1, 2, 3), keepdim=True) + 1e-12).sqrt()

    class Mean(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels.abs().mean((1, 2, 3))[:, None]

    path = tmp_path / "model.onnx"
    pieces = Normalise(SIDE, (0.0,) * 3, (1e-3,) * 3), Norm(), Mean()  # values to 1000, squares to a million
    write_graph(pieces, ("presence",), path, 17, FACTS, tmp_path)
    to_half(path, tmp_path / "half.onnx", rendered(2))
    assert np.allclose(said(path), said(tmp_path / "half.onnx"), rtol=2e-3)
    small = [
        onnx.numpy_helper.to_array(n.attribute[0].t)
        for n in onnx.load(str(tmp_path / "half.onnx")).graph.node if n.op_type == "Constant"
    ]  # fmt: skip
    assert any(c.dtype == np.float32 and c == np.float32(1e-12) for c in small if c.size == 1)


def test_half_precision_rounds_neither_pixels_nor_squares(whole: Path, tmp_path: Path) -> None:
    to_half(whole, tmp_path / "half.onnx", rendered(2))
    exact, half = said(whole), said(tmp_path / "half.onnx")
    assert np.isfinite(half).all()  # squares of up to 300 times a feature are over 65504
    assert 0 < np.abs(exact - half).max() < 0.5
    # Between the sigmoid and the output nothing was half: a half of some hundreds is a multiple of 0.25.
    assert np.abs(half * 4 - np.round(half * 4)).max() > 0.01


class Attention(nn.Module):
    """Products of queries and keys, which pass 65504 by far where they are not scaled first, and a weight that does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 8, 1)
        self.second = nn.Conv2d(16, 16, 3, 4, 1)
        self.last = nn.Linear(16, 1)
        self.far = nn.Parameter(torch.tensor([3e5]))

    def forward(self, pixels: Tensor) -> Tensor:
        queries = self.second(self.first(pixels).relu()).flatten(2) * 1000.0
        weighed = (queries.transpose(1, 2) @ queries * 1e-6).softmax(-1)
        mixed = (queries @ weighed.transpose(1, 2)).amax(2) / 1000.0
        return self.last(mixed + (mixed * 1e-3 * self.far) / 3e5).sigmoid()


@pytest.mark.parametrize("outside", [False, True])
def test_numbers_that_half_precision_cannot_hold_stay_wide(
    outside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime on a CPU computes in float32 and would not tell: so its answers are no proof, types are."""
    if outside:
        monkeypatch.setattr(piece, "LARGEST", 1000)
    path, half = tmp_path / "model.onnx", tmp_path / "half" / "model.onnx"
    half.parent.mkdir()
    with seeded(1):
        pieces = Normalise(160, (0.5,) * 3, (0.25,) * 3), Attention(), nn.Identity()
    write_graph(pieces, ("presence",), path, 17, FACTS, tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    assert to_half(path, half, rendered(2)) > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (half.parent / "model.onnx.data").is_file() == outside

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(half), load_external_data=False)).graph
    kinds = {t.name: t.data_type for t in graph.initializer} | {
        v.name: v.type.tensor_type.elem_type for v in graph.value_info
    }
    products = [n for n in graph.node if n.op_type == "MatMul" and n.name.startswith("core/")]
    assert len(products) == 2
    assert kinds[products[0].output[0]] == onnx.TensorProto.FLOAT
    assert kinds["core/far"] == onnx.TensorProto.FLOAT
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert {kinds[n.input[1]] for n in convolutions} == {onnx.TensorProto.FLOAT16}
    assert np.allclose(said(path), said(half), atol=2e-3)


def test_the_tail_of_a_core_begins_after_its_last_product(whole: Path) -> None:
    graph = onnx.load(str(whole)).graph
    tail = tail_of(graph)
    kinds = {n.op_type for n in graph.node if n.name in tail}
    assert "Sigmoid" in kinds
    assert not kinds & {"Conv", "Gemm", "MatMul", "Relu", "Pow"}


@pytest.mark.parametrize("how", ["fp16", "int8"])
def test_metadata_version_and_signature_survive(how: str, whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    to_half(whole, target, rendered(2)) if how == "fp16" else to_int8(whole, target, rendered(2))
    assert metadata(target).items() >= FACTS.items()
    before, after = onnx.load(str(whole)), onnx.load(str(target))
    assert (after.ir_version, after.producer_name) == (before.ir_version, before.producer_name)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert {o.domain for o in after.opset_import} <= {""}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]


def test_int8_is_symmetric_by_channel_and_of_heavy_operators_alone(whole: Path, tmp_path: Path) -> None:
    to_int8(whole, tmp_path / "int8.onnx", rendered(4))
    graph = onnx.load(str(tmp_path / "int8.onnx")).graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    zeros = [constants[n.input[2]] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros
    assert all(z.dtype == np.int8 and not z.any() for z in zeros)  # TensorRT takes no others
    makers = {o: n for n in graph.node for o in n.output}
    first = next(n for n in graph.node if n.op_type == "Conv")
    scale = constants[makers[first.input[1]].input[1]]
    assert scale.shape == (16,)
    assert makers[first.input[0]].op_type == "DequantizeLinear"
    assert constants[first.input[2]].dtype == np.float32
    taken = {
        n.op_type for n in graph.node if any(makers.get(i) and makers[i].op_type == "DequantizeLinear" for i in n.input)
    }
    assert taken <= {"Conv", "Gemm", "MatMul"}
    assert np.abs(said(whole) - said(tmp_path / "int8.onnx")).max() < 16


def test_what_a_family_keeps_stays_in_float32(whole: Path, tmp_path: Path) -> None:
    to_int8(whole, tmp_path / "int8.onnx", rendered(2), keep=("second", "last"))
    graph = onnx.load(str(tmp_path / "int8.onnx")).graph
    makers = {o: n.op_type for n in graph.node for o in n.output}
    quantised = [
        n.name for n in graph.node if n.op_type in ("Conv", "Gemm") and makers.get(n.input[1]) == "DequantizeLinear"
    ]
    assert len(quantised) == 1
    assert "first" in quantised[0]

    to_half(whole, tmp_path / "half.onnx", rendered(2), keep=("first",))
    kinds = {t.name: t.data_type for t in onnx.load(str(tmp_path / "half.onnx")).graph.initializer}
    weights = {name.split("core/")[-1]: kind for name, kind in kinds.items() if name.endswith(".weight")}
    assert weights["first.weight"] == onnx.TensorProto.FLOAT
    assert weights["second.weight"] == onnx.TensorProto.FLOAT16


def test_weights_of_a_large_model_stay_beside_it(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece, "LARGEST", 1000)
    big = tmp_path / "big" / "model.onnx"
    big.parent.mkdir()
    piece.save(onnx.load(str(whole)), big)
    assert (big.parent / "model.onnx.data").is_file()
    for how in ("fp16", "int8"):
        target = tmp_path / how / "model.onnx"
        target.parent.mkdir()
        to_half(big, target, rendered(2)) if how == "fp16" else to_int8(big, target, rendered(2))
        assert sorted(p.name for p in target.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
        assert np.isfinite(said(target)).all()


def test_a_precision_that_a_family_does_not_hold_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = SimpleNamespace(name="small", source=None, licence="MIT", commercial="yes")
    monkeypatch.setattr(making, "find", lambda name: (entry, SimpleNamespace(precisions=("fp32", "fp16"))))
    order = making.Order("small", tmp_path, Weights(), precision="int8", images=tmp_path)
    with pytest.raises(ExportError, match="small does not hold in int8; choose fp32 or fp16"):
        making.make(order)
    assert list(tmp_path.iterdir()) == []
