"""Every family at its smallest size: what it computes is what its source computes, and TensorRT takes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from roadwork_export.catalogue import OWN, load_catalogue
from roadwork_export.registry import known_families

from .rtx import assert_tensorrt_takes

pytestmark = pytest.mark.timeout(900)
SMALLEST = [e.name for e in load_catalogue().select(status="runs here") if e.family not in (None, OWN)]
HEAVY = {"grounding_dino", "owlv2", "sam3"}
"""Minutes to export at full size on two cores: their own tests do it with less depth."""


def test_every_family_is_among_them() -> None:
    among = {load_catalogue().get(name).family for name in SMALLEST}
    assert among == set(known_families()) - HEAVY


@pytest.mark.parametrize("name", SMALLEST)
def test_it_agrees_with_its_source(name: str, exported: Callable[[str], tuple[Path, Any]]) -> None:
    _, found = exported(name)
    assert found.passed, str(found)


@pytest.mark.parametrize("name", SMALLEST)
def test_tensorrt_takes_it(name: str, exported: Callable[[str], tuple[Path, Any]]) -> None:
    folder, _ = exported(name)
    assert_tensorrt_takes(folder / "1" / "model.onnx")
