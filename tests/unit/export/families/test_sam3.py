from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("torchvision")

from roadwork_export import making
from roadwork_export.catalogue import load_catalogue
from roadwork_export.errors import LicenceError, WeightsError
from roadwork_export.family import Weights
from roadwork_export.registry import get_family

from .conftest import Export
from .rtx import assert_tensorrt_takes

PROMPTS = {"traffic cone": "cone", "dump truck": "work_vehicle", "excavator": "work_equipment"}
SHALLOW = {"layers": 1, "side": 336, "prompts": PROMPTS}


def opened(seed: int = 3) -> Any:
    entry = load_catalogue().get("sam3")
    return get_family("sam3").open(
        dataclasses.replace(entry, arguments={**entry.arguments, **SHALLOW}), Weights(seed=seed)
    )


def test_it_computes_what_transformers_computes(export: Export, tmp_path: Path) -> None:
    found = export("sam3", arguments=SHALLOW)
    assert found.passed, str(found)
    assert found.boxes > 50
    assert_tensorrt_takes(tmp_path / "sam3" / "1" / "model.onnx")


def test_weights_by_path_are_read_and_anothers_are_refused(export: Export, tmp_path: Path) -> None:
    source = opened()
    folder = tmp_path / "own"
    source.model.save_pretrained(folder)
    source.processor.save_pretrained(folder)
    found = export("sam3", Weights(str(folder)), SHALLOW)
    assert found.passed, str(found)
    with pytest.raises(WeightsError, match="a model of type 'sam3'; owlv2_base is 'owlv2'"):
        export("owlv2_base", Weights(str(folder)))


def test_its_licence_has_to_be_accepted(tmp_path: Path) -> None:
    with pytest.raises(LicenceError, match="--accept-licence"):
        making.make(making.Order("sam3", tmp_path, Weights()), lambda line: None)
