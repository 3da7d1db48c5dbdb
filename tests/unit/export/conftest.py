"""What tests of the commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType

import pytest

Run = Callable[..., str]


@pytest.fixture
def run_of(capsys: pytest.CaptureFixture[str]) -> Callable[[ModuleType], Run]:
    """run_of(group)(words): what a command of the group prints; it has to succeed."""

    def of(group: ModuleType) -> Run:
        def call(*words: str) -> str:
            top = argparse.ArgumentParser()
            group.add(top.add_subparsers(required=True))
            arguments = top.parse_args(words)
            assert arguments.run(arguments) == 0
            return capsys.readouterr().out

        return call

    return of
