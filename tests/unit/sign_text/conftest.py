"""The sign reader is a file of the model repository, not of a package: the tests import it as the model does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

MODEL = Path(__file__).resolve().parents[3] / "model_repository" / "sign_text"
sys.path.append(str(MODEL / "1"))

from matching import KeywordTable  # noqa: E402
from reading import Settings, SignReader  # noqa: E402


@pytest.fixture(scope="session")
def table() -> KeywordTable:
    return KeywordTable.load(MODEL / "keywords.yaml")


@pytest.fixture(scope="session")
def reader() -> SignReader:
    # Minutes: what is read must not depend on how busy the machine is.
    return SignReader(settings=Settings(max_milliseconds=120_000, threads=1))
