"""How much memory a server holds: of the GPUs, as NVML tells it, and of the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadwork_bench.tiers.cpu_time import descendants

KB = 1024


def open_gpus() -> tuple[Any, list[Any]] | None:
    """NVML and its GPUs; None on a host without them.

    Every GPU of the host counts, also one that the server may not use: measure on a host that does nothing else.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    count = pynvml.nvmlDeviceGetCount()
    return pynvml, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]


def gpu_names(gpus: tuple[Any, list[Any]]) -> list[str]:
    """Of each GPU of `open_gpus`."""
    nvml, handles = gpus
    names = [nvml.nvmlDeviceGetName(handle) for handle in handles]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]  # bytes in older bindings


def holding(root: int | None, gpus: tuple[Any, list[Any]] | None) -> dict[str, int]:
    """Bytes that are held now.

    Args:
        root: process whose descendants count, itself included; None: nothing of the host counts.
        gpus: of `open_gpus`.

    Returns:
        `gpu` (all GPUs together, every process; only where there are any) and `host`, the processes' proportional set
        size: a page that several share counts once. Memory that a driver has pinned is not in it, so that
        `host_available`, the machine's, is told as well.
    """
    found: dict[str, int] = {}
    if gpus is not None:
        nvml, handles = gpus
        found["gpu"] = sum(int(nvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)
    found["host"] = sum(_share(pid) for pid in descendants([root])) if root is not None else 0
    found["host_available"] = _field(Path("/proc/meminfo"), "MemAvailable:")
    return found


def _share(pid: int) -> int:
    try:
        return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")
    except (OSError, ValueError):  # it has just ended
        return 0


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * KB
    raise ValueError(f"{path} has no {name}")
