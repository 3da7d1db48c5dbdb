"""The labelled photographs: which may train published weights, their boxes, their folds, their cut-out objects."""

from __future__ import annotations

import csv
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from roadwork_cascade.taxonomy import load_taxonomy

BOXED_SOURCE = "Mi3-Lab/workzone"


@dataclass
class Photo:
    """One photograph: image uint8 [H, W, 3] RGB, boxes float32 [N, 4] x1 y1 x2 y2 in pixels, class ids [N]."""

    file: str
    group: str
    source: str
    roadwork: bool
    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


@dataclass
class Cutout:
    """An object cut from a photograph: RGBA uint8 sprite and its class id."""

    sprite: np.ndarray
    class_id: int


@dataclass
class Photos:
    """Photographs by use, and the objects cut out of them."""

    annotated: list[Photo] = field(default_factory=list)
    empty: list[Photo] = field(default_factory=list)
    cutouts: dict[int, list[Cutout]] = field(default_factory=dict)


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Rows of `images.csv` whose licence lets trained weights be published."""
    with (folder / "images.csv").open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["weights_may_be_published"] == "yes"]
    if not rows:
        raise ValueError(f"{folder / 'images.csv'}: no row has weights_may_be_published = yes")
    return rows


def assign_folds(rows: list[dict[str, str]], count: int) -> dict[str, int]:
    """Group -> fold. Within each source the groups are dealt out, largest first, to the fold that holds least of it."""
    sizes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        sizes[row["source"].split(" ")[0]][row["group"]] += 1
    folds: dict[str, int] = {}
    for groups in sizes.values():
        held = [0] * count
        for group, size in sorted(groups.items(), key=lambda item: (-item[1], item[0])):
            if group in folds:
                continue
            # A source's single group must not always fall to fold 0: ties are broken by the group's name.
            turn = zlib.crc32(group.encode()) % count
            chosen = min(range(count), key=lambda k: (held[k], (k - turn) % count))
            folds[group] = chosen
            held[chosen] += size
    return folds


def cut_out(image: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """The object in `box` as an RGBA sprite, its background made transparent by GrabCut; None where that fails."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    w, h = x2 - x1, y2 - y1
    if w < 9 or h < 12 or x1 <= 0 or y1 <= 0 or x2 >= width or y2 >= height:
        return None  # a sprite cut by the frame would teach that objects end in straight lines
    margin = max(4, int(0.3 * max(w, h)))
    left, top = max(0, x1 - margin), max(0, y1 - margin)
    patch = np.ascontiguousarray(image[top : min(height, y2 + margin), left : min(width, x2 + margin)])
    mask = np.zeros(patch.shape[:2], np.uint8)
    rectangle = (x1 - left, y1 - top, w, h)
    try:
        cv2.grabCut(patch, mask, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_RECT)
    except cv2.error:
        return None
    alpha = np.where((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD), 255, 0).astype(np.uint8)
    alpha = alpha[y1 - top : y2 - top, x1 - left : x2 - left]
    if alpha.mean() / 255 < 0.3:
        return None  # GrabCut lost the object
    soft = cv2.GaussianBlur(alpha, (3, 3), 0)
    return np.dstack([image[y1:y2, x1:x2], soft]).astype(np.uint8)


def load_photos(folder: Path, held_out: set[str], *, cut: bool = True) -> Photos:
    """Every publishable photograph outside the groups `held_out`; with `cut`, objects are cut out of them too."""
    ids = {entry.name: entry.id for entry in load_taxonomy().classes}
    boxes: dict[str, list[tuple[list[float], int]]] = defaultdict(list)
    with (folder / "boxes.csv").open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            boxes[row["file"]].append(([float(row[k]) for k in ("x1", "y1", "x2", "y2")], ids[row["class"]]))
    photos = Photos()
    for row in read_rows(folder):
        if row["group"] in held_out or row["label"] == "detector_only":
            continue
        image = cv2.imread(str(folder / row["file"]), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{folder / row['file']}: cannot be read as an image")
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        drawn = boxes.get(row["file"], [])
        photo = Photo(
            row["file"],
            row["group"],
            row["source"],
            row["label"] == "roadwork",
            image,
            np.array([b for b, _ in drawn], np.float32).reshape(-1, 4),
            np.array([c for _, c in drawn], np.int64),
        )
        if row["source"] == BOXED_SOURCE and drawn:
            photos.annotated.append(photo)
        elif not photo.roadwork:
            photos.empty.append(photo)
        for box, class_id in zip(photo.boxes, photo.classes, strict=True):
            sprite = cut_out(image, box) if cut else None
            if sprite is not None:
                photos.cutouts.setdefault(int(class_id), []).append(Cutout(sprite, int(class_id)))
    return photos
