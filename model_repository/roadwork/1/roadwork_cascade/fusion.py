"""Boxes of several detectors fused into those that are drawn.

Weighted boxes fusion (R. Solovyev et al., "Weighted boxes fusion: Ensembling boxes from different object detection
models", Image and Vision Computing 107, 2021) by its authors' package. For drawing only: a sure box that one of ten
detectors saw would count a tenth, so nothing is decided by it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from roadwork_cascade.members import Boxes, Geometry
from roadwork_cascade.taxonomy import Taxonomy


def fuse(
    seen: Mapping[str, Boxes],
    canvas_size: tuple[int, int],
    geometry: Geometry,
    taxonomy: Taxonomy,
    *,
    iou: float,
    score: float,
) -> list[dict[str, Any]]:
    """Fused boxes as the verdict lists them, best score first.

    Parameters: `seen` by member; `canvas_size` height and width in pixels; boxes under `score` are left out, boxes of
    one class over `iou` are one. The score is that of the surest member; coordinates are pixels of the upright
    original, clipped to it.
    """
    height, width = canvas_size
    unit = np.array([width, height, width, height], dtype=np.float64)
    members = [(name, _sound(boxes, unit, score)) for name, boxes in seen.items()]
    members = [(name, boxes) for name, boxes in members if boxes.scores.size]
    if not members:
        return []
    fused, scores, labels = _fusion()(
        [boxes.xyxy.tolist() for _, boxes in members],
        [boxes.scores.tolist() for _, boxes in members],
        [boxes.classes.tolist() for _, boxes in members],
        iou_thr=iou,
        skip_box_thr=0.0,
        conf_type="max",
    )
    seen_by = _seen_by(fused, labels, members, iou)
    drawn = []
    for box, confidence, label, names in zip(fused * unit, scores, labels, seen_by, strict=True):
        original = _to_original(box, geometry)
        if original[2] > original[0] and original[3] > original[1]:  # else it lies in the letterbox's bars
            drawn.append(
                {
                    "class": taxonomy.classes[int(label)].name,
                    "score": round(float(min(1.0, confidence)), 4),
                    "box": [round(value, 1) for value in original],
                    "seen_by": names,
                }
            )
    return drawn


def warm() -> None:
    """Do the slow import (it brings a compiler) now instead of in the first request."""
    _fusion()


@functools.lru_cache(maxsize=1)
def _fusion() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    from ensemble_boxes import weighted_boxes_fusion

    return weighted_boxes_fusion


def _sound(boxes: Boxes, unit: np.ndarray, score: float) -> Boxes:
    """Boxes of at least `score` in units of the canvas, clipped to it, without those of no area."""
    xyxy = np.clip(boxes.xyxy / unit, 0.0, 1.0)
    keep = (boxes.scores >= score) & (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    return Boxes(xyxy[keep], boxes.scores[keep], boxes.classes[keep])


def _seen_by(fused: np.ndarray, labels: np.ndarray, members: list[tuple[str, Boxes]], iou: float) -> list[list[str]]:
    """Members behind each fused box. The package does not tell: a member's box went into the fused box of its class
    that it overlaps most, and a fused box moves while it grows, so overlap with the final one may be under `iou`."""
    names: list[list[str]] = [[] for _ in fused]
    for name, boxes in members:
        overlap = np.where(boxes.classes[:, None] == labels[None, :], _iou(boxes.xyxy, fused), -1.0)
        found = set(overlap.argmax(axis=1).tolist()) | set(np.flatnonzero((overlap > iou).any(axis=0)).tolist())
        for index in sorted(found):
            names[index].append(name)
    return names


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [N, 4] and [M, 4] as [N, M]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-12)


def _to_original(box: np.ndarray, geometry: Geometry) -> list[float]:
    x = [min(max((float(v) - geometry.pad_x) / geometry.scale, 0.0), geometry.width) for v in box[[0, 2]]]
    y = [min(max((float(v) - geometry.pad_y) / geometry.scale, 0.0), geometry.height) for v in box[[1, 3]]]
    return [x[0], y[0], x[1], y[1]]
