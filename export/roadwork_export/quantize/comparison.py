"""How far the answers of compressed weights are from those that they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LITTLE_SPREAD = 0.05
"""Where the tier's own answers spread less than this over the images, its compressed weights cannot but agree."""


@dataclass(frozen=True)
class Comparison:
    """Probabilities of yes on the same images, before and after.

    Attributes:
        largest, mean: absolute difference of the probability.
        agreement: share of images on the same side of 0.5.
        spread: largest less smallest answer before.
        lost: images that the tier answered and the compressed one does not.
        mcc: Matthews correlation at 0.5 with the labels, before and after; None without labels of both kinds.
    """

    images: int
    answered: int
    largest: float
    mean: float
    agreement: float
    spread: float
    lost: int
    mcc: tuple[float, float] | None
    limit: float

    @property
    def passed(self) -> bool:
        return self.answered > 0 and self.lost == 0 and self.mean <= self.limit

    def why_not(self) -> str:
        """What was not kept, in words; empty where it passed."""
        if not self.answered:
            return "the tier itself answers neither yes nor no to any image: there is nothing to compare"
        if self.lost:
            return f"{self.lost} of {self.images} images are not answered with yes or no any more"
        if self.mean > self.limit:
            return f"the mean difference {self.mean:.4f} is over the limit {self.limit:g}"
        return ""

    def report(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "images": self.images,
            "passed": self.passed,
            "limit": self.limit,
            "mean_difference": round(self.mean, 6),
            "largest_difference": round(self.largest, 6),
            "agreement_at_half": round(self.agreement, 4),
            "spread": round(self.spread, 4),
            "without_answer": {"before": self.images - self.answered, "lost": self.lost},
            "mcc_at_half": None if self.mcc is None else dict(zip(("before", "after"), map(_4, self.mcc), strict=True)),
        }

    def __str__(self) -> str:
        text = (
            f"{self.images} images: probability of yes differs by {self.mean:.4f} on average (limit {self.limit:g}), "
            f"at most {self.largest:.4f}; {100 * self.agreement:.1f}% on the same side of 0.5"
        )
        if self.mcc is not None:
            text += f"; MCC {self.mcc[0]:.3f} before, {self.mcc[1]:.3f} after"
        if self.answered and self.spread < LITTLE_SPREAD:
            text += f"; its own answers spread over {self.spread:.4f} only, so that agreeing says little"
        return text


def compare(
    before: Sequence[float | None], after: Sequence[float | None], labels: Sequence[int | None], limit: float
) -> Comparison:
    """Figures over the images that both answer. All three are of one length; None is no answer or no label."""
    rows = list(zip(before, after, labels, strict=True))
    both = [(a, b, label) for a, b, label in rows if a is not None and b is not None]
    one, other = (np.array([row[k] for row in both], float) for k in (0, 1))
    differences = np.abs(one - other)
    lost = sum(a is not None and b is None for a, b, _ in rows)
    return Comparison(
        images=len(rows),
        answered=sum(a is not None for a in before),
        largest=float(differences.max(initial=0.0)),
        mean=float(differences.mean()) if both else 0.0,
        agreement=float(((one >= 0.5) == (other >= 0.5)).mean()) if both else 0.0,
        spread=float(one.max() - one.min()) if both else 0.0,
        lost=lost,
        mcc=_mcc(one, other, [label for _, _, label in both]),
        limit=limit,
    )


def _mcc(one: np.ndarray, other: np.ndarray, labels: Sequence[int | None]) -> tuple[float, float] | None:
    if None in labels or len(set(labels)) < 2:
        return None
    from sklearn.metrics import matthews_corrcoef

    truth = np.array(labels, int)
    return float(matthews_corrcoef(truth, one >= 0.5)), float(matthews_corrcoef(truth, other >= 0.5))


def _4(number: float) -> float:
    return round(number, 4)
