"""Matthews correlation and friends, each with an interval that says what the sample can carry.

Labels and decisions are arrays of 0 and 1 of one length; probabilities lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

DRAWS = 20_000
RESAMPLES = 2_000


@dataclass(frozen=True)
class Counts:
    """The confusion matrix."""

    tp: int
    fp: int
    tn: int
    fn: int

    @classmethod
    def of(cls, labels: ArrayLike, decisions: ArrayLike) -> Counts:
        truth, said = np.asarray(labels, bool), np.asarray(decisions, bool)
        return cls(
            int((truth & said).sum()),
            int((~truth & said).sum()),
            int((~truth & ~said).sum()),
            int((truth & ~said).sum()),
        )


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def rounded(self) -> list[float]:
        return [round(self.low, 4), round(self.high, 4)]


def mcc_from_rates(prevalence: ArrayLike, fpr: ArrayLike, fnr: ArrayLike) -> NDArray[np.float64]:
    """MCC as a function of prevalence and the two error rates; 0 where every decision is the same.

    MCC = (TPR - FPR) * sqrt(pi (1 - pi) / (q (1 - q))), q = pi TPR + (1 - pi) FPR the share of yes. The same as the
    usual formula of the four counts, written with rates so that their posteriors can be pushed through.
    """
    pi, fpr, tpr = np.asarray(prevalence, float), np.asarray(fpr, float), 1 - np.asarray(fnr, float)
    said_yes = pi * tpr + (1 - pi) * fpr
    spread = said_yes * (1 - said_yes)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, (tpr - fpr) * np.sqrt(pi * (1 - pi) / spread), 0.0)


def mcc_jeffreys(counts: Counts, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Interval of the MCC at the sample's prevalence, images taken as independent.

    FPR ~ Beta(fp + 1/2, tn + 1/2) and FNR ~ Beta(fn + 1/2, tp + 1/2) (Jeffreys), pushed through the MCC formula by
    Monte Carlo. Raises ValueError where a class is absent: no interval exists then.
    """
    positives, negatives = counts.tp + counts.fn, counts.fp + counts.tn
    if not positives or not negatives:
        raise ValueError("MCC needs images of both classes")
    rng = np.random.default_rng(seed)
    fpr = rng.beta(counts.fp + 0.5, counts.tn + 0.5, draws)
    fnr = rng.beta(counts.fn + 0.5, counts.tp + 0.5, draws)
    return _percentiles(mcc_from_rates(positives / (positives + negatives), fpr, fnr), level)


def proportion_jeffreys(hits: int, trials: int, level: float = 0.95) -> Interval:
    """Interval of a share: the middle `level` of Beta(hits + 1/2, misses + 1/2), images taken as independent.

    0 hits reach down to 0 and no misses up to 1 (Brown, Cai and DasGupta, 2001). No trials: 0 to 1.
    """
    if not trials:
        return Interval(0.0, 1.0)
    low, high = stats.beta.ppf([(1 - level) / 2, (1 + level) / 2], hits + 0.5, trials - hits + 0.5)
    return Interval(0.0 if hits == 0 else float(low), 1.0 if hits == trials else float(high))


def error_rate_upper(errors: int, images: int, level: float = 0.95) -> float:
    """One-sided upper Clopper-Pearson bound of an error rate; 1.0 for no images."""
    if images <= errors:
        return 1.0
    return float(stats.beta.ppf(level, errors + 1, images - errors))


def cluster_bootstrap(
    labels: ArrayLike,
    decisions: ArrayLike,
    groups: Sequence[str],
    other: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Interval, float] | None:
    """Percentile bootstrap of the MCC that resamples whole drives; with `other`, of MCC(decisions) - MCC(other).

    Drives with roadwork and drives without are resampled apart, so that every resample keeps both where it can.
    Returns the interval and the share of resamples that had to be dropped because a class was absent from them, or
    None where fewer than two drives or only one class are there.
    """
    truth, names = np.asarray(labels, bool), np.asarray(groups)
    if len(set(groups)) < 2 or truth.all() or not truth.any():
        return None
    unique = sorted(set(groups))
    tables = np.array([_cells(truth[names == g], np.asarray(decisions, bool)[names == g]) for g in unique])
    others = None
    if other is not None:
        others = np.array([_cells(truth[names == g], np.asarray(other, bool)[names == g]) for g in unique])
    with_roadwork = tables[:, 0] + tables[:, 3] > 0
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(with_roadwork), np.flatnonzero(~with_roadwork)]
    drawn = np.concatenate([rng.choice(s, (resamples, len(s))) for s in strata if len(s)], axis=1)
    values = _mcc_of_cells(tables[drawn].sum(axis=1))
    if others is not None:
        values = values - _mcc_of_cells(others[drawn].sum(axis=1))
    values = values[~np.isnan(values)]
    if len(values) < resamples / 10:
        return None
    return _percentiles(values, level), 1 - len(values) / resamples


def mcnemar_exact(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[int, int, float]:
    """Exact McNemar test of two systems on the same images.

    Returns the images only the first gets right, those only the second gets right, and the two-sided p value.
    """
    truth = np.asarray(labels, bool)
    right_a, right_b = np.asarray(first, bool) == truth, np.asarray(second, bool) == truth
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """Mean over equal-width bins, by their images, of |mean probability - share of roadwork| (Naeini et al., 2015)."""
    truth, said = np.asarray(labels, float), np.asarray(probabilities, float)
    index = np.minimum((said * bins).astype(int), bins - 1)
    gaps = [abs(said[index == k].sum() - truth[index == k].sum()) for k in range(bins)]
    return float(sum(gaps) / len(truth))


def figures(
    labels: ArrayLike,
    decisions: ArrayLike,
    groups: Sequence[str],
    probabilities: ArrayLike | None = None,
) -> dict:
    """Every figure of one set of decisions as plain numbers; None where the sample cannot define it."""
    truth, said = np.asarray(labels, int), np.asarray(decisions, int)
    counts = Counts.of(truth, said)
    both = 0 < truth.sum() < len(truth)
    bootstrap = cluster_bootstrap(truth, said, groups) if both else None
    result: dict = {
        "images": len(truth),
        "groups": len(set(groups)),
        "roadwork": int(truth.sum()),
        "prevalence": round(float(truth.mean()), 4) if len(truth) else None,
        "tp": counts.tp,
        "fp": counts.fp,
        "tn": counts.tn,
        "fn": counts.fn,
        "mcc": round(float(matthews_corrcoef(truth, said)), 4) if both else None,
        "mcc_jeffreys_95": mcc_jeffreys(counts).rounded() if both else None,
        "mcc_by_drive_95": bootstrap[0].rounded() if bootstrap else None,
        "resamples_dropped": round(bootstrap[1], 4) if bootstrap else None,
        "balanced_accuracy": round(float(balanced_accuracy_score(truth, said)), 4) if both else None,
        "precision": round(float(precision_score(truth, said)), 4) if said.any() else None,
        "precision_jeffreys_95": proportion_jeffreys(counts.tp, counts.tp + counts.fp).rounded()
        if said.any()
        else None,
        "recall": round(float(recall_score(truth, said)), 4) if truth.any() else None,
        "recall_jeffreys_95": _share_95(counts.tp, counts.fn),
        "false_alarm_rate": round(counts.fp / (counts.fp + counts.tn), 4) if not truth.all() else None,
        "false_alarm_rate_jeffreys_95": _share_95(counts.fp, counts.tn),
    }
    if probabilities is not None and len(truth):
        result["auroc"] = round(float(roc_auc_score(truth, probabilities)), 4) if both else None
        result["brier"] = round(float(brier_score_loss(truth, probabilities, pos_label=1)), 4)
        result["ece"] = round(expected_calibration_error(truth, probabilities), 4)
    return result


def _share_95(hits: int, others: int) -> list[float] | None:
    return proportion_jeffreys(hits, hits + others).rounded() if hits + others else None


def _cells(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> list[int]:
    counts = Counts.of(truth, said)
    return [counts.tp, counts.fp, counts.tn, counts.fn]


def _mcc_of_cells(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """MCC of [n, 4] counts tp, fp, tn, fn; NaN where a class is absent."""
    tp, fp, tn, fn = cells.T.astype(float)
    positives, negatives = tp + fn, fp + tn
    both = (positives > 0) & (negatives > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = mcc_from_rates(positives / (positives + negatives), fp / negatives, fn / positives)
    return np.where(both, found, np.nan)


def _percentiles(values: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
