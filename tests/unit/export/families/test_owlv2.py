from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from roadwork_export.catalogue import load_catalogue
from roadwork_export.errors import ExportError, WeightsError
from roadwork_export.family import Weights
from roadwork_export.registry import get_family

from .conftest import Export
from .rtx import assert_tensorrt_takes

SHALLOW = {"layers": 2, "side": 672}


def opened(seed: int = 3, **more: Any) -> Any:
    entry = load_catalogue().get("owlv2_base")
    return get_family("owlv2").open(
        dataclasses.replace(entry, arguments={**entry.arguments, **SHALLOW, **more}), Weights(seed=seed)
    )


def test_it_computes_what_transformers_computes_for_the_default_prompts(export: Export, tmp_path: Path) -> None:
    found = export("owlv2_base", arguments=SHALLOW)
    assert found.passed, str(found)
    assert found.boxes > 50
    assert_tensorrt_takes(tmp_path / "owlv2_base" / "1" / "model.onnx")


def test_weights_by_path_with_prompts_of_the_users_own(export: Export, tmp_path: Path) -> None:
    prompts = {"orange cone": "cone", "road roller": "work_equipment", "steam roller": "work_equipment"}
    source = opened(prompts=prompts)
    folder = tmp_path / "own"
    source.model.save_pretrained(folder)
    source.processor.save_pretrained(folder)
    table = tmp_path / "prompts.yaml"
    table.write_text("".join(f"{prompt}: {name}\n" for prompt, name in prompts.items()))
    found = export("owlv2_base", Weights(str(folder)), SHALLOW, table=table)
    assert found.passed, str(found)

    with pytest.raises(WeightsError, match="a model of type 'owlv2'; grounding_dino_tiny is 'grounding-dino'"):
        export("grounding_dino_tiny", Weights(str(folder)))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        export("owlv2_base", Weights(str(folder)), SHALLOW)


def test_a_prompt_whose_end_would_not_be_read_is_refused() -> None:
    with pytest.raises(ExportError, match=r"has 17 tokens, at most 16 are read; shorten it"):
        opened(prompts={"cone on the road beside a very very big red truck": "cone", "truck": "work_vehicle"})


def test_an_image_that_would_be_scaled_down_is_refused() -> None:
    with pytest.raises(WeightsError, match="looks at 320 pixels"):
        opened(side=320)
