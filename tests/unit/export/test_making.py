"""The way from an order to a checked folder, with a small real network."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from roadwork_deploy.repository import read_config
from roadwork_export import cli, making
from roadwork_export.catalogue import load_catalogue
from roadwork_export.check import Session
from roadwork_export.errors import CheckError, ExportError, LicenceError, WeightsError
from roadwork_export.family import Weights
from roadwork_export.making import Order, make

sys.path.insert(0, str(Path(__file__).parent))
from small_family import Small


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Fields of the entry that every name stands for; a test may change them."""
    fields: dict[str, Any] = {"name": "small", "family": "small", "source": None, "parameters": 7000.0, "weight": 0.7}

    def find(name: str) -> Any:
        return dataclasses.replace(load_catalogue().get("rtdetr_v2_r18"), **{"arguments": {}, **fields}), Small()

    monkeypatch.setattr(making, "find", find)
    return fields


def ordered(repository: Path, **fields: Any) -> Order:
    return Order(**{"name": "small", "repository": repository, "weights": Weights(), **fields})


def test_a_folder_that_agrees_with_its_source(entry: dict[str, Any], tmp_path: Path) -> None:
    told: list[str] = []
    found = make(ordered(tmp_path, folder="mine"), told.append)
    assert found.passed
    assert found.boxes > 20
    assert found.box_px < 0.01
    folder = tmp_path / "mine"
    config = read_config(folder / "config.pbtxt")
    assert config.name == "mine"
    assert config.parameters["pool_weight"].string_value == "0.7"
    metadata = Session(folder / "1" / "model.onnx", "boxes").metadata
    assert metadata["licence"] == "Apache-2.0"
    assert metadata["source"] == "random weights, seed 0"
    assert json.loads(metadata["recipe"])["classes"] == {"cone": "cone", "drum": "drum"}
    model = onnx.load(folder / "1" / "model.onnx")
    assert model.ir_version <= 10
    assert [o.version for o in model.opset_import] == [17]
    assert told[-1] == f"mine fp32 against its source: {found}"


def test_any_batch_and_the_contracts_order(entry: dict[str, Any], tmp_path: Path) -> None:
    make(ordered(tmp_path), lambda line: None)
    session = Session(tmp_path / "small" / "1" / "model.onnx", "boxes")
    canvases = np.random.default_rng(0).integers(0, 256, (5, 640, 640, 3), np.uint8)
    boxes, scores, classes = session(canvases)
    assert boxes.shape == (5, 100, 4)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert ((classes == -1) == (scores == 0)).all()
    assert set(np.unique(classes)) <= {-1, 0, 1}


def test_a_check_that_fails_says_so_and_leaves_the_folder(entry: dict[str, Any], tmp_path: Path) -> None:
    entry["arguments"] = {"moved": 3.0}
    found = make(ordered(tmp_path), lambda line: None)
    assert not found.passed
    assert found.box_px == pytest.approx(3.0, abs=0.01)
    assert (tmp_path / "small" / "1" / "model.onnx").is_file()
    again = making.check(tmp_path / "small" / "1" / "model.onnx", None, lambda line: None)
    assert not again.passed


@pytest.mark.parametrize(("arguments", "status"), [({}, 0), ({"moved": 3.0}, 1)])
def test_the_commands_end_with_what_the_check_said(
    entry: dict[str, Any], tmp_path: Path, arguments: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry["arguments"] = arguments
    for words in (["onnx", "small", "--random-weights"], ["check", "small"]):
        monkeypatch.setattr(sys, "argv", ["roadwork-export", *words, "--repository", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == status


def test_int8_is_calibrated_on_given_images_only(entry: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="give a folder of some dozens with --images"):
        make(ordered(tmp_path, precision="int8"))
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckError, match="none: holds no image"):
        make(ordered(tmp_path, precision="int8", images=tmp_path / "none"), lambda line: None)
    assert not (tmp_path / "small").exists()


def test_an_image_that_cannot_be_read_is_named(entry: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(CheckError, match=r"broken\.jpg: not an image"):
        make(ordered(tmp_path, images=tmp_path / "images"), lambda line: None)
    assert not (tmp_path / "small").exists()


def test_a_licence_that_restricts_use_is_accepted_by_name(entry: dict[str, Any], tmp_path: Path) -> None:
    entry |= {"licence": "AGPL-3.0", "commercial": "agpl"}
    for accept in (None, "MIT"):
        with pytest.raises(LicenceError, match=r"--accept-licence AGPL-3\.0"):
            make(ordered(tmp_path, accept=accept))
    assert make(ordered(tmp_path, accept="AGPL-3.0"), lambda line: None).passed
    assert read_config(tmp_path / "small" / "config.pbtxt").parameters["licence"].string_value == "AGPL-3.0"


@pytest.mark.parametrize("opset", [11, 16, 21])
def test_an_opset_that_others_do_not_read_is_refused(entry: dict[str, Any], tmp_path: Path, opset: int) -> None:
    with pytest.raises(ExportError, match=f"opset 17 to 20, not {opset}"):
        make(ordered(tmp_path, opset=opset), lambda line: None)
    assert not (tmp_path / "small").exists()


def test_a_higher_opset_is_written_where_it_is_asked_for(entry: dict[str, Any], tmp_path: Path) -> None:
    assert make(ordered(tmp_path, opset=19), lambda line: None).passed
    assert [o.version for o in onnx.load(tmp_path / "small" / "1" / "model.onnx").opset_import] == [19]


def test_weights_that_do_not_fit_leave_what_was_there(entry: dict[str, Any], tmp_path: Path) -> None:
    make(ordered(tmp_path), lambda line: None)
    before = (tmp_path / "small" / "1" / "model.onnx").read_bytes()
    with pytest.raises(WeightsError, match=r"elsewhere\.pt: not weights of small"):
        make(ordered(tmp_path, weights=Weights("elsewhere.pt")), lambda line: None)
    assert (tmp_path / "small" / "1" / "model.onnx").read_bytes() == before


def test_without_published_weights_one_has_to_say_which(entry: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="give --weights, or --random-weights"):
        make(ordered(tmp_path, weights=None))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolo11", "did you mean yolo11n"),
        ("anomaly_clip", "is not exported: "),
        ("qwen3_vl_4b", "is not exported to ONNX; roadwork-export show qwen3_vl_4b says how it is served"),
        ("yolox_nano", "roadwork-export build yolox_nano"),
    ],
)
def test_a_name_that_cannot_be_exported_says_why(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        make(Order(name, tmp_path, Weights()))


def test_a_file_from_elsewhere_cannot_be_checked(tmp_path: Path) -> None:
    committed = Path(__file__).parents[3] / "model_repository" / "yolox_nano" / "1" / "model.onnx"
    with pytest.raises(CheckError, match="has no recipe in it"):
        making.check(committed, None)
    with pytest.raises(CheckError, match="roadwork-export onnx gone writes it"):
        making.check(tmp_path / "gone" / "1" / "model.onnx", None)
