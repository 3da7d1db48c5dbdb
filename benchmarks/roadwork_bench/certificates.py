"""Upper bounds on the error rate of those who leave a cascade early, with their confidence.

By image, images taken as independent: Clopper and Pearson (1934), one-sided. By drive, drives taken as independent and
frames of one drive as anything at all: the mean over drives of the share of errors in a drive, by the
Hoeffding-Bentkus inequality as S. Bates, A. Angelopoulos, L. Lei, J. Malik and M. Jordan, "Distribution-Free,
Risk-Controlling Prediction Sets" (Journal of the ACM 68(6), 2021) use it.

The cuts must have been chosen without the images that certify them. Then each exit is one hypothesis, however many cuts
were searched, and the exits of a policy share the confidence by Bonferroni (A. Angelopoulos, S. Bates, E. Candes, M.
Jordan and L. Lei, "Learn then Test", arXiv 2110.01052, 2021, where the candidates are the exits).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from roadwork_bench.statistics import error_rate_upper

NEVER = 10_000_000
"""More images than this are said to be out of reach."""


def hoeffding_bentkus(mean: float, draws: int, rate: float) -> float:
    """p value of "the expected loss is over `rate`" where `draws` independent losses in [0, 1] have this mean.

    min(exp(-n h(min(mean, rate), rate)), e P(Binomial(n, rate) <= ceil(n mean))), with
    h(a, b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b)).
    """
    if not 0 < rate < 1:
        return 1.0
    low = min(mean, rate)
    divergence = (1 - low) * math.log((1 - low) / (1 - rate)) + (low * math.log(low / rate) if low > 0 else 0.0)
    # 1e-9: a mean of shares that ought to give a whole number of errors must not be rounded up to the next one.
    bentkus = math.e * float(stats.binom.cdf(math.ceil(draws * mean - 1e-9), draws, rate))
    return min(1.0, math.exp(-draws * divergence), bentkus)


def mean_loss_upper(losses: ArrayLike, level: float = 0.95) -> float:
    """Upper bound of the expected loss from independent losses [n] in [0, 1]; 1.0 where nothing can be said.

    The largest rate that `hoeffding_bentkus` does not refute at `level`. Without any loss it is the Clopper-Pearson
    bound of no errors in n.
    """
    values = np.asarray(losses, float)
    if not len(values) or values.mean() >= 1:
        return 1.0
    mean, low, high = float(values.mean()), float(values.mean()), 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if hoeffding_bentkus(mean, len(values), middle) <= 1 - level:
            high = middle
        else:
            low = middle
    return high


def drive_losses(wrong: NDArray[np.bool_], groups: NDArray) -> NDArray[np.float64]:
    """[drives]: the share of errors among the images of each drive that left."""
    _, place = np.unique(groups, return_inverse=True)
    return np.bincount(place, weights=wrong) / np.maximum(np.bincount(place), 1)


def trials_needed(target: float, level: float, rate: float = 0.0) -> int | None:
    """Fewest independent trials at this error rate whose Clopper-Pearson bound is at most `target`.

    Parts of an error count as such, so that more trials always say more. None where the rate is no smaller than the
    target, or more than `NEVER` trials were needed.
    """
    if not rate < target:
        return None

    def enough(trials: int) -> bool:
        wrong = rate * trials
        return float(stats.beta.ppf(level, wrong + 1, trials - wrong)) <= target

    high = max(1, math.ceil(math.log(1 - level) / math.log1p(-target)))
    while not enough(high):
        high *= 2
        if high > NEVER:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Certificate:
    """An exit of a cascade: who left there, how many of them wrongly, and the bounds.

    avoidable: of the errors, those that the whole cascade would have got right; None where that is not known.
    upper: Clopper-Pearson, by image. upper_by_drive: of the mean over drives. Each bound holds for all exits of the
    policy at once with `confidence`; the two of one exit are two readings, not a joint statement.
    images_needed: fewest images at the observed error rate that would certify `target`; None: no number would.
    drives_needed: fewest drives without an error that would, where the errors do not rule it out.
    """

    exit: str
    says: str
    images: int
    drives: int
    errors: int
    avoidable: int | None
    upper: float
    upper_by_drive: float
    target: float
    confidence: float
    exits: int
    images_needed: int | None
    drives_needed: int | None

    @property
    def certified(self) -> bool:
        """By image."""
        return self.upper <= self.target

    @property
    def certified_by_drive(self) -> bool:
        return self.upper_by_drive <= self.target

    def to_dict(self) -> dict[str, object]:
        return {
            **vars(self),
            "certified": self.certified,
            "certified_by_drive": self.certified_by_drive,
            "sentence": sentence(self),
        }


def certify_exit(
    name: str,
    says: str,
    left: NDArray[np.bool_],
    labels: NDArray,
    groups: NDArray,
    *,
    target: float,
    confidence: float = 0.95,
    exits: int = 1,
    whole: NDArray[np.bool_] | None = None,
) -> Certificate:
    """The certificate of one exit out of `exits`. `says`: yes or no, what those who leave are told.

    left [n]: who left there. labels [n] of 0 and 1. whole [n]: what the whole cascade would have decided.
    """
    level = 1 - (1 - confidence) / exits
    wrong = left & ((labels == 0) if says == "yes" else (labels == 1))
    images, errors = int(left.sum()), int(wrong.sum())
    losses = drive_losses(wrong[left], groups[left])
    mended = None if whole is None else int((wrong & (whole == labels.astype(bool))).sum())
    by_drive = mean_loss_upper(losses, level)
    return Certificate(
        exit=name,
        says=says,
        images=images,
        drives=len(losses),
        errors=errors,
        avoidable=mended,
        upper=float(f"{error_rate_upper(errors, images, level):.4g}"),
        upper_by_drive=float(f"{by_drive:.4g}"),
        target=target,
        confidence=confidence,
        exits=exits,
        images_needed=trials_needed(target, level, errors / images if images else 0.0),
        drives_needed=None if images and losses.mean() >= target else trials_needed(target, level),
    )


def sentence(one: Certificate) -> str:
    """The certificate for people."""
    head = f"{one.exit} says {one.says}"
    if not one.images:
        return f"{head}: nobody left there; not certified"
    if one.certified:
        by_drive = (
            "" if one.certified_by_drive else f"; at most {one.upper_by_drive:.1%} of a new drive's, not certified"
        )
        text = f"errs at most {one.upper:.1%} with {one.confidence:.0%} confidence by image{by_drive}"
    else:
        need = (
            "it errs too often for any number of images"
            if one.images_needed is None
            else f"needs {one.images_needed:,} images at this error rate"
        )
        text = (
            f"not certified for {one.target:.1%}: {need}; at most {one.upper:.1%} by image, "
            f"{one.upper_by_drive:.1%} of a new drive's, with {one.confidence:.0%} confidence"
        )
    wrong = f"{one.errors} wrong" if one.avoidable is None else f"{one.errors} wrong, {one.avoidable} avoidably"
    return f"{head}: {text} ({one.images} images, {one.drives} drives, {wrong})"
