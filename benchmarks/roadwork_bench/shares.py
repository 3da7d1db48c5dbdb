"""A tier asked of a given share of the images, those perception is least sure of, from none of them to all.

Perception always runs whole here, so that only the tier's share differs. On each fold's training groups the band
around the threshold is widened until the share lies in it, and the threshold of the mixture is fitted again; both are
then used on groups that were not seen. Such a band is what a policy's routes say with `min_probability` and
`max_probability`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade import pool
from roadwork_cascade.policy import Policy, parse_policy

from roadwork_bench.comparison import compare
from roadwork_bench.fitting import best_threshold, prepare
from roadwork_bench.landscape import after_stages
from roadwork_bench.replay import Replay, replay
from roadwork_bench.sample import Sample, balanced_weights, grouped_folds
from roadwork_bench.settings import Settings
from roadwork_bench.spending import spending_of
from roadwork_bench.table import Row
from roadwork_bench.ways import Way, asked_way

SHARES = (0.0, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0)
MOST = 0.25
"""Largest share of the images that the comparison with asking the tier of all of them allows."""


@dataclass(frozen=True)
class Curve:
    """One climb: for each share wanted, the decisions on all images and the share that was really asked."""

    climb: tuple[str, ...]
    shares: tuple[float, ...]
    asked: tuple[float, ...]
    ways: tuple[Way, ...]


def climbs_to_try(policy: Policy) -> list[tuple[str, ...]]:
    """Each tier by itself, and each climb of several that a route of the policy takes."""
    several = dict.fromkeys(route.climb for route in policy.routes if len(route.climb) > 1)
    return [*((tier.name,) for tier in policy.tiers), *several]


def climb_only(policy: Policy, climb: Sequence[str]) -> Policy:
    """The policy whose only route takes every image up this climb; no bounds, no other tiers."""
    data = policy.to_dict()
    data["tiers"] = [tier for tier in data["tiers"] if tier["name"] in climb]
    for step in [*data["stages"], *data["tiers"]]:
        step["accept"] = step["reject"] = None
    for tier in data["tiers"]:
        tier["when"] = None
    data["routes"] = [{"name": "all", "when": None, "climb": list(climb)}]
    return parse_policy(data)


def curve(
    sample: Sample,
    policy: Policy,
    rows: Sequence[Row],
    climb: Sequence[str],
    shares: Sequence[float],
    settings: Settings,
) -> Curve:
    """Decisions for every share, out of fold."""
    only = climb_only(policy, climb)
    count, spending = len(only.stages), spending_of(rows, only)
    decision = np.zeros((len(shares), len(sample)), bool)
    asked = np.zeros((len(shares), *spending.cost.shape), bool)
    for train, test in grouped_folds(sample.labels, sample.groups, settings.folds, settings.seed):
        inside = sample.take(train)
        prepared = prepare(inside, only, settings)
        seen = prepared.held_back
        fresh = replay(prepared.policy, sample.take(test), all_stages=False, needless=True)
        weights = balanced_weights(inside.labels, inside.groups, inside.sources)
        first = best_threshold(inside.labels, after_stages(seen, count), weights)
        distance = _distance(seen, count, first)
        for k, share in enumerate(shares):
            reach = -1.0 if share == 0 else np.inf if share == 1 else float(np.quantile(distance, share))
            threshold = best_threshold(inside.labels, _mixed(seen, count, distance <= reach), weights)
            climbed = _distance(fresh, count, first) <= reach
            decision[k, test] = _mixed(fresh, count, climbed) >= threshold
            asked[k, test] = fresh.asked
            asked[k, test, count:] &= climbed[:, np.newaxis]
    names = [f"{' then '.join(climb)}, {share:.0%} wanted" for share in shares]
    ways = [asked_way(name, said, steps, spending) for name, said, steps in zip(names, decision, asked, strict=True)]
    really = [float(one[:, count:].any(axis=1).mean()) for one in asked]
    return Curve(tuple(climb), tuple(shares), tuple(really), tuple(ways))


def curve_report(found: Curve, sample: Sample) -> dict[str, Any]:
    """Figures of each share, and what the largest one that really asks at most `MOST` loses against asking always.

    `saving`: of the cost and of the seconds that asking always takes.
    """
    points = [
        {"wanted": share, "asked": round(asked, 4), **way.figures(sample)}
        for share, asked, way in zip(found.shares, found.asked, found.ways, strict=True)
    ]
    report: dict[str, Any] = {"climb": list(found.climb), "points": points}
    allowed = [k for k, asked in enumerate(found.asked) if 0 < asked <= MOST]
    if allowed and found.shares[-1] == 1:
        chosen = max(allowed, key=lambda k: found.asked[k])
        report["at_most_a_quarter"] = {
            "asked": points[chosen]["asked"],
            **versus(found.ways[chosen], found.ways[-1], sample),
        }
    return report


def versus(few: Way, always: Way, sample: Sample) -> dict[str, Any]:
    """A way that asks few against one that asks always; `verdict` by exact McNemar at 5%, two-sided."""
    found = compare(sample.labels, always.decision, few.decision, list(sample.groups))
    worse = found["mcnemar_p"] < 0.05 and found["only_first_right"] > found["only_second_right"]
    better = found["mcnemar_p"] < 0.05 and not worse
    return {
        "against": always.name,
        "only_few_right": found["only_second_right"],
        "only_always_right": found["only_first_right"],
        "mcnemar_p": found["mcnemar_p"],
        "mcc_gain": found["mcc_gain"],
        "mcc_gain_by_drive_95": found["mcc_gain_by_drive_95"],
        "verdict": "worse" if worse else "better" if better else "not worse",
        "saving": {
            "cost": _saved(few.cost, always.cost),
            "seconds": _saved(few.milliseconds, always.milliseconds),
        },
    }


def _saved(few: NDArray, always: NDArray) -> float | None:
    """Share of the mean that is saved; None where asking always is free."""
    return round(1 - float(few.mean() / always.mean()), 4) if always.mean() > 0 else None


def _distance(routed: Replay, count: int, threshold: float) -> NDArray[np.float64]:
    """[n]: how far perception is from the threshold, in logits."""
    return np.abs(pool.logit(after_stages(routed, count)) - pool.logit(threshold))


def _mixed(routed: Replay, count: int, climbed: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(climbed, routed.probability, after_stages(routed, count))
