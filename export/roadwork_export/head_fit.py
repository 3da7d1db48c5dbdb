"""Fits a presence head: a logistic regression, judged on groups of images that it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import ExportError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of C, the inverse of the regularisation's strength, that are tried."""
FOLDS = 5
RESAMPLES = 1000


@dataclass(frozen=True)
class Fit:
    """Attributes:
    weight: float64 [D], for features as they are; bias likewise.
    strength: the C that was chosen.
    held_out: float64 [N], the probability of each image by a head, and a C, that never saw its group.
    mcc: of those at 0.5, in [-1, 1]. auroc: of those, in [0, 1], with the bounds of its 95% interval.
    """

    weight: np.ndarray
    bias: float
    strength: float
    held_out: np.ndarray
    mcc: float
    auroc: float
    auroc_95: tuple[float, float]
    folds: int


def fit(features: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, seed: int = 0) -> Fit:
    """A head for features [N, D] and labels [N] of 0 and 1.

    C is chosen by cross-validated log loss. The figures come from a second cross-validation around that choice, so that
    neither the head nor its C saw the images that it is judged by. Both classes weigh the same, whatever their numbers.

    Args:
        groups: int [N], kept together; None for images that have nothing to do with each other.

    Raises:
        ExportError: too few images or groups to hold some out.
    """
    from sklearn.metrics import matthews_corrcoef

    own = np.arange(len(labels)) if groups is None else groups
    number = most_folds(labels, own)
    if number < 2:
        what = "images" if groups is None else "groups"
        raise ExportError(f"there must be at least two {what} with roadwork and two without, to hold some out")
    held_out = np.zeros(len(labels))
    for train, test in splits(labels, own, number, seed):
        strength = choose(features[train], labels[train], own[train], seed)
        held_out[test] = pipeline(strength).fit(features[train], labels[train]).predict_proba(features[test])[:, 1]
    strength = choose(features, labels, own, seed)
    whole = pipeline(strength).fit(features, labels)
    scaler, regression = whole[0], whole[1]
    weight = regression.coef_[0] / scaler.scale_
    bias = float(regression.intercept_[0] - weight @ scaler.mean_)
    return Fit(
        weight, bias, strength, held_out, float(matthews_corrcoef(labels, held_out >= 0.5)),
        auroc(labels, held_out, np.ones(len(labels))), auroc_interval(labels, held_out, own, seed), number,
    )  # fmt: skip


def most_folds(labels: np.ndarray, groups: np.ndarray) -> int:
    """How many folds leave each with both classes to learn from: no more than either class has groups."""
    return min(FOLDS, *(len(np.unique(groups[labels == label])) for label in (0, 1)))


def splits(labels: np.ndarray, groups: np.ndarray, number: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions to learn from and to judge by."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
    for train, test in folds.split(np.zeros((len(labels), 1)), labels, groups):
        if len(np.unique(labels[train])) < 2:
            raise ExportError(
                "the groups are too uneven to hold some out: one of them has nearly all images of a class"
            )
        if len(test):
            yield train, test


def choose(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """The C of the smallest log loss on groups that are held out; of equal ones the smaller."""
    from sklearn.metrics import log_loss
    from sklearn.utils.class_weight import compute_sample_weight

    number = min(3, most_folds(labels, groups))
    if number < 2:
        return STRENGTHS[len(STRENGTHS) // 2]
    losses = np.zeros(len(STRENGTHS))
    for train, test in splits(labels, groups, number, seed + 1):
        weights = compute_sample_weight({0: 1 / (labels == 0).sum(), 1: 1 / (labels == 1).sum()}, labels[test])
        for i, strength in enumerate(STRENGTHS):
            said = pipeline(strength).fit(features[train], labels[train]).predict_proba(features[test])
            losses[i] += log_loss(labels[test], said, sample_weight=weights, labels=[0, 1], normalize=False)
    return STRENGTHS[int(losses.argmin())]


def pipeline(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=2000))


def auroc(labels: np.ndarray, said: np.ndarray, weights: np.ndarray) -> float:
    """Share of pairs of weighted images, one of each class, that are in order; a tie is half a pair."""
    _, place = np.unique(said, return_inverse=True)
    positive = np.bincount(place, weights * labels)
    negative = np.bincount(place, weights * (1 - labels))
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


def auroc_interval(labels: np.ndarray, said: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float]:
    """95% percentile bootstrap of the AUROC that resamples whole groups."""
    rng = np.random.default_rng(seed)
    _, member = np.unique(groups, return_inverse=True)
    count = int(member.max()) + 1
    found = []
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, count, count), minlength=count)[member]
        if weights[labels == 1].any() and weights[labels == 0].any():
            found.append(auroc(labels, said, weights))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
