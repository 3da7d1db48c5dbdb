"""Searches a small grid of serving settings for the most throughput that holds a latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

GAIN = 0.02
"""By how much a neighbour must be better for the search to go on: less is a run's noise."""


@dataclass(frozen=True)
class Candidate:
    """Settings of one model.

    Attributes:
        instances: of the model.
        batch: requests computed together at most; 1: they are not batched; None: the model does not batch at all.
        delay_ms: that a request waits for others; None where nothing is batched.
    """

    instances: int
    batch: int | None = None
    delay_ms: float | None = None

    def with_(self, axis: str, value: Any) -> Candidate:
        """The same with another value; what is not batched waits for nobody."""
        changed = replace(self, **{axis: value})
        if changed.batch in (None, 1):
            return replace(changed, delay_ms=None)
        return replace(changed, delay_ms=changed.delay_ms or 0.0)

    def __str__(self) -> str:
        parts = [f"{self.instances} instance{'s' if self.instances > 1 else ''}"]
        if self.batch is not None:
            parts.append("no batching" if self.batch == 1 else f"batches of {self.batch} at most")
        if self.delay_ms is not None:
            parts.append(f"{self.delay_ms:g} ms of waiting")
        return ", ".join(parts)


@dataclass(frozen=True)
class Judged:
    """What a candidate reached.

    Attributes:
        throughput: most answers a second with which it holds the target; 0 where it never does.
        p99_ms: at that load, or with one request in flight where it does not hold.
    """

    candidate: Candidate
    throughput: float
    p99_ms: float

    @property
    def holds(self) -> bool:
        return self.throughput > 0

    def better_than(self, other: Judged) -> bool:
        """By more than `GAIN`: holding beats not holding, then throughput, or the latency where neither holds."""
        if self.holds != other.holds:
            return self.holds
        if self.holds:
            return self.throughput > other.throughput * (1 + GAIN)
        return self.p99_ms < other.p99_ms * (1 - GAIN)


def coordinate_search(
    start: Candidate,
    axes: Mapping[str, Sequence[Any]],
    judge: Callable[[Candidate], Judged],
    at_most: int,
) -> tuple[Judged, bool]:
    """Climb along one axis after the other, in both directions, until no axis helps.

    Each axis is walked from where the search stands for as long as it gets better (`Judged.better_than`), so that a
    grid of a hundred needs ten or so. It finds the best of the grid where improving one setting does not need two to
    change at once, which holds for these: instances and batches both add throughput, a delay only matters for batches.

    Args:
        start: where to begin; its values are on the axes.
        axes: setting -> its values in order.
        judge: measures a candidate; asked once for each.
        at_most: candidates to measure.

    Returns:
        The best that was measured, and whether the search came to its end before `at_most`.
    """
    known: dict[Candidate, Judged] = {start: judge(start)}
    best = known[start]
    moved = True
    while moved:
        moved = False
        for axis, values in axes.items():
            for direction in (1, -1):
                while (following := _neighbour(best.candidate, axis, values, direction)) is not None:
                    if following not in known:
                        if len(known) >= at_most:
                            return best, False
                        known[following] = judge(following)
                    if not known[following].better_than(best):
                        break
                    best, moved = known[following], True
    return best, True


def _neighbour(candidate: Candidate, axis: str, values: Sequence[Any], direction: int) -> Candidate | None:
    """The next along the axis; None at its end, and for a setting that this candidate does not have."""
    have = getattr(candidate, axis)
    if have is None or have not in values:
        return None
    index = list(values).index(have) + direction
    return candidate.with_(axis, values[index]) if 0 <= index < len(values) else None


def doubling(limit: int) -> list[int]:
    """1, 2, 4, ... up to the limit."""
    return [1 << power for power in range(limit.bit_length())]


def nearest(values: Sequence[Any], wanted: float) -> Any:
    """The largest value that is not over `wanted`, or the first."""
    return max((value for value in values if value <= wanted), default=values[0])
