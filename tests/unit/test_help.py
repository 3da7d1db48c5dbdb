"""Every command of the four programs says what it does: a `%` in a help text would end argparse with an error."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator

import pytest
from roadwork_bench.cli import COMMANDS
from roadwork_bench.cli import main as bench
from roadwork_client.cli import _parser as client_parser
from roadwork_deploy.cli import _parser as deploy_parser
from roadwork_export.cli import parser as export_parser


@pytest.mark.parametrize("command", COMMANDS)
def test_bench(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module(f"roadwork_bench.{command}")
    with pytest.raises(SystemExit) as ended:
        bench([command, "--help"])
    assert ended.value.code == 0
    assert COMMANDS[command] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("make", [client_parser, deploy_parser, export_parser], ids=["client", "deploy", "export"])
def test_all_of_its_commands(make: Callable[[], argparse.ArgumentParser]) -> None:
    found = list(with_commands(make()))
    assert len(found) > 2
    for parser in found:
        assert parser.prog in " ".join(parser.format_help().split())


def with_commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of its commands, theirs too."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for chosen in action.choices.values():
                yield from with_commands(chosen)
