"""What a sample cannot carry, said beside the figure."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

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
