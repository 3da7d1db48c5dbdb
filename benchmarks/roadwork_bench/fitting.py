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

from roadwork_bench.calibration import fit_constant, fit_slope_and_shift
from roadwork_bench.replay import Replay, replay, steps, unbounded
from roadwork_bench.sample import Sample, balanced_weights, grouped_folds
from roadwork_bench.statistics import error_rate_upper, mcc_from_rates

GRID = pool.sigmoid(np.linspace(-7, 7, 281))
"""Candidates of thresholds and bounds: evenly spaced in the logit, as most decisions are made near 0 and 1."""
TOLERANCE = 0.01
"""Thresholds whose MCC is this close to the best count as equals: so few drives cannot tell them apart."""
IDLE = (0.4, 0.6)
"""A text member that read nothing does not enter the pool where that tells less than this."""


@dataclass(frozen=True)
class Settings:
    """exit_error: most images among those that leave at a stage whose answer the whole cascade would have got right
    and the exit gets wrong, as an upper 95% bound that takes images as independent. (What no later stage would have
    mended is no reason to ask it.) exit_groups: fewest drives among them. folds: of the inner and the outer partition
    alike.
    """

    exit_error: float = 0.02
    exit_groups: int = 5
    folds: int = 5
    seed: int = 0


def fit_policy(sample: Sample, policy: Policy, settings: Settings | None = None) -> Policy:
    """The policy with calibration, pool, threshold and bounds fitted to the sample.

    Members that the sample has no score of keep their numbers. Raises BenchError where a class has too few groups.
    """
    settings = settings or Settings()
    data = policy.to_dict()
    held_back = _held_back(sample, policy, settings)
    threshold = best_threshold(
        sample.labels, held_back.probability, balanced_weights(sample.labels, sample.groups, sample.sources)
    )
    data["threshold"] = _rounded(threshold)
    calibrated = _calibrated(sample, policy).to_dict()
    data["pool"] = calibrated["pool"]
    all_steps, sources = _steps(data), _steps(calibrated)
    for step, source, bounds in zip(all_steps, sources, _bounds(sample, held_back, threshold, settings), strict=True):
        step["accept"], step["reject"] = bounds
        step["members"] = source["members"]
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
            low = _rounded(float(pool.sigmoid(alpha * lowest + beta)))
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


def cross_validate(sample: Sample, policy: Policy, settings: Settings | None = None) -> Tested:
    """Fit everything on the training groups of each fold, inner folds included, and route the others."""
    settings = settings or Settings()
    n = len(sample)
    result = Tested(
        *(np.full(n, np.nan), np.zeros(n, bool), np.full(n, np.nan), np.zeros(n, bool)),
        asked=np.zeros((n, len(steps(policy))), bool),
        fold=np.full(n, -1),
    )
    for number, (train, test) in enumerate(_folds(sample, settings)):
        fitted = fit_policy(sample.take(train), policy, settings)
        staged = replay(fitted, sample.take(test), all_stages=False)
        full = replay(fitted, sample.take(test), all_stages=True)
        result.probability[test], result.decision[test] = staged.probability, staged.probability >= fitted.threshold
        result.all_stages_probability[test] = full.probability
        result.all_stages_decision[test] = full.probability >= fitted.threshold
        result.asked[test] = staged.asked
        result.fold[test] = number
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
        data["pool"] = {"alpha": _rounded(alpha), "beta": _rounded(beta)}
    return parse_policy(data)


def _fit_member(raw: NDArray, member: dict[str, Any], labels: NDArray, weights: NDArray) -> dict[str, Any]:
    answered = ~np.isnan(raw)
    if not answered.any():
        return {}
    silent = answered & (raw < pool.NOTHING_BELOW) & (member["kind"] in ("boxes", "text"))
    spoke = answered & ~silent
    a, b = fit_slope_and_shift(pool.logit(raw[spoke]), labels[spoke], weights[spoke])
    fitted: dict[str, Any] = {"a": _rounded(a), "b": _rounded(b)}
    silence = _rounded(fit_constant(labels[silent], weights[silent]))
    if member["kind"] == "text":
        # Most streets have no words either way: silence that says nothing would only water down those who looked.
        fitted["nothing"] = None if IDLE[0] <= silence <= IDLE[1] else silence
    elif member["kind"] == "boxes" and member["nothing"] is not None:
        fitted["nothing"] = silence
    return fitted


def _held_back(sample: Sample, policy: Policy, settings: Settings) -> Replay:
    """Every image routed, without early ends, by a calibration of the other inner folds."""
    n, count = len(sample), len(steps(policy))
    result = Replay(
        np.full(n, np.nan),
        *(np.zeros((n, count), kind) for kind in (bool, float, bool, bool)),  # type: ignore[arg-type]
    )
    for train, test in _folds(sample, settings):
        part = replay(_calibrated(sample.take(train), policy), sample.take(test), all_stages=False, needless=True)
        for name, values in vars(part).items():
            getattr(result, name)[test] = values
    return result


def _bounds(
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
                accept = _rounded(float(cut))
                break
        for cut in GRID[threshold > GRID][::-1]:
            zone = inside & held_back.may_reject[:, index] & (p <= cut)
            if _safe(zone, (sample.labels == 1) & whole, sample.groups, settings):
                reject = _rounded(float(cut))
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


def _folds(sample: Sample, settings: Settings) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return grouped_folds(sample.labels, sample.groups, settings.folds, settings.seed)


def _steps(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Stages, then tiers, of a policy as plain data: the columns of a `Replay`."""
    return [*data["stages"], *data.get("tiers", [])]


def _rounded(value: float) -> float:
    """Six significant digits: more would pretend, and the file is read by people."""
    return float(f"{value:.6g}")
