"""What a sample cannot carry, said beside the figure."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from roadwork_bench.statistics import error_rate_upper

FEW_IMAGES = 30
FEW_GROUPS = 8
WIDE = 0.1
CAMERA_SHARE = 0.8


def sample_warnings(
    labels: NDArray, groups: NDArray, sources: NDArray, overall: dict[str, Any], where: str = "this sample"
) -> list[str]:
    """Reasons not to believe an MCC of these images too well."""
    found = []
    for label, name in ((1, "roadwork"), (0, "no roadwork")):
        chosen = labels == label
        images, drives = int(chosen.sum()), len(set(groups[chosen]))
        if images < FEW_IMAGES or drives < FEW_GROUPS:
            found.append(
                f"{where} has {images} images of {drives} drives with {name}: one drive more or less moves the figure"
            )
    interval = overall.get("mcc_by_drive_95") or overall.get("mcc_jeffreys_95")
    if interval and interval[1] - interval[0] > WIDE:
        found.append(
            f"{where} leaves the MCC between {interval[0]:.2f} and {interval[1]:.2f}; do not compare second digits"
        )
    if (overall.get("resamples_dropped") or 0) > 0.01:
        found.append(f"{overall['resamples_dropped']:.0%} of the resamples of {where} lacked a class and were dropped")
    return found


def carries(claim: float, errors: int, images: int, prevalence: float, level: float = 0.95) -> dict[str, Any]:
    """Whether a sample may carry "the MCC is at least `claim`", one-sided at `level`, images taken as independent.

    With as many false alarms as misses, MCC = 1 - e / (2 pi (1 - pi)): e the error rate, pi the prevalence. So the
    claim allows e <= (1 - claim) 2 pi (1 - pi); the sample carries it where the upper Clopper-Pearson bound of its
    error rate is no larger. `images_without_error`: the fewest that could with not one wrong, log(1 - level) over
    log(1 - e).

    Raises ValueError where `claim` is not in (0, 1) or only one class is there.
    """
    if not 0 < claim < 1:
        raise ValueError(f"a claim of MCC lies between 0 and 1, got {claim:g}")
    balance = 2 * prevalence * (1 - prevalence)
    if not balance > 0:
        raise ValueError("a claim of MCC needs images of both classes")
    allowed = (1 - claim) * balance
    bound = error_rate_upper(errors, images, level)
    return {
        "claim": claim,
        "level": level,
        "errors": errors,
        "images": images,
        "error_rate_allowed": float(f"{allowed:.4g}"),
        "error_rate_upper": float(f"{bound:.4g}"),
        "images_without_error": math.ceil(math.log(1 - level) / math.log1p(-allowed)),
        "carried": bound <= allowed,
    }


def claim_warning(found: dict[str, Any]) -> list[str]:
    """What `carries` found, where it is a no."""
    if found["carried"]:
        return []
    return [
        f"this sample cannot carry a claim of MCC {found['claim']:g}: that takes {found['images_without_error']:,} "
        f"images without one error; here are {found['images']:,} with {found['errors']} errors (error rate at most "
        f"{found['error_rate_upper']:.3g}, allowed {found['error_rate_allowed']:.3g})"
    ]


def class_warning(labels: NDArray) -> list[str]:
    """Only one class: what cannot be said then."""
    names = {True: "roadwork", False: "no roadwork"}
    seen = {bool(label) for label in labels}
    if len(seen) == 2:
        return []
    only = names[seen.pop()] if seen else "nothing"
    return [f"all images are labelled {only}: MCC, balanced accuracy and AUROC are undefined and not given"]


def camera_warning(labels: NDArray, sources: NDArray) -> list[str]:
    """Classes that come from different cameras can be told apart by the camera."""
    positives = sources[labels == 1]
    if not len(positives) or len(set(sources)) < 2:
        return []
    names = sorted(set(positives))
    largest = max(names, key=lambda name: (positives == name).sum())
    share = (positives == largest).mean()
    own = labels[sources == largest]
    if share < CAMERA_SHARE or (own == 0).sum() >= 0.5 * (labels == 0).sum():
        return []
    return [
        f"{share:.0%} of the roadwork comes from {largest}, which has only {int((own == 0).sum())} images without: a "
        "model may have learned the camera, so read the figure within that source too"
    ]


def training_warning(seen: int, images: int) -> list[str]:
    """Scores of images that the detectors may have been trained on."""
    if not seen:
        return []
    return [
        f"{seen} of {images} images may have trained the models that scored them (weights_may_be_published, no fold): "
        "the figure flatters; record with --folds"
    ]
