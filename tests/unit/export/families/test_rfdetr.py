from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rfdetr")

import torch
from roadwork_export import making
from roadwork_export.canvas import rendered
from roadwork_export.catalogue import load_catalogue
from roadwork_export.check import Session
from roadwork_export.classes import class_map
from roadwork_export.errors import WeightsError
from roadwork_export.families import rfdetr as ours
from roadwork_export.family import Weights
from roadwork_export.registry import get_family

from .conftest import Export
from .rtx import assert_tensorrt_takes

SIZES = [entry for entry in load_catalogue().entries if entry.family == "rfdetr"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano that knows two classes, as rfdetr bundles a trained model."""
    detector = ours.fresh("nano", 3)
    detector.model.model.reinitialize_detection_head(3)
    detector.model.args.num_classes = 2
    detector.model.class_names = ["cone", "tree"]
    folder = tmp_path_factory.mktemp("trained")
    detector.export_for_roboflow(folder)
    return folder / "weights.pt"


def test_it_computes_what_rfdetr_computes(export: Export, tmp_path: Path) -> None:
    found = export("rfdetr_nano")
    assert found.passed, str(found)
    assert found.boxes > 100
    assert_tensorrt_takes(tmp_path / "rfdetr_nano" / "1" / "model.onnx")


def test_random_weights_answer_differently_to_each_image() -> None:
    source = get_family("rfdetr").open(load_catalogue().get("rfdetr_nano"), Weights(seed=1))
    first, second = (source.look(canvas).scores for canvas in rendered(2))  # type: ignore[union-attr]
    assert np.unique(first).size > 50
    assert not np.allclose(first[:20], second[:20], atol=1e-3)


def test_trained_weights_by_path_bring_their_own_labels(export: Export, tmp_path: Path, trained: Path) -> None:
    found = export("rfdetr_nano", Weights(str(trained)))
    assert found.passed, str(found)
    model = tmp_path / "rfdetr_nano" / "1" / "model.onnx"
    assert Session(model, "boxes").metadata["source"] == str(trained)
    assert making.read_recipe(Session(model, "boxes").metadata, model)["classes"] == {"cone": "cone"}


def test_a_checkpoint_of_lightning_answers_as_the_bundle_does(tmp_path: Path, trained: Path) -> None:
    bundle = torch.load(trained, weights_only=False)
    state = {f"model._orig_mod.{key}": value for key, value in bundle["model"].items()}
    settings = {"class_names": ["cone", "tree"]}
    torch.save({"state_dict": state, "hyper_parameters": settings}, tmp_path / "last.ckpt")
    entry, canvas = load_catalogue().get("rfdetr_nano"), rendered(1)[0]
    one, other = (
        get_family("rfdetr").open(entry, Weights(str(path))).look(canvas) for path in (trained, tmp_path / "last.ckpt")
    )
    np.testing.assert_array_equal(one.boxes, other.boxes)  # type: ignore[union-attr]


def test_a_custom_side_is_read_from_the_checkpoint(tmp_path: Path, trained: Path) -> None:
    bundle = torch.load(trained, weights_only=False)
    torch.save({**bundle, "model_config": {"resolution": 320}}, tmp_path / "small.pth")
    source = get_family("rfdetr").open(load_catalogue().get("rfdetr_nano"), Weights(str(tmp_path / "small.pth")))
    assert source.pre(torch.zeros(1, 640, 640, 3, dtype=torch.uint8)).shape == (1, 3, 320, 320)


def test_weights_of_another_size_are_refused(trained: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights\.pt: not weights of rfdetr_large"):
        get_family("rfdetr").open(load_catalogue().get("rfdetr_large"), Weights(str(trained)))


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not weights")
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "other.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    for name in ("text.pth", "other.pth", "list.pth", "missing.pth"):
        with pytest.raises(WeightsError, match=name):
            get_family("rfdetr").open(load_catalogue().get("rfdetr_nano"), Weights(str(tmp_path / name)))


def test_a_released_file_that_cannot_be_fetched_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rfdetr.assets import model_weights

    def offline(path: str) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RF_HOME", str(tmp_path))
    monkeypatch.setattr(model_weights, "download_pretrain_weights", offline)
    with pytest.raises(WeightsError, match=r"rf-detr-nano\.pth: cannot be fetched \(no route to host\).*--random"):
        get_family("rfdetr").open(load_catalogue().get("rfdetr_nano"), Weights("rf-detr-nano.pth"))


@pytest.mark.parametrize("entry", SIZES, ids=lambda entry: entry.name)
def test_every_size_of_the_catalogue_is_what_rfdetr_builds(entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **named: Any) -> None:
        raise AssertionError("random weights must not need a network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    with ours.without_hub():
        detector = ours.build(entry.arguments["size"])
    count = sum(parameter.numel() for parameter in detector.model.model.parameters())
    assert count == pytest.approx(entry.parameters, rel=0.03)
    assert detector.model.resolution == entry.input


def test_labels_of_coco_keep_the_gaps_of_its_numbers() -> None:
    with ours.without_hub():
        labels = ours.labels_of(ours.build("nano"), 91)
    assert (len(labels), labels[1], labels[13], labels[90]) == (91, "person", "stop sign", "toothbrush")
    assert class_map(labels).columns
