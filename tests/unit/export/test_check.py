"""Matching what a file found with what its source found."""

from __future__ import annotations

import numpy as np
import pytest
from roadwork_export.check import Agreement, agreement, match, once
from roadwork_export.errors import CheckError
from roadwork_export.family import Found


def found(count: int, seed: int = 0) -> Found:
    """Boxes that lie apart from each other, with falling scores."""
    rng = np.random.default_rng(seed)
    corner = np.stack([np.arange(count) % 8 * 80.0, np.arange(count) // 8 * 80.0], 1)
    boxes = np.concatenate([corner, corner + rng.uniform(20, 60, (count, 2))], 1)
    return Found(boxes, np.linspace(0.95, 0.2, count), rng.integers(0, 5, count))


def shifted(one: Found, pixels: float = 0.0, score: float = 0.0, order: np.ndarray | None = None) -> Found:
    order = np.arange(len(one.scores)) if order is None else order
    return Found(one.boxes[order] + pixels, one.scores[order] + score, one.labels[order])


def test_the_same_boxes_in_another_order_agree_exactly() -> None:
    one = found(40)
    told = agreement([(one, shifted(one, order=np.random.default_rng(1).permutation(40)))])
    assert (told.boxes, told.box_px, told.score, told.unmatched) == (40, 0.0, 0.0, 0.0)


def test_boxes_and_scores_are_measured_apart() -> None:
    one = found(40)
    told = agreement([(one, shifted(one, pixels=0.5)), (one, shifted(one, score=-0.03))])
    assert told.box_px == pytest.approx(0.5)
    assert told.mean_box_px == pytest.approx(0.25)
    assert told.score == pytest.approx(0.03)
    assert told.unmatched == 0


@pytest.mark.parametrize("side", ["file", "source"])
def test_a_box_that_one_side_lacks_is_unmatched(side: str) -> None:
    one = found(10)
    fewer = shifted(one, order=np.arange(1, 10))
    pair = (fewer, one) if side == "file" else (one, fewer)
    assert agreement([pair]).unmatched == pytest.approx(1 / 19)


def test_a_box_of_another_class_or_far_away_is_no_counterpart() -> None:
    one = found(4)
    assert agreement([(one, Found(one.boxes, one.scores, one.labels + 1))]).unmatched == 1
    assert agreement([(one, shifted(one, pixels=40.0))]).unmatched == 1


def test_what_is_behind_the_files_best_hundred_is_not_missed() -> None:
    many = found(140)
    told = agreement([(shifted(many, order=np.arange(100)), many)])
    assert told.boxes == 100
    assert told.unmatched == 0


def test_boxes_in_one_place_are_told_apart_by_their_scores() -> None:
    box = np.array([[10.0, 10, 50, 50]])
    one = Found(np.repeat(box, 3, 0), np.array([0.9, 0.6, 0.3]), np.zeros(3, int))
    rows, columns = match(one, shifted(one, order=np.array([2, 0, 1])))
    assert np.array_equal(np.array([2, 0, 1])[columns][np.argsort(rows)], np.arange(3))


def test_two_labels_of_one_class_on_one_box_count_once() -> None:
    box = np.array([[10.0, 10, 50, 50]])
    left = once(Found(np.repeat(box, 3, 0), np.array([0.4, 0.9, 0.8]), np.array([1, 1, 2])))
    assert left.scores.tolist() == [0.9, 0.8]


def test_nothing_found_proves_nothing() -> None:
    faint = Found(np.zeros((3, 4)), np.full(3, 0.01), np.zeros(3, int))
    with pytest.raises(CheckError, match="proves nothing"):
        agreement([(faint, faint)])


def test_what_is_over_its_limit_is_named() -> None:
    told = Agreement(canvases=2, boxes=9, box_px=1.5, score=0.001).judge({"box_px": 1.0, "score": 0.01})
    assert not told.passed
    assert "FAILED, box_px 1.5 over 1" in str(told)
    assert Agreement(box_px=1.0).judge({"box_px": 1.0}).passed
