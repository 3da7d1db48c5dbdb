"""Whole street scenes with exact boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.taxonomy import load_taxonomy

from roadwork_export.scenes import vehicles, weather
from roadwork_export.scenes.backdrop import Road, backdrop
from roadwork_export.scenes.brush import Brush, Image, Sprite, View
from roadwork_export.scenes.camera import Camera
from roadwork_export.scenes.layout import Item, ordinary, work_zone
from roadwork_export.scenes.light import Light
from roadwork_export.scenes.objects import DIRT, OBJECTS, draw
from roadwork_export.scenes.palette import chance
from roadwork_export.scenes.paste import blend, contact_shadow, darken, window

Rng = np.random.Generator
Painter = Callable[[Rng, float, View], Brush]
SMALLEST = 7  # pixels of height under which nothing is drawn
VISIBLE = 0.25  # share of an object that must be seen for it to have a box
STOCK = 24  # variants of each ordinary thing that a process keeps
STOCK_PIXELS = 150
SOLID = (vehicles.car, vehicles.box_truck)
REFLECTIVE = frozenset({"cone", "drum", "vertical_panel", "tubular_marker", "barricade", "ttc_sign", "worker"})
#: Classes that also occur in streets without roadwork.
NOT_ROADWORK = frozenset({"police_vehicle", "police_officer"})


@dataclass
class Scene:
    """image uint8 [H, W, 3] RGB; boxes float32 [N, 4] x1 y1 x2 y2 in pixels; classes int64 [N] taxonomy ids."""

    image: Image
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    roadwork: bool


@lru_cache(maxsize=1)
def class_ids() -> dict[str, int]:
    return {name: i for i, name in enumerate(load_taxonomy().names)}


@lru_cache(maxsize=2048)
def _stocked(painter: Painter, index: int, bucket: int, level: int = 0) -> tuple[Sprite, float]:
    """An ordinary thing, drawn once for each of a few directions; each level halves its size."""
    if level:
        larger, metres = _stocked(painter, index, bucket, level - 1)
        size = (max(1, larger.width // 2), larger.height // 2)
        pixels = np.asarray(cv2.resize(larger.pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        return Sprite(pixels, [(a / 2, b / 2, r / 2, c) for a, b, r, c in larger.lamps]), metres
    rng = np.random.default_rng([index, bucket + 8, sum(map(ord, getattr(painter, "__name__", "")))])
    view = View(lateral=bucket * 0.2, distance=14.0, sun=float(rng.uniform(-1, 1)))
    drawn = draw(painter, rng, view, height=STOCK_PIXELS)
    return drawn.sprite, drawn.metres


@dataclass
class _Stage:
    """The picture in the making: who owns each pixel, what reflects, what shines."""

    camera: Camera
    light: Light
    image: Image
    owner: NDArray[np.int16]
    bright: NDArray[np.uint8]
    lamps: list[weather.Lamp] = field(default_factory=list)
    extents: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)

    def place(self, item: Item, rng: Rng) -> None:
        """Draw an item; with a class, note its extent (class, x, y, width, height, pixels)."""
        camera = self.camera
        u, v = camera.ground(item.x, item.z)
        if not -0.35 * camera.width < u < 1.35 * camera.width:
            return
        sprite = self._sprite(item, rng)
        if sprite is None:
            return
        sprite = self._lit(sprite, item, rng)
        x, y = round(u - sprite.width / 2), round(v - sprite.height)
        self._shadow(sprite, u, v, item)
        blend(self.image, sprite.pixels, x, y)
        self.lamps.extend((x + a, y + b, max(r, 0.6), c) for a, b, r, c in sprite.lamps)
        self._own(sprite, x, y, item.name)

    def _sprite(self, item: Item, rng: Rng) -> Sprite | None:
        camera, lateral = self.camera, item.x / item.z
        if not item.stock:
            view = View(lateral, item.z, camera.eye, self.light.sun)
            sprite = draw(item.painter, rng, view, focal=camera.focal, dirt=DIRT.get(item.name or "", 0.0)).sprite
            return sprite if sprite.height >= SMALLEST else None
        index = int(rng.integers(STOCK))
        # Only vehicles look different from the left and from the right.
        bucket = int(np.clip(round(lateral / 0.2), -4, 4)) if item.painter in SOLID else 0
        stocked, metres = _stocked(item.painter, index, bucket)
        height = round(camera.focal * metres / item.z)
        if height < SMALLEST or height > 3 * camera.height:
            return None
        level = int(np.clip(np.log2(STOCK_PIXELS / height), 0, 3))
        stocked, _ = _stocked(item.painter, index, bucket, level)
        ratio = height / stocked.height
        size = (max(1, round(stocked.width * ratio)), height)
        pixels = cv2.resize(stocked.pixels, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
        return Sprite(
            np.asarray(pixels, np.uint8), [(a * ratio, b * ratio, r * ratio, c) for a, b, r, c in stocked.lamps]
        )

    def _lit(self, sprite: Sprite, item: Item, rng: Rng) -> Sprite:
        """Haze, and the level of the day."""
        veil = self.light.veil(item.z)
        level = {"overcast": 0.92, "rain": 0.82, "fog": 0.92, "snow": 0.95}.get(self.light.kind, 1.0) * float(
            rng.uniform(0.86, 1.06)
        )
        if self.light.sun * item.x > 0 and item.x * item.x > 25:
            level *= 0.78
        # Premultiplied colour and alpha are linear in the result, so one 4 x 4 matrix does both.
        matrix = np.diag([level * (1 - veil)] * 3 + [1.0]).astype(np.float32)
        matrix[:3, 3] = np.array(self.light.horizon, np.float32) * (veil / 255)
        pixels = np.asarray(cv2.transform(sprite.pixels, matrix), np.uint8)
        return Sprite(pixels, sprite.lamps, sprite.region)

    def _shadow(self, sprite: Sprite, u: float, v: float, item: Item) -> None:
        strength = 0.5 if self.light.kind not in ("fog", "snow") else 0.25
        contact_shadow(self.image, u, v - 0.5, sprite.width * 0.9, strength)
        if self.light.sun == 0 or sprite.height < 14 or self.light.night > 0.5 or sprite.height > 260:
            return
        slope = 0.22 + 0.2 * abs(self.light.sun)
        rows = max(2, int(sprite.height * 0.22))
        reach = int(-self.light.sun * sprite.height * slope * 2.2)
        flat = cv2.resize(sprite.pixels[..., 3], (sprite.width, rows), interpolation=cv2.INTER_AREA)
        matrix = np.array([[1, -reach / rows, max(reach, 0)], [0, 1, 0]], np.float32)
        cast = cv2.warpAffine(flat, matrix, (sprite.width + abs(reach), rows))
        x, y = round(u - sprite.width / 2) + min(reach, 0), round(v - rows)
        darken(self.image, np.asarray(cv2.convertScaleAbs(cast, alpha=0.42), np.uint8), x, y)

    def _own(self, sprite: Sprite, x: int, y: int, name: str | None) -> None:
        solid = sprite.pixels[..., 3] > (96 if name != "fence" else 60)
        if sprite.region is not None:  # the rest only hides what is behind it
            self._own(Sprite(sprite.pixels), x, y, None)
            x0, y0, x1, y1 = (round(side) for side in sprite.region)
            solid[:y0], solid[y1:], solid[:, :x0], solid[:, x1:] = False, False, False, False
        part = window(self.owner.shape, sprite.height, sprite.width, x, y)
        if part is None:
            return
        rows, columns, own_rows, own_columns = part
        mark = 0
        if name is not None:
            self.extents.append((class_ids()[name], x, y, sprite.width, sprite.height, int(np.count_nonzero(solid))))
            mark = len(self.extents)
        inside = solid[own_rows, own_columns]
        self.owner[rows, columns][inside] = mark
        self.bright[rows, columns][inside] = 255 if name in REFLECTIVE else 0

    def boxes(self, lowest: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes of the visible pixels above row `lowest`, of objects seen well enough."""
        boxes, classes = [], []
        for i, (kind, x, y, width, height, total) in enumerate(self.extents, start=1):
            x0, y0 = max(0, x), max(0, y)
            seen = self.owner[y0 : min(y + height, lowest), x0 : max(x0, x + width)] == i
            count = int(np.count_nonzero(seen))
            if total == 0 or count < VISIBLE * total:
                continue
            columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
            if rows[-1] - rows[0] < 4 or columns[-1] - columns[0] < 2:
                continue
            boxes.append([x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1])
            classes.append(kind)
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64)


def _attempt(rng: Rng, roadwork: bool, width: int, height: int) -> Scene:
    camera, light, road = Camera.random(rng, width, height), Light.random(rng), Road.random(rng)
    items = ordinary(road, rng)
    if roadwork:
        works = work_zone(road, rng)
        if chance(rng, 0.12):
            works += work_zone(road, rng)
        # Traffic that would stand in the works stays away.
        items = [i for i in items if not any(abs(i.x - w.x) < 1.6 and abs(i.z - w.z) < 4 for w in works)] + works
    elif chance(rng, 0.07):
        name = "police_vehicle" if chance(rng, 0.7) else "police_officer"
        items.append(
            Item(OBJECTS[name], float(rng.uniform(road.left, road.right)), float(rng.uniform(9, 45)), name, stock=False)
        )
    image = backdrop(camera, light, road, rng)
    stage = _Stage(camera, light, image, np.zeros((height, width), np.int16), np.zeros((height, width), np.uint8))
    for item in sorted(items, key=lambda each: -each.z):
        stage.place(item, rng)
    image = stage.image
    if light.night:
        image = weather.darken(image, stage.bright, camera, light, stage.lamps, rng)
    if stage.lamps:
        weather.glow(image, stage.lamps, light)
    weather.precipitation(image, light, rng)
    lowest = weather.bonnet(image, rng) + 1 if chance(rng, 0.35) else height
    boxes, classes = stage.boxes(lowest)
    return Scene(weather.lens(image, light, rng), boxes, classes, roadwork)


def render_scene(
    seed: int | np.random.Generator, *, roadwork: bool | None = None, width: int = 640, height: int = 400
) -> Scene:
    """A street scene; the same seed gives the same scene.

    Parameters
    ----------
    seed: a number, or a generator to draw from.
    roadwork: whether there is a work zone; None tosses a coin. Without one, police are the only
        objects of the taxonomy that can occur.
    """
    if width < 64 or height < 64:
        raise ValueError(f"width and height are {width} and {height}, must be at least 64")
    rng = np.random.default_rng(seed)
    wanted = chance(rng, 0.5) if roadwork is None else roadwork
    evident = {i for name, i in class_ids().items() if name not in NOT_ROADWORK}
    for _ in range(8):
        scene = _attempt(rng, wanted, width, height)
        if not wanted or evident.intersection(scene.classes.tolist()):
            return scene
    raise RuntimeError("no work zone came into view in 8 attempts; please report the seed")
