"""What tests of several kinds share: models that take long to export are exported once."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

EXIT_SECONDS = 120


def pytest_unconfigure() -> None:
    """A thread that a test left waiting may not keep the finished run from ending: where it stands is said instead."""
    faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str], tuple[Path, Any]]:
    """exported(name): the folder of a model of the catalogue with random weights, and what its check said.

    Processes of one run share them: who comes second waits for the first.
    """
    from filelock import FileLock
    from roadwork_export import making
    from roadwork_export.catalogue import load_catalogue
    from roadwork_export.check import Agreement
    from roadwork_export.family import Weights
    from roadwork_export.making import Order

    base = tmp_path_factory.getbasetemp()
    repository = (base if worker_id == "master" else base.parent) / "exported"
    repository.mkdir(exist_ok=True)

    def folder(name: str) -> tuple[Path, Any]:
        said = repository / f"{name}.json"
        with FileLock(repository / f"{name}.lock"):
            if not said.is_file():
                licence = load_catalogue().get(name).licence
                with mock.patch.object(making, "CHECKED_ON", 3):  # half as many images, as there are many models
                    agreement = making.make(Order(name, repository, Weights(), accept=licence), lambda line: None)
                said.write_text(json.dumps(dataclasses.asdict(agreement)))
        return repository / name, Agreement(**json.loads(said.read_text()))

    return folder
