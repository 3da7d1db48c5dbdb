from __future__ import annotations

import cv2
import numpy as np
from roadwork_bench.baseline import best_count, blob_decisions
from roadwork_bench.blobs import count_blobs

ORANGE, BLUE, ASPHALT = (255, 110, 20), (30, 80, 220), (90, 90, 95)


def _street(blobs: int, color: tuple[int, int, int], width: int = 640) -> np.ndarray:
    picture = np.full((width * 5 // 8, width, 3), ASPHALT, np.uint8)
    for k in range(blobs):
        x, y, side = width * (60 + 80 * k) // 640, width // 3, max(4, width // 45)
        cv2.rectangle(picture, (x, y), (x + side, y + 2 * side), color, -1)
    return picture


def test_orange_blobs_are_counted_at_any_size() -> None:
    for width in (320, 640, 1280):
        assert count_blobs(_street(5, ORANGE, width)) == 5


def test_other_colours_specks_and_empty_streets_do_not_count() -> None:
    assert count_blobs(_street(5, BLUE)) == 0
    assert count_blobs(_street(0, ORANGE)) == 0
    specks = _street(0, ORANGE)
    specks[::40, ::40] = ORANGE
    assert count_blobs(specks) == 0


def test_threshold_comes_from_other_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.array([f"g{k % 12}" for k in range(240)])
    labels = np.array([k % 12 % 2 for k in range(240)])
    counts = rng.poisson(1 + 6 * labels)
    assert 2 <= best_count(labels, counts) <= 5
    assert (blob_decisions(labels, groups, counts) == labels).mean() > 0.9
