"""The register of what can be drawn, and `render_object`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from roadwork_export.scenes import barricades, boards, channelizers, machines, people, signs, vehicles
from roadwork_export.scenes.brush import Brush, Image, Sprite, View

Painter = Callable[[np.random.Generator, float, View], Brush]

#: Classes of the taxonomy that this package draws.
OBJECTS: dict[str, Painter] = {
    "cone": channelizers.cone,
    "drum": channelizers.drum,
    "vertical_panel": channelizers.vertical_panel,
    "tubular_marker": channelizers.tubular_marker,
    "barricade": barricades.barricade,
    "barrier": barricades.barrier,
    "fence": barricades.fence,
    "ttc_sign": signs.ttc_sign,
    "ttc_message_board": boards.ttc_message_board,
    "arrow_board": boards.arrow_board,
    "work_vehicle": machines.work_vehicle,
    "work_equipment": machines.work_equipment,
    "worker": people.worker,
    "police_vehicle": vehicles.police_vehicle,
    "police_officer": people.police_officer,
    "other": machines.other,
}

#: Share of the surface that dirt may cover.
DIRT = {
    "cone": 0.35,
    "drum": 0.35,
    "barricade": 0.25,
    "barrier": 0.5,
    "other": 0.4,
    "work_vehicle": 0.3,
    "work_equipment": 0.3,
}


@dataclass
class Drawn:
    """A sprite and the metres that its height stands for."""

    sprite: Sprite
    metres: float


def oversampling(height: float) -> float:
    """Pixels drawn for each pixel kept: more for small objects, whose edges count more."""
    return float(min(max(28.0, height * (2.5 if height < 90 else 2.0 if height < 160 else 1.4)), max(300.0, height)))


def draw(
    painter: Painter,
    rng: np.random.Generator,
    view: View,
    *,
    focal: float | None = None,
    height: int | None = None,
    dirt: float = 0,
) -> Drawn:
    """Draw for a camera of focal length `focal` pixels, or at `height` pixels."""
    guess = float(height) if height is not None else (focal or 500.0) * 1.6 / view.distance
    brush = painter(rng, oversampling(guess), view)
    _, _, _, rows = _bounds(brush)
    metres = rows / brush.scale
    if height is None:
        height = max(3, round((focal or 500.0) * metres / view.distance))
    soiled = dirt * float(rng.random()) if dirt and rng.random() < 0.6 else 0.0
    return Drawn(brush.finish(rng, height, soiled), metres)


def _bounds(brush: Brush) -> tuple[int, int, int, int]:
    rows = np.flatnonzero(brush.rgba[..., 3].any(1))
    return (0, 0, 0, int(rows[-1] - rows[0] + 1)) if rows.size else (0, 0, 0, 1)


def random_view(rng: np.random.Generator) -> View:
    return View(
        float(rng.normal(0, 0.35)), float(rng.uniform(5, 40)), float(rng.uniform(1.2, 2.2)), float(rng.uniform(-1, 1))
    )


def render_object(class_name: str, height_px: int, rng: int | np.random.Generator) -> Image:
    """A cut-out of one object, `height_px` tall and tightly cropped (of a sign, its board without the post).

    Returns
    -------
    uint8 array [height_px, any width, 4]
        RGB and alpha (not premultiplied).
    """
    if class_name not in OBJECTS:
        raise ValueError(f"{class_name!r} cannot be drawn; choose one of {', '.join(OBJECTS)}")
    if height_px < 3:
        raise ValueError(f"height_px is {height_px}, must be at least 3")
    rng = np.random.default_rng(rng)
    view, dirt = random_view(rng), DIRT.get(class_name, 0.0)
    state = rng.bit_generator.state
    sprite = draw(OBJECTS[class_name], rng, view, height=int(height_px), dirt=dirt).sprite
    if sprite.region is not None:
        # Draw it again, so tall that the boxed part has the height asked for.
        share = (sprite.region[3] - sprite.region[1]) / sprite.height
        rng.bit_generator.state = state
        sprite = draw(OBJECTS[class_name], rng, view, height=round(height_px / share), dirt=dirt).sprite
    pixels = sprite.pixels
    if sprite.region is not None:
        x0, y0, x1, _ = (round(side) for side in sprite.region)
        pixels = pixels[y0 : y0 + height_px, x0:x1]
        x, _, width, _ = cv2.boundingRect(np.ascontiguousarray(pixels[..., 3]))
        y, tall = _span(pixels)
        pixels = np.ascontiguousarray(pixels[y : y + tall, x : x + width])
        if tall != height_px:
            pixels = np.asarray(cv2.resize(pixels, (width, height_px), interpolation=cv2.INTER_LINEAR), np.uint8)
    return straight(pixels)


def _span(pixels: Image) -> tuple[int, int]:
    """First row and number of rows that are not empty."""
    rows = np.flatnonzero(pixels[..., 3].any(1))
    return int(rows[0]), int(rows[-1] - rows[0] + 1)


def straight(pixels: Image) -> Image:
    """Undo the premultiplication of colour by alpha."""
    alpha = np.maximum(pixels[..., 3:].astype(np.float32), 1)
    colour = np.clip(pixels[..., :3] * (255.0 / alpha), 0, 255)
    return np.dstack([colour, pixels[..., 3]]).astype(np.uint8)
