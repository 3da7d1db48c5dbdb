"""Exports a model of the catalogue with random weights, as a user would."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from roadwork_export import making
from roadwork_export.catalogue import load_catalogue
from roadwork_export.check import Agreement
from roadwork_export.family import Weights

pytestmark = pytest.mark.timeout(600)
Export = Callable[..., Agreement]


@pytest.fixture
def export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Callable[[str], tuple[Path, Agreement]]
) -> Export:
    """export(name, weights=None, arguments=None, **order): the file is at `tmp_path/<name>/1/model.onnx`.

    `arguments` replace some of the catalogue's, for an architecture with less depth than any published one.
    """

    def run(
        name: str, weights: Weights | None = None, arguments: dict[str, Any] | None = None, **order: Any
    ) -> Agreement:
        if weights is None and not arguments and not order:
            folder, agreement = exported(name)
            shutil.copytree(folder, tmp_path / name)
            return agreement
        entry = load_catalogue().get(name)
        if arguments:
            find = making.find

            def reduced(wanted: str) -> Any:
                found, family = find(wanted)
                return dataclasses.replace(found, arguments={**found.arguments, **arguments}), family

            monkeypatch.setattr(making, "find", reduced)
        monkeypatch.setattr(making, "CHECKED_ON", 3)
        return making.make(
            making.Order(name, tmp_path, weights or Weights(), accept=entry.licence, **order), lambda line: None
        )

    return run
