"""Figures of yes/no scores: AUROC, MCC, thresholds fixed on other groups, comparisons that keep groups together."""

from __future__ import annotations

from math import comb

import numpy as np


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve of scores [N] for labels [N] 0 or 1, ties counted half; NaN without both labels."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not len(positive) or not len(negative):
        return float("nan")
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left")
    upto = np.searchsorted(order, positive, "right")
    return float((below + upto).sum() / 2 / len(positive) / len(negative))


def mcc(labels: np.ndarray, decided: np.ndarray) -> float:
    """Matthews correlation of decisions [N] with labels [N]; 0 where one of the four sums is empty."""
    labels, decided = labels.astype(bool), decided.astype(bool)
    tp, tn = float((labels & decided).sum()), float((~labels & ~decided).sum())
    fp, fn = float((~labels & decided).sum()), float((labels & ~decided).sum())
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / below**0.5 if below else 0.0


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Middle of the two neighbouring scores between which the MCC is largest; 0.5 where nothing can be told apart."""
    values = np.unique(scores)
    if len(values) < 2 or len(np.unique(labels)) < 2:
        return 0.5
    cuts = (values[1:] + values[:-1]) / 2
    if len(cuts) > 400:
        cuts = cuts[np.linspace(0, len(cuts) - 1, 400).astype(int)]
    return float(cuts[int(np.argmax([mcc(labels, scores >= cut) for cut in cuts]))])


def out_of_group(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, parts: int = 5, seed: int = 0
) -> np.ndarray:
    """Decisions bool [N], each by a threshold fixed on other groups; groups are dealt to `parts` by size."""
    names, sizes = np.unique(groups, return_counts=True)
    rng = np.random.default_rng(seed)
    order = sorted(range(len(names)), key=lambda i: (-sizes[i], rng.random()))
    held = np.zeros(parts)
    part_of: dict[str, int] = {}
    for i in order:
        part = int(np.argmin(held))
        part_of[str(names[i])] = part
        held[part] += sizes[i]
    parts_of = np.array([part_of[str(g)] for g in groups])
    decided = np.zeros(len(labels), bool)
    for part in range(parts):
        here = parts_of == part
        if here.any():
            decided[here] = scores[here] >= best_threshold(labels[~here], scores[~here])
    return decided


def mcnemar(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Images that only one of two deciders gets right, and the exact two-sided p of that difference."""
    a, b = (first == labels.astype(bool)), (second == labels.astype(bool))
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    p = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p": p}


def difference(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, groups: np.ndarray, draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """AUROC of `second` less that of `first`, with a 95% interval by resampling whole groups."""
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    rows = [np.flatnonzero(groups == name) for name in names]
    found = []
    for _ in range(draws):
        chosen = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
        gain = auroc(labels[chosen], second[chosen]) - auroc(labels[chosen], first[chosen])
        if np.isfinite(gain):
            found.append(gain)
    low, high = np.percentile(found, [2.5, 97.5]) if found else (float("nan"), float("nan"))
    return {"difference": auroc(labels, second) - auroc(labels, first), "low": float(low), "high": float(high)}
