"""Boxes of several detectors become those that are drawn, in pixels of the original."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from roadwork_cascade.fusion import fuse
from roadwork_cascade.members import Boxes, Geometry
from roadwork_cascade.taxonomy import load_taxonomy

# 1280 x 720 on a canvas of 640: half the size, bars of 140 above and below
WIDE = Geometry(width=1280, height=720, scale=0.5, pad_x=0, pad_y=140)


def boxes(*found: tuple[list[float], float, int]) -> Boxes:
    return Boxes(
        np.array([box for box, _, _ in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in found], np.float32),
        np.array([kind for _, _, kind in found], np.int32),
    )


def draw(geometry: Geometry = WIDE, **seen: Boxes) -> list[dict[str, Any]]:
    return fuse(seen, (640, 640), geometry, load_taxonomy(), iou=0.55, score=0.25)


def test_boxes_are_given_in_pixels_of_the_original() -> None:
    (drawn,) = draw(one=boxes(([100, 240, 200, 340], 0.9, 0)))
    assert drawn == {"class": "cone", "score": 0.9, "box": [200.0, 200.0, 400.0, 400.0], "seen_by": ["one"]}


def test_two_detectors_on_one_object_make_one_box_with_both_names() -> None:
    (drawn,) = draw(one=boxes(([100, 240, 200, 340], 0.8, 0)), two=boxes(([102, 242, 202, 342], 0.6, 0)))
    assert drawn["seen_by"] == ["one", "two"]
    assert drawn["score"] == pytest.approx(0.8)
    assert 200 < drawn["box"][0] < 204


def test_a_box_that_one_of_two_saw_keeps_its_score() -> None:
    (drawn,) = draw(one=boxes(([100, 240, 200, 340], 0.8, 0)), two=boxes())
    assert drawn["score"] == pytest.approx(0.8)
    assert drawn["seen_by"] == ["one"]


def test_different_classes_and_distant_boxes_stay_apart() -> None:
    drawn = draw(
        one=boxes(([100, 240, 200, 340], 0.8, 0), ([400, 240, 500, 340], 0.5, 0)),
        two=boxes(([100, 240, 200, 340], 0.7, 12)),
    )
    assert [(entry["class"], entry["seen_by"]) for entry in drawn] == [
        ("cone", ["one"]),
        ("worker", ["two"]),
        ("cone", ["one"]),
    ]


def test_faint_boxes_are_not_drawn() -> None:
    assert draw(one=boxes(([100, 240, 200, 340], 0.2, 0))) == []


def test_boxes_in_the_letterbox_bars_are_not_drawn() -> None:
    assert draw(one=boxes(([100, 10, 200, 100], 0.9, 0))) == []


def test_nobody_saw_anything() -> None:
    assert draw() == []
    assert draw(one=boxes(), two=boxes()) == []


coordinate = st.floats(-100, 800, width=32)
found = st.lists(
    st.tuples(st.lists(coordinate, min_size=4, max_size=4), st.floats(0.015625, 1.0, width=32), st.integers(0, 15)),
    max_size=12,
)


@pytest.mark.filterwarnings("error")
@given(found, found)
def test_whatever_detectors_say_what_is_drawn_lies_in_the_image_and_has_a_witness(one: list, two: list) -> None:
    for entry in draw(one=boxes(*one), two=boxes(*two)):
        x1, y1, x2, y2 = entry["box"]
        assert 0 <= x1 <= x2 <= 1280
        assert 0 <= y1 <= y2 <= 720
        assert 0.25 <= entry["score"] <= 1
        assert entry["seen_by"]
