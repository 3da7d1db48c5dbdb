"""From recorded scores to the numbers of a policy: calibration, pool, threshold and bounds.

What is fitted in which images:
* calibration of each member, then alpha and beta of the pool: all training images (two numbers each, with a prior);
* threshold and bounds: predictions that inner grouped folds made of images whose groups they were not fitted on.
The weights of the members are the plan's and stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade import pool
from roadwork_cascade.policy import Policy, parse_policy
from roadwork_cascade.policy_parts import VOTELESS
from threadpoolctl import threadpool_limits

from roadwork_bench.bounds import exit_bounds
from roadwork_bench.calibration import fit_constant, fit_slope_and_shift
from roadwork_bench.exits import exits_taken, with_cuts, without_settled
from roadwork_bench.landscape import landscape, without_idle
from roadwork_bench.replay import Replay, replay, steps, unbounded
from roadwork_bench.sample import Sample, balanced_weights, grouped_folds
from roadwork_bench.search import choose, search
from roadwork_bench.settings import GRID, TOLERANCE, Settings, rounded
from roadwork_bench.spending import Spending
from roadwork_bench.statistics import mcc_from_rates

IDLE = (0.4, 0.6)
"""A text member that read nothing does not enter the pool where that tells less than this."""


@dataclass(frozen=True)
class Prepared:
    """What is fitted before the bounds.

    policy: calibration, pool, threshold and conditions, without an early end. held_back: every image routed without
    early ends by calibrations of other groups, tiers asked also where they cannot change the verdict. as_served: the
    same with this threshold and these conditions, tiers asked only where they can.
    """

    policy: Policy
    held_back: Replay
    as_served: Replay


def prepare(sample: Sample, policy: Policy, settings: Settings) -> Prepared:
    """Fit calibration, pool, threshold and conditions. Raises BenchError where a class has too few groups."""
    data = without_settled(policy.to_dict())
    policy = parse_policy(data)
    with threadpool_limits(limits=1, user_api="blas"):  # two numbers a fit: several threads only wait for each other
        held_back, folds = _held_back(sample, policy, settings)
        weights = balanced_weights(sample.labels, sample.groups, sample.sources)
        threshold = rounded(best_threshold(sample.labels, held_back.probability, weights))
        fitted = _with_threshold(_calibrated(sample, policy), threshold)
    as_served = Replay.empty(*held_back.asked.shape)
    for fold, test in folds:
        _put(as_served, test, replay(_with_threshold(fold, threshold), sample.take(test), all_stages=False))
    return Prepared(fitted, held_back, as_served)


def fit_policy(
    sample: Sample, policy: Policy, settings: Settings | None = None, spending: Spending | None = None
) -> Policy:
    """The policy with calibration, pool, threshold and bounds fitted to the sample.

    `spending`: of the sample's images at the policy's steps; needed where the settings bound it. Members that the
    sample has no score of keep their numbers. Raises BenchError where a class has too few groups, and where no policy
    holds the bound.
    """
    settings = settings or Settings()
    prepared = prepare(sample, policy, settings)
    if settings.bounded:
        if spending is None:
            raise ValueError("a bound on cost or time needs the spending")
        land = landscape(prepared.policy, prepared.as_served, sample, spending)
        return with_cuts(prepared.policy, without_idle(land, choose(search(land, settings), settings).cuts))
    data = prepared.policy.to_dict()
    for step, bounds in zip(
        _steps(data), exit_bounds(sample, prepared.held_back, prepared.policy.threshold, settings), strict=True
    ):
        step["accept"], step["reject"] = bounds
    return parse_policy(data)


def _with_threshold(policy: Policy, threshold: float) -> Policy:
    data = policy.to_dict() | {"threshold": threshold}
    _ask_where_it_matters(data)
    return parse_policy(data)


def _ask_where_it_matters(data: dict[str, Any]) -> None:
    """Set `when` of stages of text members alone to the probabilities that their words could lift over the threshold.

    Such a member speaks only for roadwork (what it does not read does not enter the pool), so it cannot change a yes,
    nor a no that lies too low. With S and W the pool and weight before it, w and l its own weight and largest logit:
    (W S + w l) / (W + w) >= S_threshold gives the lowest S.
    """
    alpha, beta = data["pool"]["alpha"], data["pool"]["beta"]
    least = (float(pool.logit(data["threshold"])) - beta) / alpha
    before = 0.0
    for stage in data["stages"]:
        members = [member for member in stage["members"].values() if member["kind"] not in VOTELESS]
        weight = sum(member["weight"] for member in members)
        if before and all(member["kind"] == "text" and member["nothing"] is None for member in members):
            largest = max(float(pool.logit(pool.calibrate(1.0, m["a"], m["b"]))) for m in members)
            lowest = (least * (before + weight) - weight * largest) / before
            low = rounded(float(pool.sigmoid(alpha * lowest + beta)))
            if low < data["threshold"]:
                stage["when"] = {"min_probability": low, "max_probability": data["threshold"]}
        before += weight


def best_threshold(labels: NDArray, probabilities: NDArray, weights: NDArray) -> float:
    """Of the logit-spaced candidates with the best weighted MCC (to within `TOLERANCE`), the one nearest to 1/2.

    1/2 is where calibrated probabilities of balanced classes are cut best, so it is what a small sample is shrunk to.
    """
    said = probabilities[:, np.newaxis] >= GRID
    positive, negative = weights * (labels == 1), weights * (labels == 0)
    fpr, fnr = negative @ said / negative.sum(), positive @ ~said / positive.sum()
    scores = mcc_from_rates(positive.sum() / weights.sum(), fpr, fnr)
    good = GRID[scores >= scores.max() - TOLERANCE]
    return float(good[np.argmin(np.abs(pool.logit(good)))])


@dataclass(frozen=True)
class Tested:
    """Out-of-fold results for every image of a sample, in its order; nothing here was fitted on the image's group."""

    probability: NDArray[np.float64]
    decision: NDArray[np.bool_]
    all_stages_probability: NDArray[np.float64]
    all_stages_decision: NDArray[np.bool_]
    asked: NDArray[np.bool_]
    fold: NDArray[np.int64]
    left: NDArray[np.object_]
    """The exit that each image took, see `exits.exits_taken`."""


def cross_validate(
    sample: Sample, policy: Policy, settings: Settings | None = None, spending: Spending | None = None
) -> Tested:
    """Fit everything on the training groups of each fold, inner folds included, and route the others."""
    settings = settings or Settings()
    n = len(sample)
    result = Tested(
        *(np.full(n, np.nan), np.zeros(n, bool), np.full(n, np.nan), np.zeros(n, bool)),
        asked=np.zeros((n, len(steps(policy))), bool),
        fold=np.full(n, -1),
        left=np.full(n, "", dtype=object),
    )
    for number, (train, test) in enumerate(_folds(sample, settings)):
        fitted = fit_policy(sample.take(train), policy, settings, spending and spending.take(train))
        staged = replay(fitted, sample.take(test), all_stages=False)
        full = replay(fitted, sample.take(test), all_stages=True)
        result.probability[test], result.decision[test] = staged.probability, staged.probability >= fitted.threshold
        result.all_stages_probability[test] = full.probability
        result.all_stages_decision[test] = full.probability >= fitted.threshold
        result.asked[test] = staged.asked
        result.fold[test] = number
        result.left[test] = exits_taken(fitted, staged)
    return result


def _calibrated(sample: Sample, policy: Policy) -> Policy:
    """Calibration of each member, then alpha and beta of the pool that the routing leaves without early ends."""
    weights = balanced_weights(sample.labels, sample.groups, sample.sources)
    data = unbounded(policy).to_dict()
    for step in _steps(data):
        for name, member in step["members"].items():
            if member["kind"] in VOTELESS:
                continue
            member.update(_fit_member(sample.of(name), member, sample.labels, weights))
    data["pool"] = {"alpha": 1.0, "beta": 0.0}
    for _ in range(2):  # whether a stage is asked depends on the pool, so the second pass sees what the first changed
        current = parse_policy(data)
        x = pool.logit(replay(current, sample, all_stages=False, needless=True).probability)
        x = (x - current.pool.beta) / current.pool.alpha
        alpha, beta = fit_slope_and_shift(x, sample.labels, weights)
        data["pool"] = {"alpha": rounded(alpha), "beta": rounded(beta)}
    return parse_policy(data)


def _fit_member(raw: NDArray, member: dict[str, Any], labels: NDArray, weights: NDArray) -> dict[str, Any]:
    answered = ~np.isnan(raw)
    if not answered.any():
        return {}
    silent = answered & (raw < pool.NOTHING_BELOW) & (member["kind"] in ("boxes", "text"))
    spoke = answered & ~silent
    a, b = fit_slope_and_shift(pool.logit(raw[spoke]), labels[spoke], weights[spoke])
    fitted: dict[str, Any] = {"a": rounded(a), "b": rounded(b)}
    silence = rounded(fit_constant(labels[silent], weights[silent]))
    if member["kind"] == "text":
        # Most streets have no words either way: silence that says nothing would only water down those who looked.
        fitted["nothing"] = None if IDLE[0] <= silence <= IDLE[1] else silence
    elif member["kind"] == "boxes" and member["nothing"] is not None:
        fitted["nothing"] = silence
    return fitted


def _held_back(sample: Sample, policy: Policy, settings: Settings) -> tuple[Replay, list[tuple[Policy, NDArray]]]:
    """Every image routed, without early ends, by a calibration of the other inner folds; the calibrations, and whom
    each of them did not see."""
    result = Replay.empty(len(sample), len(steps(policy)))
    calibrated = []
    for train, test in _folds(sample, settings):
        fold = _calibrated(sample.take(train), policy)
        _put(result, test, replay(fold, sample.take(test), all_stages=False, needless=True))
        calibrated.append((fold, test))
    return result, calibrated


def _put(whole: Replay, index: NDArray, part: Replay) -> None:
    for name, values in vars(part).items():
        getattr(whole, name)[index] = values


def _folds(sample: Sample, settings: Settings) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return grouped_folds(sample.labels, sample.groups, settings.folds, settings.seed)


def _steps(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Stages, then tiers, of a policy as plain data: the columns of a `Replay`."""
    return [*data["stages"], *data.get("tiers", [])]
