from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

from roadwork_export import making
from roadwork_export.canvas import rendered
from roadwork_export.catalogue import load_catalogue
from roadwork_export.check import Session
from roadwork_export.errors import ExportError, WeightsError
from roadwork_export.family import Weights
from roadwork_export.head import Head, probe_canvas, write_head
from roadwork_export.registry import get_family

from .conftest import Export

SHALLOW = {"layers": 2}


def test_it_computes_what_transformers_computes(export: Export, tmp_path: Path) -> None:
    found = export("dinov2_small")
    assert found.passed, str(found)
    file = tmp_path / "dinov2_small" / "1" / "model.onnx"
    again = making.check(file, None, lambda line: None)
    assert again.passed, str(again)
    said = Session(file, "scene")(np.stack(rendered(4)))[0]
    assert said.shape == (4, 1)
    assert said.std() > 0.03, "the answers to be compared are all the same"


def test_weights_by_path_need_a_head_and_anothers_are_refused(export: Export, tmp_path: Path) -> None:
    entry = load_catalogue().get("dinov2_small")
    entry = dataclasses.replace(entry, arguments={**entry.arguments, **SHALLOW})
    opened = get_family("dinov2").open(entry, Weights(seed=3))
    folder = tmp_path / "own"
    opened.model.save_pretrained(folder)  # type: ignore[attr-defined]
    opened.processor.save_pretrained(folder)  # type: ignore[attr-defined]
    with pytest.raises(ExportError, match="fit-head IMAGES --model dinov2_small"):
        export("dinov2_small", Weights(str(folder)), SHALLOW)
    assert not (tmp_path / "dinov2_small").exists()

    probe = opened.features_of(probe_canvas()[None])[0]  # type: ignore[attr-defined]
    path = tmp_path / "head.safetensors"
    write_head(path, Head(opened.head.weight, opened.head.bias, "cls+patches", "dinov2_small", probe, {}))  # type: ignore[attr-defined]
    found = export("dinov2_small", Weights(str(folder)), SHALLOW, head=path)
    assert found.passed, str(found)
    canvas = rendered(1)[0]
    file = tmp_path / "dinov2_small" / "1" / "model.onnx"
    assert abs(Session(file, "scene")(canvas[None])[0][0, 0] - opened.look(canvas)[0]) < 0.01

    with pytest.raises(WeightsError, match=r"a model of type 'dinov2'; dinov3_vits16 is 'dinov3_vit'"):
        export("dinov3_vits16", Weights(str(folder)), head=path)


def test_the_table_of_a_head_is_not_taken(export: Export, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("positive: [a]\nnegative: [b]\n")
    with pytest.raises(ExportError, match="takes no --classes"):
        export("dinov2_small", Weights(), SHALLOW, table=tmp_path / "t.yaml")
