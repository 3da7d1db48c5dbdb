"""What the ONNX graphs promise: the contract's signature, suppression, order, any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from roadwork_export.nets.graph import FORMS, finish, suppress, to_onnx  # noqa: E402

REPOSITORY = Path(__file__).parents[3] / "model_repository"


def greedy(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, limit: float) -> np.ndarray:
    """Textbook non-maximum suppression of one image in descending order of scores: which boxes stay."""
    keep = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        for j in range(i):
            if not keep[j] or classes[i] != classes[j]:
                continue
            low, high = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
            inter = np.prod(np.clip(high - low, 0, None))
            area = np.prod(boxes[[i, j], 2:] - boxes[[i, j], :2], axis=1).sum() - inter
            if inter / area > limit:
                keep[i] = False
                break
    return keep


@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_the_greedy_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 300, (60, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(40, 160, (60, 2))], 1).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 1, 60))[::-1].astype(np.float32)
    classes = rng.integers(0, 2, 60).astype(np.float32)
    got = suppress(*(torch.from_numpy(v.copy())[None] for v in (boxes, scores, classes)), rounds=20)[0].numpy()
    assert np.array_equal(got > 0, greedy(boxes, scores, classes, 0.6))


def test_what_is_no_box_is_zero_and_minus_one_and_last() -> None:
    scores = torch.rand(2, 150)
    scores[:, 20:] = 0.001
    boxes, kept, classes = finish(torch.rand(2, 150, 4) * 900, scores, torch.ones(2, 150), 640.0)
    assert boxes.shape == (2, 100, 4)
    assert bool((kept.diff(dim=1) <= 0).all())
    assert int((kept > 0).sum()) <= 40
    assert bool((classes[kept == 0] == -1).all())
    assert float(boxes[kept == 0].abs().sum()) == 0
    assert float(boxes.min()) >= 0
    assert float(boxes.max()) <= 640


@pytest.mark.parametrize("name", FORMS)
def test_an_exported_network_has_the_contracts_signature_for_any_batch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    form = FORMS[name]
    network = form.network() if name == "scene" else form.network(16)
    path = tmp_path / "model.onnx"
    to_onnx(form.graph(network.eval()), form.outputs, path, {"licence": "Apache-2.0"}, size=128)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    canvas = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    together = session.run(list(form.outputs), {"canvas": canvas})
    alone = session.run(list(form.outputs), {"canvas": canvas[1:2]})
    assert [output.shape[0] for output in together] == [3] * len(form.outputs)
    index = form.outputs.index("presence" if name == "scene" else "scores")
    np.testing.assert_allclose(together[index][1:2], alone[index], atol=1e-4)
    assert {p.key: p.value for p in onnx.load(str(path)).metadata_props} == {"licence": "Apache-2.0"}


@pytest.mark.parametrize("name", FORMS)
def test_a_committed_network_keeps_the_contract_on_any_canvas(name: str) -> None:
    path = REPOSITORY / name / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(1).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    canvas = np.stack([noise, np.full_like(noise, 114), np.zeros_like(noise)])
    outputs = dict(zip(FORMS[name].outputs, session.run(list(FORMS[name].outputs), {"canvas": canvas}), strict=True))
    assert all(np.isfinite(value).all() for value in outputs.values())
    if name == "scene":
        assert outputs["presence"].shape == (3, 1)
        assert ((outputs["presence"] >= 0) & (outputs["presence"] <= 1)).all()
        return
    assert outputs["boxes"].shape == (3, 100, 4)
    assert outputs["classes"].dtype == np.int32
    assert (np.diff(outputs["scores"], axis=1) <= 0).all()
    assert ((outputs["classes"] >= 0) == (outputs["scores"] > 0)).all()
    assert outputs["classes"].max() < 16
