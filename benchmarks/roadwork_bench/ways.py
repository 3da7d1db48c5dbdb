"""Ways to decide on the same images, each with what it takes: the cascade, perception alone, a tier alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade import pool
from roadwork_cascade.policy import Policy
from roadwork_cascade.policy_parts import Tier

from roadwork_bench.calibration import fit_slope_and_shift
from roadwork_bench.fitting import Tested, best_threshold, cross_validate
from roadwork_bench.replay import without_members
from roadwork_bench.sample import Sample, balanced_weights, grouped_folds
from roadwork_bench.settings import Settings
from roadwork_bench.spending import Spending, spending_of
from roadwork_bench.statistics import figures
from roadwork_bench.table import Row

PERCEPTION, PERCEPTION_ALWAYS = "perception alone", "perception alone, all stages always"
ALWAYS = "all stages and tiers always"


@dataclass(frozen=True)
class Way:
    """Of n images: decisions, cost and milliseconds. Nothing was fitted on an image's own group."""

    name: str
    decision: NDArray[np.bool_]
    cost: NDArray[np.float64]
    milliseconds: NDArray[np.float64]

    def figures(self, sample: Sample) -> dict[str, Any]:
        """Every figure of the decisions, with mean seconds and cost of an image."""
        return {
            **figures(sample.labels, self.decision, list(sample.groups)),
            "seconds_an_image": float(f"{self.milliseconds.mean() / 1000:.4g}"),
            "cost_an_image": float(f"{self.cost.mean():.4g}"),
        }


def asked_way(name: str, decision: NDArray[np.bool_], asked: NDArray[np.bool_], spending: Spending) -> Way:
    """A way that asks these steps [n, k] of a policy."""
    return Way(name, decision, spending.cost_of(asked), spending.milliseconds_of(asked))


def always_way(name: str, tested: Tested, spending: Spending) -> Way:
    """Everything asked of every image, by a cascade that was cross-validated."""
    return asked_way(name, tested.all_stages_decision, np.ones_like(tested.asked), spending)


def without_tiers(policy: Policy) -> Policy:
    """Perception of the policy."""
    return without_members(policy, [tier.member.name for tier in policy.tiers])


def perception_ways(sample: Sample, policy: Policy, settings: Settings, rows: Sequence[Row]) -> list[Way]:
    """Perception alone, fitted without the tiers: with early exits by `exit_error`, and with all stages always."""
    bare, unbound = without_tiers(policy), replace(settings, max_cost=None, max_ms=None)
    tested, spending = cross_validate(sample, bare, unbound), spending_of(rows, bare)
    early = asked_way(PERCEPTION, tested.decision, tested.asked, spending)
    return [early, always_way(PERCEPTION_ALWAYS, tested, spending)]


def tier_ways(sample: Sample, policy: Policy, settings: Settings, spending: Spending) -> tuple[list[Way], list[str]]:
    """Each tier alone, asked of every image; and a note for each that did not answer all of them."""
    ways, notes = [], []
    for number, tier in enumerate(policy.tiers):
        answered = ~np.isnan(sample.of(tier.member.name))
        if not answered.all():
            notes.append(f"{tier.member.name} did not answer {int((~answered).sum())} images and is not shown alone")
            continue
        column = len(policy.stages) + number
        asked = np.zeros(spending.cost.shape, bool)
        asked[:, column] = True
        ways.append(asked_way(f"{tier.member.name} alone", tier_alone(sample, tier, settings), asked, spending))
    return ways, notes


def tier_alone(sample: Sample, tier: Tier, settings: Settings) -> NDArray[np.bool_]:
    """Decisions of one tier's answers, calibrated and cut as fitted on other groups."""
    raw = pool.logit(sample.of(tier.member.name))
    decision = np.zeros(len(sample), bool)
    for train, test in grouped_folds(sample.labels, sample.groups, settings.folds, settings.seed):
        labels = sample.labels[train]
        weights = balanced_weights(labels, sample.groups[train], sample.sources[train])
        a, b = fit_slope_and_shift(raw[train], labels, weights)
        threshold = best_threshold(labels, pool.sigmoid(a * raw[train] + b), weights)
        decision[test] = pool.sigmoid(a * raw[test] + b) >= threshold
    return decision
