"""Whether a probability can be trusted: bins of equal mass, an interval for each, and the plot of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from roadwork_bench.statistics import proportion_jeffreys

BINS = 10
DOTS_PER_INCH = 120


@dataclass(frozen=True)
class Bin:
    """Images whose probabilities lie next to each other, from `lowest` to `highest`.

    said: their mean probability. share: how many of them show roadwork, as a share. share_95: Jeffreys interval of
    that share, images taken as independent.
    """

    images: int
    lowest: float
    highest: float
    said: float
    share: float
    share_95: list[float]


def reliability_bins(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> list[Bin]:
    """Bins with as equal a number of images as equal probabilities allow: those are never parted.

    Args:
        labels: [n] of 0 and 1.
        probabilities: [n] in [0, 1].
        bins: at most so many; fewer where there are fewer different probabilities or images.
    """
    truth, said = np.asarray(labels, float), np.asarray(probabilities, float)
    if not len(said):
        return []
    values, counts = np.unique(said, return_counts=True)
    # Where a value's images begin and end among all, sorted, decides in which bin they are: by their middle.
    middle = np.cumsum(counts) - counts / 2
    place = np.minimum((middle / len(said) * bins).astype(int), bins - 1)
    of_image = place[np.searchsorted(values, said)]
    return [_bin(truth[of_image == k], said[of_image == k]) for k in np.unique(of_image)]


def _bin(truth: np.ndarray, said: np.ndarray) -> Bin:
    with_roadwork = int(truth.sum())
    return Bin(
        images=len(truth),
        lowest=round(float(said.min()), 4),
        highest=round(float(said.max()), 4),
        said=round(float(said.mean()), 4),
        share=round(with_roadwork / len(truth), 4),
        share_95=proportion_jeffreys(with_roadwork, len(truth)).rounded(),
    )


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> dict[str, Any]:
    """The bins as plain data, and the calibration error over them.

    `ece_equal_mass` is the mean over the bins, by their images, of |mean probability - share of roadwork|: the usual
    error with bins that all hold enough images to say something (Nguyen and O'Connor, 2015). `outside` counts the bins
    whose mean probability lies outside the interval of their share.
    """
    found = reliability_bins(labels, probabilities, bins)
    total = sum(one.images for one in found)
    gap = sum(one.images * abs(one.said - one.share) for one in found)
    return {
        "bins": [asdict(one) for one in found],
        "ece_equal_mass": round(gap / total, 4) if total else None,
        "outside": sum(not one.share_95[0] <= one.said <= one.share_95[1] for one in found),
    }


def plot_reliability(parts: Sequence[tuple[str, dict[str, Any]]], path: Path, title: str = "") -> None:
    """A panel for each named result of `reliability`: share of roadwork over mean probability, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(parts), figsize=(4.8 * len(parts), 4.8), squeeze=False)
    try:
        for axis, (name, part) in zip(axes[0], parts, strict=True):
            axis.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--", label="said = happened")
            said = np.array([one["said"] for one in part["bins"]])
            share = np.array([one["share"] for one in part["bins"]])
            ends = np.array([one["share_95"] for one in part["bins"]]).reshape(-1, 2)
            # A share of 0 or 1 is an end of its interval, and rounding must not make the bar negative.
            bars = np.maximum([share - ends[:, 0], ends[:, 1] - share], 0)
            axis.errorbar(said, share, yerr=bars, fmt="o-", color="#c45500", capsize=3, label="bins, 95% interval")
            images = sum(one["images"] for one in part["bins"])
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="mean probability", ylabel="share with roadwork")
            axis.set_title(f"{name}: {images} images, ECE {part['ece_equal_mass']:.3f}", fontsize=10)
            axis.legend(loc="lower right", fontsize=8)
        if title:
            figure.suptitle(title, fontsize=10)
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH)
    finally:
        pyplot.close(figure)
