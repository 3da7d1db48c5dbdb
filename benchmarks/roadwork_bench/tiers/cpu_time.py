"""CPU time of processes and of all that they have started: what a request costs, however busy the machine is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(roots: Iterable[int]) -> float:
    """Seconds that the processes `roots` and their descendants have computed so far (the living ones)."""
    return sum(descendants(roots).values())


def descendants(roots: Iterable[int]) -> dict[int, float]:
    """Process -> seconds that it has computed so far, of the living ones among `roots` and their descendants."""
    parents: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            # The name may hold spaces and brackets; what follows its last bracket does not.
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(path.name)
        parents.setdefault(int(fields[1]), []).append(pid)
        used[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    found: dict[int, float] = {}
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in used:
            found[pid] = used[pid]
        waiting += parents.get(pid, [])
    return found
