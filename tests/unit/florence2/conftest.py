"""A tiny Florence-2 with random weights in a folder of a repository, made by the command's own code."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

COMMITTED = Path(__file__).resolve().parents[3] / "model_repository"
NAME = "florence2_base"


def neighbours(repository: Path) -> Path:
    """The folders whose files Florence-2's takes."""
    for name in ("decode", "sign_text"):
        shutil.copytree(COMMITTED / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
    return repository


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository; nobody changes it."""
    from roadwork_export.family import Weights
    from roadwork_export.florence2.making import make

    repository = neighbours(tmp_path_factory.mktemp("florence") / "repository")
    found = make(NAME, repository, weights=Weights(seed=3), size="tiny")
    assert found.passed
    assert found.lines > 10
    return repository


@pytest.fixture(scope="session")
def module(tiny: Path) -> ModuleType:
    """The folder's `florence_reading.py`."""
    spec = importlib.util.spec_from_file_location("florence_reading", tiny / NAME / "1" / "florence_reading.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["florence_reading"] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="session")
def weights(tiny: Path) -> Path:
    return tiny / NAME / "1" / "weights"


@pytest.fixture(scope="session")
def reader(module: ModuleType, weights: Path) -> Any:
    """With all the time in the world, and no line too unsure for it: what random weights write is."""
    settings = module.Settings(max_milliseconds=600_000, max_new_tokens=64, min_confidence=0)
    return module.FlorenceReader(weights, settings=settings)


@pytest.fixture(name="neighbours", scope="session")
def neighbours_fixture() -> Any:
    return neighbours
