"""A server seen from outside: the engines below it and its metrics page."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from roadwork_deploy.server import EmbeddedServer


def children(pid: int) -> list[int]:
    """Of all its threads; none of a process that has ended."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread ended meanwhile
            found += [int(child) for child in task.read_text().split()]
    return found


def family(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for process in found:
        found += children(process)
    return found


def command_of(pid: int) -> str:
    """Its command line; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def engines(server: EmbeddedServer) -> list[int]:
    """Processes of vLLM engines below a server."""
    return [pid for pid in family(server.supervisor_pid) if "EngineCore" in command_of(pid)]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def gone(pid: int) -> bool:
    """Not there, or only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def remaining(pids: Iterable[int]) -> list[int]:
    """Those of them that are not gone."""
    return [pid for pid in pids if not gone(pid)]


def metric(server: EmbeddedServer, name: str, **labels: str) -> float:
    """A value on the metrics page, which is told once a second; the sum where several have these labels."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as page:
        lines = page.read().decode().splitlines()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    found = [line for line in lines if line.startswith(f"{name}{{") and all(label in line for label in wanted)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)
