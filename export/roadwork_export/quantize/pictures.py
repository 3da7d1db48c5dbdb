"""The images that a tier is calibrated and compared on, as files, each as the tier would get it from the cascade."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from roadwork_cascade.prompts import TierImage
from roadwork_cascade.tier_image import encoded

from ..canvas import IMAGES, letterbox
from ..errors import CheckError
from ..labelled import read_labelled

LEAST = 8
"""Images for calibrating, and as many for comparing: with fewer, neither says anything."""
CALIBRATION_SEED, COMPARISON_SEED = 9_200_000, 9_300_000
"""First seeds of the scenes that are drawn where no images are given; training uses none near them."""
SCENE_SIZE = (640, 400)


@dataclass(frozen=True)
class Source:
    """An image: a file of the user's, or the seed of a scene to be drawn. Label 1 is roadwork; None is not known.

    Images of a `group` (a drive, a place) resemble one another: they are never on both sides.
    """

    where: Path | int
    label: int | None
    group: int | None = None


@dataclass(frozen=True)
class Choice:
    """Images for calibrating and others for comparing; `told` says whose they are."""

    calibration: tuple[Source, ...]
    comparison: tuple[Source, ...]
    told: str


def choose(images: Path | None, calibrate: int, compare: int, seed: int = 0) -> Choice:
    """So many of each, no image and no group in both. With too few images, both get their share of what is there.

    Args:
        images: folder of images, one with the sub-folders roadwork and none, or a CSV file; None draws scenes.

    Raises:
        CheckError: too few images.
    """
    for flag, count in (("--calibrate", calibrate), ("--compare", compare)):
        if count < LEAST:
            raise CheckError(f"{flag} is {count}, must be at least {LEAST} images")
    if images is None:
        return Choice(
            tuple(Source(CALIBRATION_SEED + i, 1 - i % 2) for i in range(calibrate)),
            tuple(Source(COMPARISON_SEED + i, 1 - i % 2) for i in range(compare)),
            "drawn scenes, as no --images were given",
        )
    found = _found(images)
    if len(found) < calibrate + compare:
        calibrate = len(found) * calibrate // (calibrate + compare)
        compare = len(found) - calibrate
    one, other = split(found, calibrate, compare, random.Random(seed))
    if min(len(one), len(other)) < LEAST:
        raise CheckError(
            f"--images {images}: {len(found)} images; {LEAST} for calibrating and {LEAST} others are needed, of other "
            "groups where there are groups"
        )
    known = sum(source.label is not None for source in found)
    words = f"{images.name}: {len(found)} images" + (", labelled" if known else "")
    return Choice(tuple(one), tuple(other), words)


def split(
    found: Sequence[Source], calibrate: int, compare: int, draw: random.Random
) -> tuple[list[Source], list[Source]]:
    """Whole groups to either side, at random, then at most so many images of each. Without a group: each its own."""
    groups: dict[object, list[Source]] = {}
    for number, source in enumerate(found):
        groups.setdefault(("alone", number) if source.group is None else source.group, []).append(source)
    order = list(groups.values())
    draw.shuffle(order)
    sides: tuple[list[Source], list[Source]] = ([], [])
    for group in order:
        # To the side that lacks the larger share of what it is to have.
        shares = [len(side) / wanted for side, wanted in zip(sides, (calibrate, compare), strict=True)]
        sides[shares.index(min(shares))].extend(group)
    for side in sides:
        draw.shuffle(side)
    return sides[0][:calibrate], sides[1][:compare]


def _found(images: Path) -> list[Source]:
    if images.is_file() or any((images / name).is_dir() for name in ("roadwork", "none")):
        labelled = read_labelled(images)
        groups = [None] * len(labelled.paths) if labelled.groups is None else [int(group) for group in labelled.groups]
        rows = zip(labelled.paths, labelled.labels, groups, strict=True)
        return [Source(path, int(label), group) for path, label, group in rows]
    if not images.is_dir():
        raise CheckError(f"--images {images}: no such folder or CSV file")
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGES)
    return [Source(path, None) for path in paths]


def write(sources: Sequence[Source], settings: TierImage, folder: Path) -> list[Path]:
    """Write each image as the tier gets it: through the canvas as a JPEG, or the file as it is.

    Raises:
        CheckError: one cannot be read.
    """
    folder.mkdir(parents=True)
    written = []
    for number, source in enumerate(sources):
        path = folder / f"{number:05}.jpg"
        if settings.source == "original" and isinstance(source.where, Path):
            path = path.with_suffix(source.where.suffix.lower())
            shutil.copyfile(source.where, path)
        else:
            image = _pixels(source.where)
            # A scene has no file of its own: as it is drawn is what a caller would have sent.
            side = settings.max_side if settings.source == "canvas" else max(image.shape)
            path.write_bytes(as_served(image, side, settings.quality, canvas=settings.source == "canvas"))
        written.append(path)
    return written


def as_served(image: np.ndarray, max_side: int, quality: int, *, canvas: bool = True) -> bytes:
    """uint8 [H, W, 3] RGB to the JPEG that a tier gets."""
    if canvas:
        square, size, left, top = letterbox(image)
        image = square[top : top + size[1], left : left + size[0]]
    return encoded(Image.fromarray(image), max_side, quality)


def _pixels(where: Path | int) -> np.ndarray:
    if isinstance(where, Path):
        image = cv2.imread(str(where), cv2.IMREAD_COLOR)
        if image is None:
            raise CheckError(f"{where}: not an image that can be read")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    from ..scenes import render_scene

    width, height = SCENE_SIZE
    return render_scene(where, roadwork=where % 2 == 0, width=width, height=height).image
