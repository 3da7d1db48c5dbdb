"""Decisions of the orange blobs, their threshold fixed on other groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roadwork_bench.sample import grouped_folds
from roadwork_bench.statistics import mcc_from_rates

MOST = 60


def best_count(labels: NDArray, counts: NDArray) -> int:
    """Least number of blobs that says roadwork, by MCC."""
    least = np.arange(1, MOST)
    said = counts[:, np.newaxis] >= least
    fpr, fnr = said[labels == 0].mean(axis=0), 1 - said[labels == 1].mean(axis=0)
    return int(least[np.argmax(mcc_from_rates(labels.mean(), fpr, fnr))])


def blob_decisions(
    labels: NDArray, groups: NDArray, counts: NDArray, folds: int = 5, seed: int = 0
) -> NDArray[np.bool_]:
    """[n] decisions; each group is judged by the threshold of the other folds."""
    decision = np.zeros(len(labels), bool)
    for train, test in grouped_folds(labels, groups, folds, seed):
        decision[test] = counts[test] >= best_count(labels[train], counts[train])
    return decision
