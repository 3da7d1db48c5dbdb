from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from roadwork_export import making
from roadwork_export.canvas import rendered
from roadwork_export.catalogue import load_catalogue
from roadwork_export.check import Session
from roadwork_export.errors import ExportError, WeightsError
from roadwork_export.family import Weights
from roadwork_export.registry import get_family

from .conftest import Export

SHALLOW = {"layers": 4}


def opened(seed: int = 3) -> Any:
    entry = load_catalogue().get("depth_anything_v2_small")
    return get_family("depth_anything").open(
        dataclasses.replace(entry, arguments={**entry.arguments, **SHALLOW}), Weights(seed=seed)
    )


def test_it_computes_what_transformers_computes(export: Export, tmp_path: Path) -> None:
    found = export("depth_anything_v2_small")
    assert found.passed, str(found)
    file = tmp_path / "depth_anything_v2_small" / "1" / "model.onnx"
    said = Session(file, "distance")(np.stack(rendered(2)))[0]
    assert said.shape == (2, 80, 80)
    np.testing.assert_allclose(said.min((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(said.max((1, 2)), 1, atol=1e-6)
    assert said.std((1, 2)).min() > 0.03, "a map to be compared is nearly flat"
    assert np.abs(said[0] - said[1]).max() > 0.1, "both images have the same map"


def test_weights_by_path_are_read_and_anothers_are_refused(export: Export, tmp_path: Path) -> None:
    source, canvas = opened(), rendered(1)[0]
    folder = tmp_path / "own"
    source.model.save_pretrained(folder)
    source.processor.save_pretrained(folder)
    found = export("depth_anything_v2_small", Weights(str(folder)), SHALLOW)
    assert found.passed, str(found)
    file = tmp_path / "depth_anything_v2_small" / "1" / "model.onnx"
    np.testing.assert_allclose(Session(file, "distance")(canvas[None])[0][0], source.look(canvas), atol=0.01)

    with pytest.raises(WeightsError, match="a model of type 'depth_anything'; dinov2_small is 'dinov2'"):
        export("dinov2_small", Weights(str(folder)))
    source.model.config.depth_estimation_type = "metric"
    source.model.save_pretrained(folder)
    with pytest.raises(WeightsError, match="answers metres"):
        export("depth_anything_v2_small", Weights(str(folder)), SHALLOW)


def test_a_distance_model_takes_no_head(tmp_path: Path) -> None:
    order = making.Order("depth_anything_v2_small", tmp_path, Weights(), head=tmp_path / "h.safetensors")
    with pytest.raises(ExportError, match="takes no --head"):
        making.make(order, lambda line: None)
