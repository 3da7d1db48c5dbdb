"""Finds perf_analyzer and says how it is started here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from roadwork_bench.errors import BenchError
from roadwork_bench.perf.loader import ELSEWHERE, NEEDS_GLIBC, glibc, loader_command, loader_folder

VARIABLE = "ROADWORK_PERF_ANALYZER"
INSTALL = "pip install 'roadwork[load]'"
START_SECONDS = 20.0
FETCH = "roadwork-bench load --fetch-loader"


def find_program() -> list[str]:
    """The first words of a command that starts perf_analyzer.

    In order: `$ROADWORK_PERF_ANALYZER`, the wheel of this Python environment, one on PATH, the folder of
    `roadwork-bench load --fetch-loader`.

    Raises:
        BenchError: there is none, or none that starts; the message says how to get it.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return _checked([chosen], f"${VARIABLE}")
    new_enough = glibc() >= NEEDS_GLIBC
    installed = _installed()
    if installed is not None and new_enough:
        return _checked([str(installed)], "the installed wheel perf-analyzer")
    on_path = shutil.which("perf_analyzer", path=_path_without_this_environment())
    if on_path is not None:
        return _checked([on_path], "perf_analyzer on PATH")
    kept = loader_command(loader_folder())
    if kept is not None:
        return _checked(kept, str(loader_folder()))
    if new_enough:
        raise BenchError(f"perf_analyzer is not installed; run: {INSTALL}")
    have = ".".join(map(str, glibc()))
    need = ".".join(map(str, NEEDS_GLIBC))
    raise BenchError(f"perf_analyzer needs glibc {need} and this system has {have}; run: {FETCH} (or {ELSEWHERE})")


def _installed() -> Path | None:
    """The program inside the wheel: the console script beside it hides its exit status."""
    try:
        files = metadata.files("perf-analyzer") or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == "perf_analyzer" and file.parent.name == "bin"]
    return next((path for path in found if path.is_file() and "site-packages" in path.parts), None)


def _path_without_this_environment() -> str:
    own = Path(sys.executable).parent
    return os.pathsep.join(part for part in os.get_exec_path() if Path(part) != own)


def program_version(words: list[str]) -> str:
    """What it calls itself, such as `0.0.0 (commit 3a49a23)`: the program does not know its wheel's number."""
    return _version(words).partition("Version ")[2]


def _checked(words: list[str], where: str) -> list[str]:
    """These words, if they start the program."""
    try:
        _version(words)
    except BenchError as problem:
        hint = f"run: {FETCH}" if "GLIBC" in str(problem) else f"{INSTALL}, or {ELSEWHERE}"
        raise BenchError(f"{where} does not start: {problem}; {hint}") from None
    return words


def _version(words: list[str]) -> str:
    """The line that the program says of itself."""
    try:
        done = subprocess.run(
            [*words, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"no answer in {START_SECONDS:g} s") from None
    except OSError as error:
        raise BenchError(error.strerror or str(error)) from None
    first = (done.stdout.strip().splitlines() or [f"exit status {done.returncode}"])[0]
    if done.returncode or not first.startswith("Perf Analyzer Version"):
        raise BenchError(first)
    return first
