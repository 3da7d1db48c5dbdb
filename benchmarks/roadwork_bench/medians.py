"""The median of a few pairs or rounds, and what so few of them say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 10_000
ENOUGH = 6
"""Pairs from which on an interval of their median can hold 95%: the range of n holds it with 1 - 2^(1 - n)."""


def median_interval(values: Sequence[float]) -> dict[str, Any]:
    """Median with a 95% percentile bootstrap interval, and the values. Of fewer than `ENOUGH` it is their range."""
    data = np.asarray(values, np.float64)
    drawn = np.random.default_rng(0).integers(0, len(data), (RESAMPLES, len(data)))
    low, high = np.quantile(np.median(data[drawn], axis=1), [0.025, 0.975])
    if len(data) < ENOUGH:
        low, high = data.min(), data.max()
    return {
        "median": round(float(np.median(data)), 4),
        "interval_95": [round(float(low), 4), round(float(high), 4)],
        "pairs": [round(float(value), 4) for value in data],
    }


def shown(found: Mapping[str, Any]) -> str:
    """A median with its interval, for people."""
    low, high = found["interval_95"]
    return f"{found['median']:.3f} ({low:.3f} to {high:.3f}{of_few(found)})"


def of_few(found: Mapping[str, Any]) -> str:
    """That an interval is the range of so few pairs; nothing where there are enough of them."""
    pairs = len(found.get("pairs", ()))
    return f", range of {pairs}" if 0 < pairs < ENOUGH else ""
