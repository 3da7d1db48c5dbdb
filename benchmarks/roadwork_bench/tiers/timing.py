"""From the times of single requests to latencies, throughput and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from roadwork_bench.medians import median_interval


@dataclass(frozen=True)
class Requests:
    """begins, ends: seconds of the machine's monotonic clock, one an answered request; in_flight: kept on their way."""

    begins: list[float]
    ends: list[float]
    in_flight: int
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def latencies(self) -> np.ndarray:
        """Seconds, float64 [N]."""
        return np.asarray(self.ends) - np.asarray(self.begins)

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.latencies))

    @property
    def window(self) -> tuple[float, float]:
        """The part with all requests under way: from the end of the first wave until nothing new is begun."""
        start = min(self.begins) if self.in_flight == 1 else float(np.sort(self.ends)[: self.in_flight][-1])
        stop = max(self.ends) if self.in_flight == 1 else max(self.begins)
        return start, stop

    @property
    def throughput(self) -> float:
        """Requests a second in the window; over everything where the window holds too little."""
        start, stop = self.window
        ends = np.asarray(self.ends)
        inside = int(((ends > start) & (ends <= stop)).sum())
        if inside < max(5, self.in_flight) or stop <= start:
            return len(self.ends) / (max(self.ends) - min(self.begins))
        return inside / (stop - start)


def merge(parts: Sequence[Requests]) -> Requests:
    """Of clients that ran at the same time."""
    return Requests(
        [begin for part in parts for begin in part.begins],
        [end for part in parts for end in part.ends],
        sum(part.in_flight for part in parts),
    )


def share(in_flight: int, clients: int) -> list[int]:
    """Requests on their way, divided among at most so many clients; none gets 0."""
    used = min(in_flight, clients)
    return [in_flight // used + (index < in_flight % used) for index in range(used)]


def compare(blocks: Sequence[tuple[Requests, Requests]]) -> dict[str, Any]:
    """Served against bare, pair by pair."""
    return {
        "latency_added_ms": median_interval([(served.median - bare.median) * 1000 for bare, served in blocks]),
        "throughput_ratio": median_interval([served.throughput / bare.throughput for bare, served in blocks]),
        **_cpu_ratio(blocks),
        "bare": figures([bare for bare, _ in blocks]),
        "served": figures([served for _, served in blocks]),
    }


def figures(blocks: Sequence[Requests]) -> dict[str, Any]:
    """What one side did over its blocks."""
    latencies = np.concatenate([block.latencies for block in blocks]) * 1000
    return {
        "requests": len(latencies),
        "milliseconds_p50": round(float(np.quantile(latencies, 0.5)), 2),
        "milliseconds_p95": round(float(np.quantile(latencies, 0.95)), 2),
        "milliseconds_p99": round(float(np.quantile(latencies, 0.99)), 2),
        "requests_per_second": round(float(np.median([block.throughput for block in blocks])), 2),
        **_measured(blocks),
    }


def _measured(blocks: Sequence[Requests]) -> dict[str, Any]:
    """Medians of what was measured in every block."""
    names = [name for name in blocks[0].measured if all(name in block.measured for block in blocks)]
    return {name: round(float(np.median([block.measured[name] for block in blocks])), 2) for name in names}


def _cpu_ratio(blocks: Sequence[tuple[Requests, Requests]]) -> dict[str, Any]:
    """Processor time of a bare request to that of a served one: the throughput ratio of a machine without other work
    whose cores are the limit.
    """
    name = "cpu_milliseconds_per_request"
    if not all(name in block.measured for pair in blocks for block in pair):
        return {}
    ratios = [bare.measured[name] / max(0.01, served.measured[name]) for bare, served in blocks]
    return {"cpu_ratio": median_interval(ratios)}
