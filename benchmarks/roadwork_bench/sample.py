"""Recorded scores as arrays, weighted so that neither a camera nor a long drive rules a fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.policy_parts import Seen
from sklearn.model_selection import StratifiedGroupKFold

from roadwork_bench.errors import BenchError


class UnsplittableError(BenchError):
    """A class has too few groups for anything to be held back to test on."""


@dataclass(frozen=True)
class Sample:
    """n labelled images. `scores` is [n, members], NaN where a member was not recorded or failed.

    `seen`: what perception saw, an entry an image, for conditions on boxes and words; None where nobody told.
    """

    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    sources: NDArray[np.str_]
    members: tuple[str, ...]
    scores: NDArray[np.float64]
    seen: tuple[Seen, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray) -> Sample:
        seen = None if self.seen is None else tuple(self.seen[k] for k in np.arange(len(self))[index])
        parts = (self.labels[index], self.groups[index], self.sources[index])
        return Sample(*parts, self.members, self.scores[index], seen)

    def of(self, member: str) -> NDArray[np.float64]:
        """The member's raw scores, all NaN for one that was never recorded."""
        if member not in self.members:
            return np.full(len(self), np.nan)
        return self.scores[:, self.members.index(member)]


def balanced_weights(labels: NDArray, groups: NDArray, sources: NDArray) -> NDArray[np.float64]:
    """A weight an image: both classes weigh the same, and inside a class a source by the root of its images.

    Full equality between sources would let a set of four photographs count as much as one of hundreds; no balance
    would let the largest camera rule. The root is the usual middle. The sum is the number of groups: frames of one
    drive are near copies, so a fit sees as many independent observations as there are drives.
    """
    weights = np.zeros(len(labels))
    for label in np.unique(labels):
        chosen = labels == label
        _, place, counts = np.unique(sources[chosen], return_inverse=True, return_counts=True)
        each = (1 / np.sqrt(counts))[place]
        weights[chosen] = each / each.sum()
    return weights * len(np.unique(groups)) / weights.sum()


def grouped_folds(
    labels: NDArray, groups: NDArray, folds: int = 5, seed: int = 0
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Training and test indices; no group is in both. Fewer folds where a class has fewer groups than that.

    Raises UnsplittableError where a class has fewer than two groups: nothing can then be held back.
    """
    least = min((len(set(groups[labels == label])) for label in (0, 1)), default=0)
    if least < 2:
        raise UnsplittableError(
            "each class needs images of at least two groups, else nothing can be held back to test on"
        )
    splitter = StratifiedGroupKFold(n_splits=min(folds, least), shuffle=True, random_state=seed)
    for train, test in splitter.split(np.zeros(len(labels)), labels, groups):
        if len(set(labels[train])) == 2:
            yield train, test
        else:  # cannot be with two groups a class, but an unfitted fold must never pass for a tested one
            raise BenchError("a fold would train on one class only: use fewer folds")
