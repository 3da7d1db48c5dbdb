"""Cost against MCC: what the search finds on validation folds, and what its choices are worth on groups not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.policy import Policy

from roadwork_bench.errors import BenchError
from roadwork_bench.exits import with_cuts
from roadwork_bench.fitting import Tested, prepare
from roadwork_bench.landscape import landscape, outcome
from roadwork_bench.replay import replay
from roadwork_bench.sample import Sample, grouped_folds
from roadwork_bench.search import Found, choose, search
from roadwork_bench.settings import Settings
from roadwork_bench.spending import Spending, spending_of
from roadwork_bench.statistics import figures
from roadwork_bench.table import Row
from roadwork_bench.ways import ALWAYS, Way, always_way, asked_way, perception_ways, tier_ways

POINTS = 10
"""Bounds at which the search is tested out of fold, evenly spaced in the logarithm."""


def axis_of(settings: Settings) -> str:
    """What is bounded and plotted: `ms` or `cost`."""
    return "ms" if settings.max_ms is not None else "cost"


def frontier_report(
    sample: Sample, policy: Policy, rows: Sequence[Row], settings: Settings, tested: Tested
) -> dict[str, Any]:
    """The whole picture as plain data. `tested`: the policy that is written, cross-validated with these settings.

    `validation` is monotone: dearer points have a higher MCC. Its images chose it, so it is optimistic; `out_of_fold`
    is not. Raises BenchError where a member has no time.
    """
    spending = spending_of(rows, policy)
    axis = axis_of(settings)
    prepared = prepare(sample, policy, settings)
    land = landscape(prepared.policy, prepared.as_served, sample, spending)
    found = search(land, settings)
    groups = list(sample.groups)
    points = []
    for one in found:
        decision, spent = outcome(land, one.cuts)
        cost, milliseconds = spent.mean(axis=0)
        points.append(
            {
                "mcc": figures(sample.labels, decision, groups)["mcc"],
                "mcc_balanced": round(one.mcc, 4),
                "cost_an_image": float(f"{cost:.4g}"),
                "ms_an_image": float(f"{milliseconds:.4g}"),
            }
        )
    chosen = asked_way("chosen", tested.decision, tested.asked, spending)
    ways = [always_way(ALWAYS, tested, spending)]
    notes: list[str] = []
    if policy.tiers:
        ways += perception_ways(sample, policy, settings, rows)
        alone, notes = tier_ways(sample, policy, settings, spending)
        ways += alone
    return {
        "axis": axis,
        "bound": settings.max_ms if axis == "ms" else settings.max_cost,
        "chosen": _point(chosen, sample),
        "validation": unbeaten(points, f"{axis}_an_image"),
        "out_of_fold": _out_of_fold(sample, policy, spending, settings, _bounds(found, axis)),
        "ways": {way.name: _point(way, sample) for way in ways},
        "notes": notes,
    }


def unbeaten(points: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The points that no cheaper one reaches in MCC, the cheapest first."""
    kept: list[dict[str, Any]] = []
    for one in sorted(points, key=lambda one: (one[key], -one["mcc"])):
        if not kept or one["mcc"] > kept[-1]["mcc"]:
            kept.append(one)
    return kept


def _point(way: Way, sample: Sample) -> dict[str, Any]:
    found = way.figures(sample)
    return {**found, "ms_an_image": float(f"{way.milliseconds.mean():.4g}")}


def _bounds(found: Sequence[Found], axis: str) -> NDArray[np.float64]:
    """Evenly spaced over what the search found; a policy without prices is all at cost 0 and gives one."""
    low, high = getattr(found[0], axis), getattr(found[-1], axis)
    return np.geomspace(low, high, POINTS) if 0 < low < high else np.array([high])


def _out_of_fold(
    sample: Sample, policy: Policy, spending: Spending, settings: Settings, bounds: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """For each bound, the policies that the search chose on training groups, on the others.

    A fold whose cheapest policy is over the bound takes that one; what is given is what was really spent.
    """
    decision = np.zeros((len(bounds), len(sample)), bool)
    cost, milliseconds = np.zeros(decision.shape), np.zeros(decision.shape)
    over = np.zeros(len(bounds), int)
    for train, test in grouped_folds(sample.labels, sample.groups, settings.folds, settings.seed):
        inside = sample.take(train)
        prepared = prepare(inside, policy, settings)
        found = search(landscape(prepared.policy, prepared.as_served, inside, spending.take(train)), settings)
        for k, bound in enumerate(bounds):
            ms = axis_of(settings) == "ms"
            limits = replace(settings, max_ms=float(bound) if ms else None, max_cost=None if ms else float(bound))
            try:
                one = choose(found, limits)
            except BenchError:
                one, over[k] = found[0], over[k] + 1
            fitted = with_cuts(prepared.policy, one.cuts)
            fresh = replay(fitted, sample.take(test), all_stages=False)
            decision[k, test] = fresh.probability >= fitted.threshold
            there = spending.take(test)
            cost[k, test], milliseconds[k, test] = there.cost_of(fresh.asked), there.milliseconds_of(fresh.asked)
    return [
        {
            "bound": float(f"{bound:.4g}"),
            "folds_over_the_bound": int(over[k]),
            **_point(Way("", decision[k], cost[k], milliseconds[k]), sample),
        }
        for k, bound in enumerate(bounds)
    ]
