"""Whole scenes: the same seed gives the same scene, boxes are inside, negatives hold no roadwork."""

from __future__ import annotations

import time

import numpy as np
import pytest
from roadwork_cascade.taxonomy import load_taxonomy
from roadwork_export.scenes import NOT_ROADWORK, render_scene

NAMES = load_taxonomy().names


@pytest.mark.parametrize("roadwork", [True, False])
def test_same_seed_same_scene(roadwork: bool) -> None:
    first, second = render_scene(41, roadwork=roadwork), render_scene(41, roadwork=roadwork)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.boxes, second.boxes)
    assert np.array_equal(first.classes, second.classes)


def test_scenes_do_not_depend_on_those_before() -> None:
    alone = render_scene(52).image
    render_scene(53)
    assert np.array_equal(render_scene(52).image, alone)


def test_other_seed_other_scene() -> None:
    assert not np.array_equal(render_scene(1).image, render_scene(2).image)


def test_a_generator_moves_on() -> None:
    rng = np.random.default_rng(3)
    assert not np.array_equal(render_scene(rng).image, render_scene(rng).image)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_lie_inside(seed: int) -> None:
    scene = render_scene(seed, roadwork=True, width=480, height=320)
    assert scene.image.shape == (320, 480, 3)
    assert scene.image.dtype == np.uint8
    assert scene.boxes.dtype == np.float32
    assert scene.classes.dtype == np.int64
    assert scene.boxes.shape == (len(scene.classes), 4)
    assert len(scene.boxes) > 0
    assert (scene.boxes[:, :2] >= 0).all()
    assert (scene.boxes[:, 2:] <= [480, 320]).all()
    assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all()
    assert set(scene.classes.tolist()) <= set(range(len(NAMES)))


@pytest.mark.parametrize("seed", range(12))
def test_without_roadwork_only_police_may_occur(seed: int) -> None:
    scene = render_scene(seed, roadwork=False)
    assert not scene.roadwork
    assert {NAMES[i] for i in scene.classes} <= NOT_ROADWORK


@pytest.mark.parametrize("seed", range(6))
def test_with_roadwork_something_shows_it(seed: int) -> None:
    scene = render_scene(seed, roadwork=True)
    assert scene.roadwork
    assert {NAMES[i] for i in scene.classes} - NOT_ROADWORK


def test_left_open_both_occur() -> None:
    assert {render_scene(seed, width=160, height=100).roadwork for seed in range(12)} == {True, False}


def test_scenes_vary_in_brightness() -> None:
    levels = [float(render_scene(seed, width=160, height=100).image.mean()) for seed in range(40)]
    assert max(levels) - min(levels) > 60


def test_time_grows_with_area_no_faster_than_linearly() -> None:
    def seconds(width: int, height: int) -> float:
        start = time.process_time()
        for seed in range(6):
            render_scene(seed, width=width, height=height)
        return time.process_time() - start

    for size in ((320, 200), (1280, 800)):  # fill the stock of ordinary things first
        seconds(*size)
    assert seconds(1280, 800) < 16 * 1.5 * seconds(320, 200)


def test_tiny_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 64"):
        render_scene(0, width=32, height=32)
