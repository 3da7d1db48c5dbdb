from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from roadwork_export import making
from roadwork_export.catalogue import load_catalogue
from roadwork_export.errors import WeightsError
from roadwork_export.families.dfine import SIZES
from roadwork_export.family import Weights
from roadwork_export.registry import get_family

from .conftest import Export


def test_it_computes_what_transformers_computes(export: Export, tmp_path: Path) -> None:
    found = export("dfine_n")
    assert found.passed, str(found)
    assert found.boxes > 50
    again = making.check(tmp_path / "dfine_n" / "1" / "model.onnx", None, lambda line: None)
    assert again.passed, str(again)


def test_weights_by_path_are_read_and_anothers_are_refused(export: Export, tmp_path: Path) -> None:
    opened: Any = get_family("dfine").open(load_catalogue().get("dfine_n"), Weights(seed=3))
    folder = tmp_path / "own"
    opened.model.save_pretrained(folder)
    opened.processor.save_pretrained(folder)
    found = export("dfine_n", Weights(str(folder)))
    assert found.passed, str(found)
    with pytest.raises(WeightsError, match="a model of type 'd_fine'; rtdetr_v2_r18 is 'rt_detr_v2'"):
        export("rtdetr_v2_r18", Weights(str(folder)))


def test_every_size_has_the_parameters_that_the_catalogue_says() -> None:
    import torch
    from roadwork_export.families.dfine import configuration
    from transformers import DFineForObjectDetection

    for size in SIZES:
        with torch.device("meta"):
            model = DFineForObjectDetection(configuration(size, [str(i) for i in range(80)]))
        said = load_catalogue().get(f"dfine_{size}").parameters
        assert sum(p.numel() for p in model.parameters()) == said, size
