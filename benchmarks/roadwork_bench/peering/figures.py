"""From the blocks of all rounds to the figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roadwork_bench.medians import median_interval
from roadwork_bench.tiers.timing import Requests

RESAMPLES = 1000
Blocks = Mapping[str, Sequence[Requests]]
"""Side -> its blocks, one a round, in the order of the rounds."""


def side_figures(blocks: Sequence[Requests]) -> dict[str, Any]:
    """What one side did over its blocks; latencies in milliseconds, processor time a request in milliseconds."""
    latencies = np.concatenate([block.latencies for block in blocks]) * 1000
    names = set.intersection(*(set(block.measured) for block in blocks))
    return {
        "requests": len(latencies),
        "milliseconds_p50": round(float(np.quantile(latencies, 0.5)), 2),
        "milliseconds_p99": round(float(np.quantile(latencies, 0.99)), 2),
        "milliseconds_p99_interval_95": _bootstrap([blocks], lambda sides: quantile(sides[0], 0.99) * 1000),
        **{name: round(float(np.median([block.measured[name] for block in blocks])), 3) for name in sorted(names)},
    }


def saturated_figures(blocks: Blocks, bare: str, ours: str, peers: Sequence[str]) -> dict[str, Any]:
    """Throughput of every side, and the ratios of neighbouring blocks to the bare loop and to the best peer."""
    speeds = {name: [block.throughput for block in rounds] for name, rounds in blocks.items()}
    sides = {
        name: {"images_per_second": round(float(np.median(speeds[name])), 3), **side_figures(rounds)}
        for name, rounds in blocks.items()
    }
    best = max(peers, key=lambda name: float(np.median(speeds[name])), default=None)
    found: dict[str, Any] = {
        "sides": sides,
        "to_bare": {name: median_interval(divided(speeds[name], speeds[bare])) for name in speeds if name != bare},
        "best_peer": best,
    }
    if best is not None:
        others = [name for name in speeds if name not in (bare, best)]
        found["to_best_peer"] = {name: median_interval(divided(speeds[name], speeds[best])) for name in others}
        found["ours_to_each_peer"] = {name: median_interval(divided(speeds[ours], speeds[name])) for name in peers}
    return found


def rate_figures(blocks: Blocks, ours: str, peers: Sequence[str]) -> dict[str, Any]:
    """Latencies of every side, and our p50 and p99 as a multiple of each peer's over the same rounds."""
    found: dict[str, Any] = {"sides": {name: side_figures(rounds) for name, rounds in blocks.items()}}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        found[f"ours_to_each_peer_{name}"] = {
            peer: quantile_ratio(blocks[ours], blocks[peer], share) for peer in peers if peer in blocks
        }
    return found


def quantile_ratio(one: Sequence[Requests], other: Sequence[Requests], share: float) -> dict[str, Any]:
    """Ratio of a quantile of all latencies, with an interval from resampling whole rounds of both sides together."""
    value = quantile(one, share) / quantile(other, share)
    interval = _bootstrap([one, other], lambda sides: quantile(sides[0], share) / quantile(sides[1], share))
    return {"median": round(value, 4), "interval_95": interval}


def quantile(blocks: Sequence[Requests], share: float) -> float:
    """Seconds, of all latencies of the blocks."""
    return float(np.quantile(np.concatenate([block.latencies for block in blocks]), share))


def divided(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Ratios of neighbours."""
    return [a / b for a, b in zip(one, other, strict=True)]


def _bootstrap(sides: Sequence[Sequence[Requests]], value: Any) -> list[float]:
    """95% percentile interval of `value` over resampled rounds; the same rounds of every side."""
    rounds = len(sides[0])
    rng = np.random.default_rng(0)
    drawn: NDArray[np.int64] = rng.integers(0, rounds, (RESAMPLES if rounds > 1 else 1, rounds))
    values = [value([[side[index] for index in row] for side in sides]) for row in drawn]
    low, high = np.quantile(values, [0.025, 0.975])
    return [round(float(low), 4), round(float(high), 4)]
