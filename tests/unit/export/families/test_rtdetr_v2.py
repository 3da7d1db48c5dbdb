from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from roadwork_export import making
from roadwork_export.catalogue import load_catalogue
from roadwork_export.check import Session
from roadwork_export.errors import WeightsError
from roadwork_export.family import Weights
from roadwork_export.registry import get_family

from .conftest import Export


def test_it_computes_what_transformers_computes(export: Export, tmp_path: Path) -> None:
    found = export("rtdetr_v2_r18")
    assert found.passed, str(found)
    assert found.boxes > 50
    again = making.check(tmp_path / "rtdetr_v2_r18" / "1" / "model.onnx", None, lambda line: None)
    assert again.passed, str(again)


def test_weights_by_path_are_read_and_anothers_are_refused(export: Export, tmp_path: Path) -> None:
    entry = load_catalogue().get("rtdetr_v2_r18")
    opened = get_family("rtdetr_v2").open(entry, Weights(seed=3))
    folder = tmp_path / "own"
    opened.model.save_pretrained(folder)  # type: ignore[attr-defined]
    opened.processor.save_pretrained(folder)  # type: ignore[attr-defined]
    found = export("rtdetr_v2_r18", Weights(str(folder)))
    assert found.passed, str(found)
    metadata = Session(tmp_path / "rtdetr_v2_r18" / "1" / "model.onnx", "boxes").metadata
    assert metadata["source"] == str(folder)

    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        export("rtdetr_v2_r18", Weights(str(folder)))
