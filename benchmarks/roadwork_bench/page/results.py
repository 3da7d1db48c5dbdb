"""Reads result files, and tells which machine each is of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadwork_bench.errors import BenchError

UNKNOWN = "a machine that the file does not name"


@dataclass(frozen=True)
class Result:
    """A result file. stem: its name without `.json`. machine: of all that is in it."""

    stem: str
    report: dict[str, Any]
    machine: str

    @property
    def file(self) -> str:
        return f"{self.stem}.json"

    @property
    def source(self) -> str:
        """Command, machine, commit and date, as far as the file has them."""
        about = self.report.get("about") or next(iter(_abouts(self.report)), {})
        command = about.get("command") or self.report.get("command")
        commit = about.get("commit")
        parts = [f"`{command}`" if command else "", self.machine, f"commit {commit}" if commit else "commit unknown"]
        return "; ".join(part for part in [*parts, about.get("date") or ""] if part)


def read_results(folder: Path) -> list[Result]:
    """Every `*.json` of a folder and its folders, in the order of their names.

    Raises:
        BenchError: no folder, no JSON, or one file with figures of several machines, which nobody can compare.
    """
    if not folder.is_dir():
        raise BenchError(f"{folder} is not a folder; give --results the folder of result files")
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BenchError(f"{path} is not JSON ({error}); measure it again or remove it") from None
        if not isinstance(report, dict):
            raise BenchError(f"{path} is a {type(report).__name__}, not a JSON object of results; move it elsewhere")
        found.append(Result(path.relative_to(folder).with_suffix("").as_posix(), report, machine_of(report, path)))
    return found


def machine_of(report: dict[str, Any], path: Path) -> str:
    """The machine that a report names, however deep. Raises BenchError where it names several."""
    names = sorted({_name(about, report) for about in _abouts(report)})
    if len(names) > 1:
        raise BenchError(
            f"{path} has figures of several machines ({'; '.join(names)}), which no comparison may mix; measure it "
            "again on one of them, or keep a file for each"
        )
    return names[0] if names else UNKNOWN


def _abouts(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        if isinstance(part.get("about"), dict):
            yield part["about"]
        for value in part.values():
            yield from _abouts(value)
    elif isinstance(part, list):
        for value in part:
            yield from _abouts(value)


def _name(about: dict[str, Any], report: dict[str, Any]) -> str:
    machine = about.get("machine")
    if not isinstance(machine, dict):
        return UNKNOWN
    gpus = report.get("gpus") or []
    gpu = machine.get("gpu") or report.get("gpu") or (f"{len(gpus)} x {gpus[0]}" if gpus else None)
    if not gpu and report.get("device") == "GPU":
        gpu = "a GPU that the file does not name"
    name = f"{machine.get('cpu', 'unknown processor')}, {machine.get('cores', '?')} cores"
    return f"{gpu}, {name}" if gpu else name
