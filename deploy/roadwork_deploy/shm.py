"""Shared memory of the model processes: how much they need, and what crashed servers left behind."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from roadwork_deploy.errors import PlatformError

SHARED_MEMORY = Path("/dev/shm")
MIB = 1 << 20
NAME = re.compile(r"roadwork_(?P<namespace>\d+)_(?P<pid>\d+)_")


@dataclass(frozen=True)
class Budget:
    """What the Python backend reserves.

    Attributes:
        instances: model processes, one an instance of every model that is not an ensemble.
        instance_bytes: what each begins with. Tensors of a request must fit, or it grows, which stalls that request.
        growth_bytes: what each grows by.
    """

    instances: int = 0
    instance_bytes: int = 8 * MIB
    growth_bytes: int = 8 * MIB

    @property
    def needed(self) -> int:
        """Bytes for every instance at its beginning."""
        return self.instances * self.instance_bytes

    def check(self) -> None:
        """Raise PlatformError when /dev/shm has less free than `needed`: a process that runs out there just dies."""
        free = shutil.disk_usage(SHARED_MEMORY).free
        if free < self.needed:
            raise PlatformError(
                f"not enough shared memory: {SHARED_MEMORY} has {free // MIB} MiB free and {self.instances} model "
                f"instances need {self.needed // MIB} MiB; enlarge it (mount -o remount,size=1g {SHARED_MEMORY}; in a "
                "container --shm-size=1g) or serve a profile with fewer instances"
            )

    def prefix(self) -> str:
        """Start of the names of this process's regions; says who made them, so that `sweep` can tell."""
        return f"roadwork_{_namespace()}_{os.getpid()}_"


def sweep() -> int:
    """Remove regions of servers of this machine that were killed together with whoever started them; how many."""
    removed = 0
    for path in SHARED_MEMORY.glob("roadwork_*"):
        match = NAME.match(path.name)
        # Another container may share /dev/shm: its process ids mean nothing here.
        if match and int(match["namespace"]) == _namespace() and not Path(f"/proc/{match['pid']}").exists():
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
