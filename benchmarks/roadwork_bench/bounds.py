"""Accept and reject of each stage and tier by a limit on the errors of those who leave."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from roadwork_bench.replay import Replay
from roadwork_bench.sample import Sample
from roadwork_bench.settings import GRID, Settings, rounded
from roadwork_bench.statistics import error_rate_upper


def exit_bounds(
    sample: Sample, held_back: Replay, threshold: float, settings: Settings
) -> Iterator[tuple[float | None, float | None]]:
    """Accept and reject of each stage and tier: the widest zones that keep their errors below the bound.

    A zone is judged on the images that reach it.
    """
    inside = np.ones(len(sample), bool)
    whole = held_back.probability >= threshold
    for index in range(held_back.asked.shape[1]):
        p = held_back.by_stage[:, index]
        accept = reject = None
        for cut in GRID[threshold < GRID]:  # from the widest zone to the narrowest
            zone = inside & held_back.may_accept[:, index] & (p >= cut)
            if _safe(zone, (sample.labels == 0) & ~whole, sample.groups, settings):
                accept = rounded(float(cut))
                break
        for cut in GRID[threshold > GRID][::-1]:
            zone = inside & held_back.may_reject[:, index] & (p <= cut)
            if _safe(zone, (sample.labels == 1) & whole, sample.groups, settings):
                reject = rounded(float(cut))
                break
        if accept is not None:
            inside &= ~(held_back.may_accept[:, index] & (p >= accept))
        if reject is not None:
            inside &= ~(held_back.may_reject[:, index] & (p <= reject))
        yield accept, reject


def _safe(zone: NDArray, wrong: NDArray, groups: NDArray, settings: Settings) -> bool:
    if len(set(groups[zone])) < settings.exit_groups:
        return False
    return error_rate_upper(int((zone & wrong).sum()), int(zone.sum())) <= settings.exit_error
