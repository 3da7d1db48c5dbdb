"""The knee of a curve of throughput and latency."""

from __future__ import annotations

from collections.abc import Sequence


def knee(throughput: Sequence[float], latency: Sequence[float]) -> int | None:
    """Index of the point with the most power, throughput divided by latency; None of fewer than three points.

    More load past this point buys less throughput, in proportion, than it costs latency: for a smooth curve it is where
    a line through the origin touches the curve of latency over throughput. Power is due to Giessler, Haenle, Koenig and
    Pade (Free buffer allocation, Computer Networks 2, 1978); that its maximum is the point to run a queue at, to
    Kleinrock (Power and deterministic rules of thumb for probabilistic problems in computer communications, ICC 1979).
    It needs no scale, no smoothing and no parameter, so that it is defined for the few points of a sweep.

    Args:
        throughput: answers a second, one a point.
        latency: mean latency, in any unit, one a point.
    """
    if len(throughput) < 3:
        return None
    power = [rate / delay for rate, delay in zip(throughput, latency, strict=True)]
    return max(range(len(power)), key=power.__getitem__)
