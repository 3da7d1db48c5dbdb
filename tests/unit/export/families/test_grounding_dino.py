from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from roadwork_cascade.taxonomy import load_taxonomy
from roadwork_export.canvas import rendered
from roadwork_export.catalogue import load_catalogue
from roadwork_export.check import Session
from roadwork_export.errors import ExportError, WeightsError
from roadwork_export.families.grounding_dino import owners
from roadwork_export.family import Weights
from roadwork_export.registry import get_family

from .conftest import Export
from .rtx import assert_tensorrt_takes

SHALLOW = {"layers": 2, "side": 320}


def opened(seed: int = 3, **more: Any) -> Any:
    entry = load_catalogue().get("grounding_dino_tiny")
    return get_family("grounding_dino").open(
        dataclasses.replace(entry, arguments={**entry.arguments, **SHALLOW, **more}), Weights(seed=seed)
    )


def test_it_computes_what_transformers_computes_for_the_default_prompts(export: Export, tmp_path: Path) -> None:
    found = export("grounding_dino_tiny", arguments=SHALLOW)
    assert found.passed, str(found)
    assert found.boxes > 50
    assert_tensorrt_takes(tmp_path / "grounding_dino_tiny" / "1" / "model.onnx")


def test_weights_by_path_with_prompts_of_the_users_own(export: Export, tmp_path: Path) -> None:
    prompts = {"orange cone": "cone", "road roller": "work_equipment", "steam roller": "work_equipment"}
    source = opened(prompts=prompts)
    folder = tmp_path / "own"
    source.model.save_pretrained(folder)
    source.processor.save_pretrained(folder)
    table = tmp_path / "prompts.yaml"
    table.write_text("".join(f"{prompt}: {name}\n" for prompt, name in prompts.items()))
    found = export("grounding_dino_tiny", Weights(str(folder)), SHALLOW, table=table)
    assert found.passed, str(found)
    session = Session(tmp_path / "grounding_dino_tiny" / "1" / "model.onnx", "boxes")
    assert json.loads(session.metadata["recipe"])["arguments"]["prompts"] == prompts
    _, scores, classes = session(np.stack(rendered(2)))
    known = {load_taxonomy().by_name(name).id for name in prompts.values()}
    assert set(classes[scores > 0].tolist()) == known

    with pytest.raises(WeightsError, match="a model of type 'grounding-dino'; owlv2_base is 'owlv2'"):
        export("owlv2_base", Weights(str(folder)))


def test_each_token_belongs_to_its_prompt() -> None:
    cone, work, truck = 2001, 2002, 2003
    assert owners([101, cone, 1012, work, truck, 1012, 102], ("cone", "work truck"), 256, "x") == [
        -1, 0, -1, 1, 1, -1, -1,
    ]  # fmt: skip


def test_prompts_that_the_model_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(ExportError, match=r"'cone\. drum' must hold none"):
        opened(prompts={"cone. drum": "cone", "truck": "work_vehicle"})
    with pytest.raises(ExportError, match="at most 256 are read"):
        opened(prompts={f"cone {i}": "cone" for i in range(100)})
    with pytest.raises(ExportError, match="2 prompts were read as 1"):
        owners([101, 2001, 1012, 1012, 102], ("cone", ""), 256, "x")
