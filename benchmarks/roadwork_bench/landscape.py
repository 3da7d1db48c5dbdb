"""Images routed to the end once: what any choice of bounds would have told each of them, and spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade import pool
from roadwork_cascade.policy import Policy

from roadwork_bench.exits import Cut, climbs
from roadwork_bench.replay import Replay
from roadwork_bench.sample import Sample, balanced_weights
from roadwork_bench.spending import Spending


@dataclass(frozen=True)
class Landscape:
    """n images routed to the end, and what bounds at k columns (`exits.columns`) could do with each.

    p [n, k]: probability where a bound would look, NaN where the column was not asked. yes, no [n, k]: may end there on
    that side. spent [n, k]: cost and milliseconds [n, k, 2] up to and with the column. final [n]: decision at the end.
    """

    threshold: float
    labels: NDArray[np.bool_]
    weights: NDArray[np.float64]
    place: NDArray[np.int64]
    p: NDArray[np.float64]
    yes: NDArray[np.bool_]
    no: NDArray[np.bool_]
    spent: NDArray[np.float64]
    final: NDArray[np.bool_]


def landscape(policy: Policy, routed: Replay, sample: Sample, spending: Spending) -> Landscape:
    """Of images routed without early ends; `routed` may come from several folds of one policy."""
    count = len(policy.stages)
    p, yes, no = routed.by_stage, routed.may_accept, routed.may_reject
    spent = np.stack([spending.cost, spending.milliseconds], axis=2) * routed.asked[:, :, np.newaxis]
    if climbs(policy):
        p = np.insert(p, count, after_stages(routed, count), axis=1)
        yes, no = (np.insert(side, count, routed.quorate, axis=1) for side in (yes, no))
        spent = np.insert(spent, count, 0.0, axis=1)
    spent = spent.cumsum(axis=1)
    spent[:, :, 1] += spending.decode[:, np.newaxis]
    return Landscape(
        policy.threshold,
        sample.labels == 1,
        balanced_weights(sample.labels, sample.groups, sample.sources),
        np.unique(sample.groups, return_inverse=True)[1],
        p,
        yes,
        no,
        spent,
        routed.probability >= policy.threshold,
    )


def leaves(land: Landscape, cuts: list[Cut]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """[n, k] each: whether the image would end at the column with yes, and with no, if it got there."""
    accept = np.array([np.inf if cut[0] is None else cut[0] for cut in cuts])
    reject = np.array([-np.inf if cut[1] is None else cut[1] for cut in cuts])
    with np.errstate(invalid="ignore"):
        return land.yes & (land.p >= accept), land.no & (land.p <= reject)


def outcome(land: Landscape, cuts: Sequence[Cut]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Decision [n], and cost and milliseconds [n, 2], of every image under these cuts."""
    yes, no = leaves(land, list(cuts))
    count = land.p.shape[1]
    ends = yes | no
    at = np.where(ends.any(axis=1), ends.argmax(axis=1), count)
    rows, inside = np.arange(len(at)), np.minimum(at, count - 1)
    return np.where(at < count, yes[rows, inside], land.final), land.spent[rows, inside]


def without_idle(land: Landscape, cuts: Sequence[Cut]) -> tuple[Cut, ...]:
    """The cuts less those that no image of the landscape reaches."""
    yes, no = leaves(land, list(cuts))
    here: NDArray[np.bool_] = np.cumsum(yes | no, axis=1) - (yes | no) == 0
    used = zip(cuts, (yes & here).any(axis=0), (no & here).any(axis=0), strict=True)
    return tuple((cut[0] if by_yes else None, cut[1] if by_no else None) for cut, by_yes, by_no in used)


def after_stages(routed: Replay, count: int) -> NDArray[np.float64]:
    """[n]: the probability after the first `count` steps, those asked."""
    after = np.full(len(routed.probability), pool.NEUTRAL)
    for index in range(count):
        after = np.where(routed.asked[:, index], routed.by_stage[:, index], after)
    return after
