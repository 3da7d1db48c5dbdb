"""Pasting of cut-outs into photographs, and boxes against sprites."""

from __future__ import annotations

import numpy as np
import pytest
from roadwork_export.scenes import paste, render_object
from roadwork_export.scenes.brush import Image, Sprite
from roadwork_export.scenes.camera import Camera
from roadwork_export.scenes.light import Light
from roadwork_export.scenes.paste import blend
from roadwork_export.scenes.scene import _Stage


def canvas(level: int = 120) -> Image:
    return np.full((200, 300, 3), level, np.uint8)


def test_box_is_where_the_sprite_is() -> None:
    image, sprite = canvas(), render_object("drum", 80, 1)
    box = paste(image, sprite, 100, 60, shadow=0, grain=0)
    assert box is not None
    assert box.tolist() == [100, 60, 100 + sprite.shape[1], 140]
    changed = np.abs(image.astype(int) - 120).max(-1) > 12
    assert changed[60:140, 100 : 100 + sprite.shape[1]].mean() > 0.4
    changed[57:143, 97 : 103 + sprite.shape[1]] = False
    assert not changed.any()


def test_box_is_clipped_to_the_image() -> None:
    box = paste(canvas(), render_object("cone", 80, 1), -10, 150)
    assert box is not None
    assert box[0] == 0
    assert box[3] == 200


def test_outside_nothing_changes() -> None:
    image = canvas()
    assert paste(image, render_object("cone", 40, 1), 500, 10) is None
    assert (image == 120).all()


def test_objects_in_dark_pictures_are_darker() -> None:
    sprite = render_object("drum", 80, 1)
    dark, day = canvas(20), canvas(150)
    paste(dark, sprite, 100, 60, shadow=0)
    paste(day, sprite, 100, 60, shadow=0)
    middle = (slice(80, 120), slice(110, 110 + sprite.shape[1] // 2))
    assert dark[middle].mean() < 0.85 * day[middle].mean()


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_blend_keeps_the_rest_of_the_light(alpha: int) -> None:
    image = canvas(200)
    piece = np.zeros((4, 4, 4), np.uint8)
    piece[..., 3] = alpha
    blend(image, piece, 10, 10)
    assert abs(int(image[11, 11, 0]) - 200 * (255 - alpha) / 255) <= 1


def stage() -> _Stage:
    rng = np.random.default_rng(0)
    image = canvas()
    return _Stage(
        Camera.random(rng, 300, 200), Light.random(rng), image, np.zeros((200, 300), np.int16), image[..., 0].copy()
    )


def block(width: int, height: int) -> Sprite:
    return Sprite(np.full((height, width, 4), 255, np.uint8))


def test_boxes_follow_what_is_visible() -> None:
    scene = stage()
    scene._own(block(40, 40), 10, 10, "cone")
    scene._own(block(20, 60), 30, 5, None)  # hides the right half
    boxes, classes = scene.boxes(200)
    assert boxes.tolist() == [[10, 10, 30, 50]]
    assert classes.tolist() == [0]


def test_hidden_objects_have_no_box() -> None:
    scene = stage()
    scene._own(block(40, 40), 10, 10, "cone")
    scene._own(block(32, 60), 10, 5, "drum")
    assert scene.boxes(200)[1].tolist() == [1]


def test_objects_mostly_outside_have_no_box() -> None:
    scene = stage()
    scene._own(block(40, 40), -35, 10, "cone")
    assert len(scene.boxes(200)[0]) == 0
