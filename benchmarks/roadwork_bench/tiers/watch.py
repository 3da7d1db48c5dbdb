"""What the machine did during a block: GPU utilisation, memory and power by NVML, and busy cores."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

PERIOD_SECONDS = 0.1


class Watch:
    """Samples in a thread until closed. Without NVML or a GPU only the cores are told.

    NVML's utilisation is the share of time in which any kernel ran, not the share of the GPU's arithmetic in use.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[float, float, float, float]] = []  # seconds, percent, GiB, watts
        self._busy: list[tuple[float, float]] = []  # seconds, core-seconds
        self._closed = threading.Event()
        self._gpu = _gpu()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    @property
    def gpu_name(self) -> str | None:
        if self._gpu is None:
            return None
        nvml, handle = self._gpu
        name = nvml.nvmlDeviceGetName(handle)
        return name.decode() if isinstance(name, bytes) else str(name)

    def between(self, start: float, stop: float) -> dict[str, Any]:
        """Means from `start` to `stop` (seconds, monotonic) and the most memory."""
        found: dict[str, Any] = {}
        samples = [sample for sample in self._samples if start <= sample[0] <= stop]
        if samples:
            count = len(samples)
            found["gpu_percent"] = round(sum(s[1] for s in samples) / count, 1)
            found["gpu_memory_gib"] = round(max(s[2] for s in samples), 1)
            found["gpu_watts"] = round(sum(s[3] for s in samples) / count)
        busy = [item for item in self._busy if start <= item[0] <= stop]
        if len(busy) > 1 and busy[-1][0] > busy[0][0]:
            found["busy_cores"] = round((busy[-1][1] - busy[0][1]) / (busy[-1][0] - busy[0][0]), 2)
        return found

    def close(self) -> None:
        self._closed.set()
        self._thread.join(2)

    def _loop(self) -> None:
        while not self._closed.wait(PERIOD_SECONDS):
            now = time.monotonic()
            self._busy.append((now, _core_seconds()))
            if self._gpu is not None:
                nvml, handle = self._gpu
                percent = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                memory = nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**30
                watts = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
                self._samples.append((now, percent, memory, watts))


def _gpu() -> tuple[Any, Any] | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:
        return None


def _core_seconds() -> float:
    """Core-seconds that all cores of the machine have been busy since it started."""
    user, nice, system, _idle, _wait, irq, softirq = (
        int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
