from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch
from roadwork_export import making
from roadwork_export.canvas import rendered
from roadwork_export.catalogue import load_catalogue
from roadwork_export.errors import LicenceError, WeightsError
from roadwork_export.family import Weights
from roadwork_export.registry import get_family

from .conftest import Export


@pytest.mark.parametrize("name", ["dinov3_vits16", "dinov3_convnext_tiny"])
def test_it_computes_what_transformers_computes(name: str, export: Export, tmp_path: Path) -> None:
    found = export(name)
    assert found.passed, str(found)
    assert found.score < 1e-4
    again = making.check(tmp_path / name / "1" / "model.onnx", None, lambda line: None)
    assert again.passed, str(again)


def test_its_licence_has_to_be_accepted(tmp_path: Path) -> None:
    with pytest.raises(LicenceError, match="--accept-licence"):
        making.make(making.Order("dinov3_vits16", tmp_path, Weights()), lambda line: None)


@pytest.mark.parametrize(("name", "arguments"), [("dinov3_vits16", {"layers": 2}), ("dinov3_convnext_tiny", {})])
def test_weights_by_path_give_the_same_features(name: str, arguments: dict[str, int], tmp_path: Path) -> None:
    entry = load_catalogue().get(name)
    entry = dataclasses.replace(entry, arguments={**entry.arguments, **arguments})
    family = get_family("dinov3")
    opened = family.open(entry, Weights(seed=3))
    folder = tmp_path / "own"
    opened.model.save_pretrained(folder)  # type: ignore[attr-defined]
    opened.processor.save_pretrained(folder)  # type: ignore[attr-defined]
    canvas = rendered(1)[0][None]
    again = family.open(entry, Weights(str(folder))).features_of(canvas)  # type: ignore[attr-defined]
    expected = opened.features_of(canvas)  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.from_numpy(again), torch.from_numpy(expected))

    other = load_catalogue().get("dinov3_convnext_tiny" if "vits" in name else "dinov3_vits16")
    with pytest.raises(WeightsError, match=f"{other.name} is 'dinov3_"):
        family.open(other, Weights(str(folder)))
