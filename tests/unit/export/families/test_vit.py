from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

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

SHALLOW = {"layers": 2}


def opened(seed: int = 3) -> Any:
    entry = load_catalogue().get("vit_base")
    return get_family("vit").open(
        dataclasses.replace(entry, arguments={**entry.arguments, **SHALLOW}), Weights(seed=seed)
    )


def saved(source: Any, folder: Path, labels: tuple[str, ...]) -> Weights:
    source.model.config.id2label = dict(enumerate(labels))
    source.model.config.label2id = {label: i for i, label in enumerate(labels)}
    source.model.save_pretrained(folder)
    source.processor.save_pretrained(folder)
    return Weights(str(folder))


def test_it_computes_what_transformers_computes(export: Export, tmp_path: Path) -> None:
    found = export("vit_base", Weights(), {"layers": 4})
    assert found.passed, str(found)
    again = making.check(tmp_path / "vit_base" / "1" / "model.onnx", None, lambda line: None)
    assert again.passed, str(again)


def test_presence_is_the_probability_of_the_label_that_says_roadwork(export: Export, tmp_path: Path) -> None:
    source, canvas = opened(), rendered(1)[0]
    presence = source.look(canvas)[0]
    assert 0.02 < presence < 0.98
    for labels, expected in ((("None", "Roadwork"), presence), (("roadwork", "no roadwork"), 1 - presence)):
        found = export("vit_base", saved(source, tmp_path / labels[0], labels), SHALLOW)
        assert found.passed, str(found)
        said = Session(tmp_path / "vit_base" / "1" / "model.onnx", "scene")(canvas[None])[0]
        assert said[0, 0] == pytest.approx(expected, abs=0.01)


def test_labels_that_say_nothing_are_named_by_a_table(export: Export, tmp_path: Path) -> None:
    source, canvas = opened(), rendered(1)[0]
    presence = source.look(canvas)[0]
    weights = saved(source, tmp_path / "own", ("LABEL_0", "LABEL_1"))
    with pytest.raises(ExportError, match=r"none of its labels says roadwork: 'LABEL_0', 'LABEL_1'.*--classes"):
        export("vit_base", weights, SHALLOW)
    (tmp_path / "t.yaml").write_text("positive: [LABEL_0]\nnegative: [LABEL_1]\n")
    found = export("vit_base", weights, SHALLOW, table=tmp_path / "t.yaml")
    assert found.passed, str(found)
    file = tmp_path / "vit_base" / "1" / "model.onnx"
    assert Session(file, "scene")(canvas[None])[0][0, 0] == pytest.approx(1 - presence, abs=0.01)
    assert making.check(file, None, lambda line: None).passed


def test_weights_of_another_model_and_half_a_folder_are_refused(export: Export, tmp_path: Path) -> None:
    weights = saved(opened(), tmp_path / "own", ("None", "Roadwork"))
    with pytest.raises(WeightsError, match="a model of type 'vit'; clip_vit_b32 is 'clip'"):
        export("clip_vit_b32", weights)
    (tmp_path / "own" / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        export("vit_base", weights, SHALLOW)
