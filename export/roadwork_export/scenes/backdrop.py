"""What stands behind everything: sky, ground, road, facades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from roadwork_export.scenes import noise
from roadwork_export.scenes.brush import Colour, Image, mix, scaled
from roadwork_export.scenes.camera import Camera
from roadwork_export.scenes.light import Light
from roadwork_export.scenes.palette import chance, pick, vary
from roadwork_export.scenes.textures import lettering, plain, stripes

Rng = np.random.Generator
FACADES = 48
WALLS: tuple[Colour, ...] = (
    *((132, 78, 62), (150, 96, 74), (112, 64, 52), (176, 160, 138), (196, 188, 174), (150, 150, 148), (120, 122, 126)),
    *((206, 200, 190), (98, 88, 80), (170, 130, 96), (88, 100, 112), (214, 206, 186)),
)


@dataclass(frozen=True)
class Road:
    """Metres from the camera: edges of the carriageway, its lanes, and the strip beside it."""

    left: float
    right: float
    lane: float
    walk: float
    setback: float
    urban: float

    @staticmethod
    def random(rng: Rng) -> Road:
        lane = float(rng.uniform(3.0, 3.7))
        own, other = int(rng.integers(1, 4)), int(rng.integers(0, 3))
        mine = int(rng.integers(0, own))
        park = float(rng.choice([0.0, 2.2])) if own + other < 5 else 0.0
        left = -(mine + 0.5 + other) * lane - (park if other else 0.4)
        right = (own - mine - 0.5) * lane + park
        return Road(left, right, lane, float(rng.uniform(1.2, 4)), float(rng.uniform(0, 7)), float(rng.random()))


@lru_cache(maxsize=FACADES)
def facade(index: int) -> Image:
    """A wall with windows, 160 x 160, some with shops and awnings at street level."""
    rng = np.random.default_rng(7000 + index)
    wall = vary(rng, pick(rng, WALLS), 7)
    texture = plain(160, 160, wall).astype(np.float32)
    texture *= (1 + 0.05 * noise.crop("cloud", 160, 160, rng) + 0.04 * noise.crop("grain", 160, 160, rng))[..., None]
    if chance(rng, 0.5):
        texture[::5] *= 0.93
    image = np.clip(texture, 0, 255).astype(np.uint8)
    floors, bays = int(rng.integers(2, 8)), int(rng.integers(3, 9))
    pane: Colour = pick(rng, ((46, 54, 64), (70, 84, 98), (36, 38, 44), (110, 126, 140)))
    frame = scaled(wall, 1.25) if chance(rng, 0.6) else scaled(wall, 0.65)
    high, wide = 160 / floors, 160 / bays
    width, height = wide * float(rng.uniform(0.35, 0.75)), high * float(rng.uniform(0.45, 0.7))
    shop = chance(rng, 0.45)
    for row in range(floors - (1 if shop else 0)):
        if chance(rng, 0.15):
            cv2.rectangle(image, (0, int(row * high)), (160, int(row * high) + 2), frame, -1)
        for bay in range(bays):
            x, y = (bay + 0.5) * wide - width / 2, row * high + (high - height) * 0.5
            glass = mix(pane, (190, 210, 230), float(rng.random()) * 0.4)
            cv2.rectangle(image, (int(x - 1), int(y - 1)), (int(x + width + 1), int(y + height + 2)), frame, -1)
            cv2.rectangle(image, (int(x), int(y)), (int(x + width), int(y + height)), glass, -1)
            cv2.line(image, (int(x), int(y + height / 2)), (int(x + width), int(y + height / 2)), frame, 1)
    if shop:
        y = int(160 - high)
        cv2.rectangle(image, (0, y), (160, 159), (40, 42, 46), -1)
        fronts: Sequence[Colour] = (
            (236, 112, 36),
            (176, 34, 38),
            (40, 96, 62),
            (44, 64, 120),
            (220, 214, 200),
            (246, 188, 40),
            (32, 32, 34),
        )
        for x in range(0, 160, 40):
            tone = vary(rng, pick(rng, fronts), 8)
            if chance(rng, 0.3):
                image[y + 2 : y + int(high * 0.3), x + 1 : x + 39] = stripes(
                    38, int(high * 0.3) - 2, tone, (232, 230, 226), 4, 0
                )
            else:
                cv2.rectangle(image, (x + 1, y + 2), (x + 38, y + int(high * 0.3)), tone, -1)
            if chance(rng, 0.4):
                sign = image[y + 2 : y + int(high * 0.3), x + 1 : x + 39]
                lettering(
                    sign,
                    [pick(rng, ("CAFE", "BANK", "PIZZA", "SALE", "OPEN", "MARKET", "BAR"))],
                    (240, 240, 236),
                    (0.1, 0.1, 0.9, 0.9),
                )
            cv2.rectangle(image, (x + 26, y + int(high * 0.35)), (x + 34, 159), vary(rng, (70, 60, 54), 16), -1)
    return image


def sky(image: Image, camera: Camera, light: Light, rng: Rng) -> None:
    rows = int(np.clip(camera.horizon + 2, 4, camera.height))
    small = (max(2, rows // 3), camera.width // 3)
    t = (np.linspace(0, 1, small[0], dtype=np.float32) ** float(rng.uniform(0.8, 1.6)))[:, None, None]
    up, low = np.array(light.zenith, np.float32), np.array(light.horizon, np.float32)
    field = np.broadcast_to(up + (low - up) * t, (*small, 3))
    if light.clouds > 0.25:
        cloud = noise.crop("cloud", *small, rng, 0.5)
        amount = np.clip((cloud + light.clouds - 0.6) * 0.5, 0, 0.85 * light.clouds)[..., None]
        tone = np.array([246, 246, 248] if light.sun else [216, 218, 222], np.float32) * (1 - 0.9 * light.night)
        field = field + amount * (tone - field)
    image[:rows] = cv2.resize(field.astype(np.uint8), (camera.width, rows), interpolation=cv2.INTER_LINEAR)


def _horizon(image: Image, camera: Camera, light: Light, road: Road, rng: Rng) -> None:
    """Far trees and blocks, faded by haze."""
    y = camera.horizon + 1
    bush: Colour = pick(
        rng, ((70, 84, 56), (92, 96, 70), (120, 92, 50) if light.autumn else (60, 78, 52), (110, 110, 112))
    )
    for _ in range(int(rng.integers(3, 9))):
        x, wide = float(rng.uniform(0, camera.width)), float(rng.uniform(20, 120))
        if chance(rng, road.urban):
            tall = float(rng.uniform(8, 90)) * road.urban
            tone = mix(vary(rng, pick(rng, WALLS), 10), light.horizon, float(rng.uniform(0.3, 0.7)))
            top = int(y - tall)
            cv2.rectangle(image, (int(x - wide / 3), top), (int(x + wide / 3), int(y)), tone, -1)
            step = int(rng.integers(4, 8))
            for row in range(top + 3, int(y) - 2, step):
                cv2.line(
                    image,
                    (int(x - wide / 3) + 2, row),
                    (int(x + wide / 3) - 2, row),
                    scaled(tone, 0.82),
                    max(1, step // 3),
                )
    across = np.arange(0, camera.width + 8, 8)
    ridge = y - np.abs(noise.crop("cloud", 2, across.size, rng)[0]) * float(rng.uniform(3, 16)) - 2
    outline = np.vstack([np.stack([across, ridge], 1), [[camera.width + 8, y + 3], [0, y + 3]]]).astype(np.int32)
    cv2.fillPoly(
        image, [outline], mix(vary(rng, bush, 6), light.horizon, min(0.8, 0.25 + light.veil(120))), cv2.LINE_AA
    )


def _strip(
    image: Image, camera: Camera, x0: float, x1: float, z0: float, z1: float, colour: Colour, alpha: float = 1.0
) -> None:
    points = [camera.ground(x0, z0), camera.ground(x1, z0), camera.ground(x1, z1), camera.ground(x0, z1)]
    fixed = (np.clip(np.array(points), -4000, 4000) * 16).astype(np.int32)
    cv2.fillPoly(image, [fixed], colour, cv2.LINE_AA, 4)


def ground(image: Image, camera: Camera, light: Light, road: Road, rng: Rng) -> None:
    near = camera.focal * camera.eye / (camera.height - camera.horizon) * 0.9
    far = 260.0
    verge: Colour = pick(rng, ((96, 112, 62), (112, 116, 80), (150, 136, 110), (136, 134, 128), (124, 98, 60)))
    verge = (150, 147, 140) if road.urban > 0.6 else verge
    asphalt: Colour = vary(
        rng, pick(rng, ((112, 112, 114), (96, 97, 100), (132, 130, 126), (146, 142, 134), (80, 82, 86))), 8
    )
    if light.wet:
        asphalt = scaled(asphalt, 0.7)
    if light.snow:
        verge, asphalt = mix(verge, (232, 234, 238), 0.8), mix(asphalt, (220, 222, 226), float(rng.uniform(0, 0.35)))
    cv2.rectangle(image, (0, int(camera.horizon) + 1), (camera.width, camera.height), vary(rng, verge, 8), -1)
    pave: Colour = vary(rng, (172, 168, 160), 12)
    if road.urban > 0.25:
        _strip(image, camera, road.left - road.walk, road.left, near, far, pave)
        _strip(image, camera, road.right, road.right + road.walk, near, far, pave)
        for x, s in ((road.left, -1), (road.right, 1)):
            _strip(image, camera, x, x + s * 0.22, near, far, scaled(pave, 1.1))
            _strip(image, camera, x - s * 0.12, x, near, far, scaled(asphalt, 0.6))
    _strip(image, camera, road.left, road.right, near, far, asphalt)
    for _ in range(int(rng.integers(0, 5))):
        x, z = float(rng.uniform(road.left, road.right)), float(rng.uniform(4, 30))
        _strip(
            image,
            camera,
            x,
            x + float(rng.uniform(0.8, 4)),
            z,
            z + float(rng.uniform(2, 15)),
            scaled(asphalt, float(rng.uniform(0.78, 1.15))),
        )
    _markings(image, camera, road, asphalt, near, rng)
    _shade(image, camera, light, road, near, rng)
    _surface(image, camera, light, rng)


def _markings(image: Image, camera: Camera, road: Road, asphalt: Colour, near: float, rng: Rng) -> None:
    wear = float(rng.uniform(0.05, 0.6))
    white, yellow = mix((226, 226, 222), asphalt, wear), mix((224, 172, 50), asphalt, wear * 0.8)
    lines = np.arange(-4, 5) * road.lane + road.lane / 2
    inside = [float(x) for x in lines if road.left + 0.8 < x < road.right - 0.8]
    double = max((x for x in inside if x < 0), default=None)
    phase = float(rng.uniform(0, 9))
    for x in inside:
        if x == double and chance(rng, 0.8):
            for d in (-0.16, 0.16):
                _strip(image, camera, x + d - 0.06, x + d + 0.06, near, 160, yellow)
            continue
        for z in np.arange(max(near, 1.0) - phase, 110, 9):
            if z + 3 > near:
                _strip(image, camera, x - 0.07, x + 0.07, max(near, float(z)), float(z) + 3.2, white)
    if chance(rng, 0.6):
        for x in (road.left + 0.35, road.right - 0.35):
            _strip(image, camera, x - 0.06, x + 0.06, near, 160, white)
    if chance(rng, 0.3):
        z, tall = float(rng.uniform(7, 28)), float(rng.uniform(2, 3.4))
        for x in np.arange(road.left + 0.4, road.right - 0.6, 1.0):
            _strip(image, camera, float(x), float(x) + 0.5, z, z + tall, white)
    elif chance(rng, 0.3):
        z = float(rng.uniform(6, 25))
        _strip(image, camera, -road.lane / 2, road.right - 0.3, z, z + 0.5, white)
    for _ in range(int(rng.integers(0, 3))):
        x, z = float(rng.uniform(road.left, road.right)), float(rng.uniform(5, 20))
        u, v = camera.ground(x, z)
        axes = (max(1, int(0.38 * camera.focal / z)), max(1, int(0.38 * camera.focal * camera.eye / z / z)))
        cv2.ellipse(image, (int(u), int(v)), axes, 0, 0, 360, scaled(asphalt, 0.65), -1, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 5))):
        x, z = float(rng.uniform(road.left, road.right)), float(rng.uniform(4, 15))
        path = np.array([x, z]) + np.cumsum(rng.normal([0.0, 0.7], [0.35, 0.3], (10, 2)), 0)
        points = np.array([camera.ground(float(a), max(3.0, float(b))) for a, b in path]).astype(np.int32)
        cv2.polylines(image, [points], False, scaled(asphalt, float(rng.choice([0.6, 0.75]))), 1, cv2.LINE_AA)


def _shade(image: Image, camera: Camera, light: Light, road: Road, near: float, rng: Rng) -> None:
    """Shadows of houses and trees that fall across the road in sunlight."""
    if light.sun == 0 or light.night or chance(rng, 0.35):
        return
    layer = np.full((camera.height, camera.width), 255, np.uint8)
    s = float(np.sign(light.sun))
    edge = road.right + road.walk if s > 0 else road.left - road.walk
    if road.urban > 0.5 and chance(rng, 0.6):
        reach = float(rng.uniform(1, 9))
        for z in np.arange(near, 90, 14):
            if chance(rng, 0.8):
                jut = reach * float(rng.uniform(0.7, 1.2))
                _strip(layer, camera, edge - s * jut, edge + s * 6, float(z), float(z) + 15, (130, 130, 130))  # type: ignore[arg-type]
    else:
        for _ in range(int(rng.integers(2, 9))):
            z, x = float(rng.uniform(4, 30)), edge - s * float(rng.uniform(0, 8))
            for _ in range(7):
                a, b, r = x + float(rng.normal(0, 1.6)), z + float(rng.normal(0, 0.7)), float(rng.uniform(0.4, 1.5))
                u, v = camera.ground(a, max(3.0, b))
                axes = (
                    int(r * camera.focal / max(3.0, b)),
                    int(r * 0.6 * camera.focal * camera.eye / max(3.0, b) ** 2),
                )
                cv2.ellipse(layer, (int(u), int(v)), axes, 0, 0, 360, (140,), -1)
    layer = np.asarray(cv2.blur(layer, (5, 3)), np.uint8)
    top = int(camera.horizon) + 2
    image[top:] = cv2.multiply(image[top:], cv2.cvtColor(layer[top:], cv2.COLOR_GRAY2RGB), scale=1 / 255)


def _surface(image: Image, camera: Camera, light: Light, rng: Rng) -> None:
    """Grain of the ground in perspective, stains, gloss when wet."""
    top = int(camera.horizon) + 2
    rows = camera.height - top
    if rows < 8:
        return
    per = 42.0
    z0, z1 = camera.focal * camera.eye / rows, camera.focal * camera.eye / 6
    source, target = [], []
    for x, z in ((-6.0, z0), (6.0, z0), (6.0, z1), (-6.0, z1)):
        u, v = camera.ground(x, z)
        source.append((512 + x * per, 1000 - min(z, 600) * per * 0.35))
        target.append((u, v - top))
    matrix = cv2.getPerspectiveTransform(np.array(source, np.float32), np.array(target, np.float32))
    size = (camera.width, rows)
    grain = cv2.warpPerspective(noise.bank8("grain"), matrix, size, borderMode=cv2.BORDER_REFLECT)
    stain = cv2.warpPerspective(noise.bank8("cloud"), matrix, size, borderMode=cv2.BORDER_REFLECT)
    a, b = float(rng.uniform(0.08, 0.24)), float(rng.uniform(0.08, 0.28))
    tone = cv2.cvtColor(cv2.addWeighted(grain, a, stain, b, 128 * (1 - a - b)), cv2.COLOR_GRAY2RGB)
    image[top:] = cv2.multiply(image[top:], tone, scale=1 / 128)
    if light.wet:
        mirror = cv2.GaussianBlur(image[max(0, top - rows) : top][::-1], (0, 0), 6)
        image[top : top + mirror.shape[0]] = cv2.addWeighted(image[top : top + mirror.shape[0]], 0.75, mirror, 0.25, 0)


def buildings(image: Image, camera: Camera, light: Light, road: Road, rng: Rng) -> None:
    """Rows of facades on both sides, far to near."""
    walls: list[tuple[float, float, float, float, int]] = []
    for s in (-1, 1):
        if not chance(rng, 0.25 + 0.7 * road.urban):
            continue
        edge = (-road.left if s < 0 else road.right) + road.walk + road.setback
        z = float(rng.uniform(3, 9))
        while z < 110 and len(walls) < 14:
            deep = float(rng.uniform(8, 24))
            if chance(rng, 0.86):
                walls.append(
                    (
                        s * (edge + float(rng.uniform(0, 1.5))),
                        z,
                        z + deep,
                        float(rng.uniform(4, 9) + rng.uniform(0, 16) * road.urban),
                        int(rng.integers(FACADES)),
                    )
                )
            z += deep + float(rng.choice([0.0, 0.0, 4.0]))
    for x, z0, z1, tall, index in sorted(walls, key=lambda wall: -wall[2]):
        _wall(image, camera, light, x, z0, z1, tall, index)


def _wall(image: Image, camera: Camera, light: Light, x: float, z0: float, z1: float, tall: float, index: int) -> None:
    texture = facade(index)
    if x > 0:  # words on shops read from left to right
        texture = np.ascontiguousarray(texture[:, ::-1])
    corners = [camera.at(x, tall, z0), camera.at(x, tall, z1), camera.at(x, 0, z1), camera.at(x, 0, z0)]
    target = np.array(corners, np.float32)
    low = np.maximum(np.floor(target.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(target.max(0)).astype(int), (camera.width, camera.height))
    if (high - low).min() < 2:
        return
    end = [camera.at(x, tall, z0), camera.at(x * 3, tall, z0), camera.at(x * 3, 0, z0), camera.at(x, 0, z0)]
    shade = scaled(tuple(float(c) for c in texture[4, 4]), 0.8 if light.sun * x < 0 else 1.0)  # type: ignore[arg-type]
    cv2.fillPoly(
        image,
        [(np.clip(np.array(end), -3000, 3000) * 16).astype(np.int32)],
        mix(shade, light.horizon, light.veil(z0)),
        cv2.LINE_AA,
        4,
    )
    gain = 1.0 if light.sun == 0 else 0.66 if light.sun * x > 0 else 1.08
    tone = np.array(light.horizon, np.float32) * light.veil((z0 + z1) / 2)
    texture = np.clip(texture * (gain * (1 - light.veil((z0 + z1) / 2))) + tone, 0, 255).astype(np.uint8)
    if light.night > 0.5:
        dark = texture[..., 2] < 120
        texture[dark & (noise.crop("cloud", 160, 160, np.random.default_rng(index), 0.4) > 0.9)] = (255, 214, 150)
    source = np.array([(0, 0), (160, 0), (160, 160), (0, 160)], np.float32)
    matrix = cv2.getPerspectiveTransform(source, (target - low).astype(np.float32))
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    place = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
    cv2.warpPerspective(texture, matrix, size, place, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
    image[low[1] : high[1], low[0] : high[0]] = place


def backdrop(camera: Camera, light: Light, road: Road, rng: Rng) -> Image:
    image = np.empty((camera.height, camera.width, 3), np.uint8)
    sky(image, camera, light, rng)
    _horizon(image, camera, light, road, rng)
    ground(image, camera, light, road, rng)
    buildings(image, camera, light, road, rng)
    return image
