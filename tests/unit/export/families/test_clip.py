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

SHALLOW = {"layers": 2}


def opened(seed: int = 3, **arguments: Any) -> Any:
    entry = load_catalogue().get("clip_vit_b32")
    wanted = {**entry.arguments, **SHALLOW, **arguments}
    return get_family("clip").open(dataclasses.replace(entry, arguments=wanted), Weights(seed=seed))


def test_it_computes_what_transformers_computes(export: Export, tmp_path: Path) -> None:
    found = export("clip_vit_b32")
    assert found.passed, str(found)
    file = tmp_path / "clip_vit_b32" / "1" / "model.onnx"
    assert making.check(file, None, lambda line: None).passed
    assert Session(file, "scene")(np.stack(rendered(4)))[0].std() > 0.01, "the answers to be compared are all the same"


def test_the_two_sides_of_the_prompts_share_the_probability() -> None:
    few, many = ["a road under construction"], ["a street", "a quiet street", "a highway"]
    canvas = rendered(1)[0]
    there = opened(sides={"positive": few, "negative": many}).look(canvas)[0]
    back = opened(sides={"positive": many, "negative": few}).look(canvas)[0]
    assert 0.01 < there < 0.99
    assert there + back == pytest.approx(1, abs=0.01)


def test_own_prompts_are_baked_in_and_kept_for_the_check(export: Export, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("positive: [an abnormal street, a blocked road]\nnegative: [a normal street]\n")
    found = export("clip_vit_b32", Weights(), SHALLOW, table=tmp_path / "t.yaml")
    assert found.passed, str(found)
    (tmp_path / "t.yaml").unlink()
    file = tmp_path / "clip_vit_b32" / "1" / "model.onnx"
    assert making.check(file, None, lambda line: None).passed
    assert "a blocked road" in Session(file, "scene").metadata["recipe"]


def alphabet_tokenizer() -> Any:
    """CLIP's tokenizer with a vocabulary of single bytes: its published one is not needed to find its place."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    vocabulary = {t: i for i, t in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    return CLIPTokenizer(vocab={**vocabulary, "<|startoftext|>": 49406, "<|endoftext|>": 49407}, merges=[])


def test_weights_by_path_speak_by_their_own_tokenizer(export: Export, tmp_path: Path) -> None:
    source = opened()
    folder = tmp_path / "own"
    source.model.save_pretrained(folder)
    source.processor.save_pretrained(folder)
    with pytest.raises(WeightsError, match="its tokenizer is not there"):
        export("clip_vit_b32", Weights(str(folder)), SHALLOW)
    alphabet_tokenizer().save_pretrained(folder)
    (tmp_path / "t.yaml").write_text("positive: [road work]\nnegative: [street]\n")
    found = export("clip_vit_b32", Weights(str(folder)), SHALLOW, table=tmp_path / "t.yaml")
    assert found.passed, str(found)
    (tmp_path / "t.yaml").write_text(f"positive: [{'long ' * 40}]\nnegative: [street]\n")
    with pytest.raises(ExportError, match="77 is the most"):
        export("clip_vit_b32", Weights(str(folder)), SHALLOW, table=tmp_path / "t.yaml")
