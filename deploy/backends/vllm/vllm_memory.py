"""Free memory of the GPUs that an engine runs on, and taking turns with other engines there."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.02


class Memory:
    """Of some GPUs, as NVML sees them: a process of its own context on the GPU is not needed for that.

    Args:
        nvml: module `pynvml`, initialised.
        names: of the GPUs, as NVML numbers them or as their UUID.
    """

    def __init__(self, nvml: Any, names: Sequence[str]) -> None:
        self.names = list(names)
        self._nvml = nvml
        self._handles = [
            nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
            for name in names
        ]

    def free(self) -> list[int]:
        """Free bytes of each GPU."""
        return [int(self._nvml.nvmlDeviceGetMemoryInfo(handle).free) for handle in self._handles]

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Only one engine of this user falls asleep or wakes on these GPUs at a time, whichever server it is of.

        The kernel lets go of the lock when its process ends. Locks are taken in the order of names.
        """
        with contextlib.ExitStack() as stack:
            for name in sorted(self.names):
                file = stack.enter_context(_lock_file(name).open("w"))
                while True:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        await asyncio.sleep(POLL_SECONDS)
            yield


def memory_of(count: int) -> Memory:
    """Of the first `count` GPUs that this process was given."""
    from vllm.platforms import current_platform
    from vllm.third_party import pynvml

    pynvml.nvmlInit()
    return Memory(pynvml, [str(current_platform.device_id_to_physical_device_id(index)) for index in range(count)])


def gigabytes(count: int) -> str:
    """Bytes in 1e9."""
    return f"{count / 1e9:.1f}"


def _lock_file(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"roadwork-gpu-{os.getuid()}-{name.replace('/', '_')}.lock"
