from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("ultralytics") is None:  # importorskip would import it, and let it write its settings
    pytest.skip("ultralytics is not installed", allow_module_level=True)

import torch
from roadwork_export import making
from roadwork_export.canvas import rendered, some_canvases
from roadwork_export.catalogue import load_catalogue
from roadwork_export.check import Session
from roadwork_export.classes import class_map, taxonomy_labels
from roadwork_export.errors import WeightsError
from roadwork_export.families import ultralytics as ours
from roadwork_export.family import Weights
from roadwork_export.graph.boxes import BestPairs
from roadwork_export.registry import get_family

from .conftest import Export
from .rtx import assert_tensorrt_takes

SIZES = [entry for entry in load_catalogue().entries if entry.family == "ultralytics"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yolo11n that knows two classes, as ultralytics saves it after training."""
    folder = tmp_path_factory.mktemp("trained")
    yolo = ours.fresh("yolo11n.yaml", 3)
    labels = ["cone", "tree"]
    with ours.seeded(3):
        small = ours.build("yolo11n.yaml", labels)
    own = small.state_dict()
    for key, value in yolo.model.state_dict().items():
        if own[key].shape == value.shape:
            own[key] = value
        elif own[key].ndim == value.ndim:  # a head of fewer classes is a narrower one
            own[key] = value[tuple(slice(0, size) for size in own[key].shape)]
    small.load_state_dict(own)
    small.args, small.task = yolo.model.args, yolo.model.task
    yolo.model = small
    yolo.save(folder / "best.pt")
    return folder / "best.pt"


@pytest.mark.parametrize("name", ["yolo11n", "yolo12n", "yolo26n"])
def test_it_computes_what_ultralytics_computes(export: Export, tmp_path: Path, name: str) -> None:
    found = export(name)
    assert found.passed, str(found)
    assert found.boxes > 100
    model = tmp_path / name / "1" / "model.onnx"
    assert "NonMaxSuppression" not in operators(model)
    assert_tensorrt_takes(model)


def test_random_weights_answer_differently_to_each_image() -> None:
    source = get_family("ultralytics").open(load_catalogue().get("yolo26n"), Weights(seed=1))
    scores = [source.look(canvas).scores for canvas in rendered(3)]  # type: ignore[union-attr]
    assert all(np.unique(s).size > 50 for s in scores)
    assert not np.allclose(scores[0][:20], scores[1][:20], atol=1e-3)


def test_trained_weights_by_path_bring_their_own_labels(export: Export, tmp_path: Path, trained: Path) -> None:
    found = export("yolo11n", Weights(str(trained)))
    assert found.passed, str(found)
    session = Session(tmp_path / "yolo11n" / "1" / "model.onnx", "boxes")
    assert session.metadata["source"] == str(trained)
    classes = session(some_canvases().numpy())[2]
    assert set(np.unique(classes)) <= {-1, taxonomy_labels().index("cone")}
    assert making.check(tmp_path / "yolo11n" / "1" / "model.onnx", None, lambda line: None).passed


@pytest.mark.parametrize(("name", "other"), [("yolo11s", "yolo11n"), ("yolo12n", "yolo11n"), ("yolo26n", "yolo11n")])
def test_weights_of_another_yolo_are_refused_by_name(trained: Path, name: str, other: str) -> None:
    with pytest.raises(WeightsError, match=f"best.pt: not weights of {name} but of {other}"):
        get_family("ultralytics").open(load_catalogue().get(name), Weights(str(trained)))


@pytest.mark.parametrize("task", ["cls", "seg"])
def test_models_that_answer_no_boxes_are_refused(tmp_path: Path, task: str) -> None:
    other = ours.package("ultralytics").YOLO(f"yolo11n-{task}.yaml")
    other.save(tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"other\.pt: a model that does (classify|segment); yolo11n"):
        get_family("ultralytics").open(load_catalogue().get("yolo11n"), Weights(str(tmp_path / "other.pt")))


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    class Anything:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "model.onnx").write_text("not weights")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save({"model": Anything()}, tmp_path / "code.pt")
    for name in ("text.pt", "model.onnx", "other.pt", "code.pt", "missing.pt"):
        with pytest.raises(WeightsError, match=name):
            get_family("ultralytics").open(load_catalogue().get("yolo11n"), Weights(str(tmp_path / name)))
    assert not (tmp_path / "ran").exists(), "code in a checkpoint was run"


def test_a_released_file_that_cannot_be_fetched_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(path: Path) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(ours.package("ultralytics.utils.downloads"), "attempt_download_asset", offline)
    with pytest.raises(WeightsError, match=r"yolo11n\.pt: cannot be fetched \(no route to host\).*--random-weights"):
        get_family("ultralytics").open(load_catalogue().get("yolo11n"), Weights("yolo11n.pt"))


@pytest.mark.parametrize("entry", SIZES, ids=lambda entry: entry.name)
def test_every_size_of_the_catalogue_is_what_ultralytics_builds(entry: object) -> None:
    network = ours.build(entry.arguments["config"], [str(i) for i in range(80)])  # type: ignore[attr-defined]
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == pytest.approx(entry.parameters, rel=0.03)  # type: ignore[attr-defined]


def test_the_best_pairs_are_found_among_the_best_boxes() -> None:
    random = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 900, 4, generator=random) * 640
    scores = torch.rand(2, 900, 16, generator=random)
    classes = class_map(taxonomy_labels())
    for one, other in zip(ours.FirstPairs(classes)(boxes, scores), BestPairs(classes)(boxes, scores), strict=True):
        assert torch.equal(one, other)


def test_importing_ultralytics_leaves_the_environment_alone() -> None:
    before = dict(os.environ)
    ours.package("ultralytics")
    changed = {k for k in os.environ.keys() | before.keys() if os.environ.get(k) != before.get(k)}
    assert not {k for k in changed if k.startswith(("YOLO", "ULTRALYTICS", "OMP"))}


def test_importing_ultralytics_leaves_the_functions_of_others_alone() -> None:
    program = """
import cv2, torch, PIL.Image
before = [PIL.Image.open, cv2.imread, cv2.imwrite, torch.save]
from roadwork_export.families import ultralytics
ultralytics.package("ultralytics")
assert before == [PIL.Image.open, cv2.imread, cv2.imwrite, torch.save]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def operators(path: Path) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load(str(path)).graph.node}
