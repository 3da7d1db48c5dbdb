"""Vehicles as two flat views (end and side) that are laid on a box in perspective.

The right edge of a side joins the end that is shown, which is the rear in most of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork_export.scenes.brush import Brush, Colour, Image, View, mix, scaled
from roadwork_export.scenes.palette import GLASS, chance, pick

Rng = np.random.Generator
TYRE: Colour = (24, 24, 26)


@dataclass
class Body:
    """Width, height and length in metres, and the textures of its end and side (front to the right)."""

    width: float
    height: float
    length: float
    end: Image
    side: Image
    lamps: tuple[tuple[float, float, float, Colour], ...] = ()
    tuck: float = 0.0  # share of the half width by which the side lies under a rounded end
    lettered: bool = False  # the side has words, so it must not be mirrored


def assemble(rng: Rng, body: Body, view: View, pixels: float, across: bool = False, top: float = 1.0) -> Brush:
    """Draw `body` as seen along the road, or from its side when `across`."""
    tall = body.height * top
    if across:
        brush = Brush(body.length * 1.04, tall * 1.03, pixels)
        half = body.length / 2
        corners = [(-half, body.height), (half, body.height), (half, 0.0), (-half, 0.0)]
        brush.panel(
            corners, body.side if body.lettered or chance(rng, 0.5) else np.ascontiguousarray(body.side[:, ::-1])
        )
        return brush
    side = 1.0 if view.lateral > 0 else -1.0
    inner = abs(view.lateral) * view.distance - body.width / 2
    far = view.distance / (view.distance + body.length)
    edge = max(0.0, inner) * (1 - far)
    half = body.width / 2
    brush = Brush(2 * (half + edge + 0.05), tall * 1.04, pixels)
    if edge > 0.04:
        near_x, far_x = -side * half * (1 - body.tuck), -side * (half + edge)

        def y(value: float) -> float:
            return view.eye + (value - view.eye) * far

        lit = 0.82 + 0.25 * max(0.0, -view.sun * side)
        texture = body.side.copy()
        texture[..., :3] = np.clip(texture[..., :3] * lit, 0, 255).astype(np.uint8)
        if side < 0:
            texture = np.ascontiguousarray(texture[:, ::-1])
        corners = [(far_x, y(body.height)), (near_x, body.height), (near_x, 0.0), (far_x, y(0.0))]
        if side < 0:
            corners = [(near_x, body.height), (far_x, y(body.height)), (far_x, y(0.0)), (near_x, 0.0)]
        brush.panel(corners, texture)
    brush.panel([(-half, body.height), (half, body.height), (half, 0.0), (-half, 0.0)], body.end)
    for x, y_lamp, radius, colour in body.lamps:
        brush.lamps.append((*brush.at(x, y_lamp), radius * brush.scale, colour))
    return brush


def wheel(brush: Brush, x: float, radius: float, rim: Colour = (130, 132, 136)) -> None:
    brush.ellipse(x, radius, radius, radius, TYRE)
    brush.ellipse(x, radius, radius * 0.58, radius * 0.58, rim)
    brush.ellipse(x, radius, radius * 0.2, radius * 0.2, scaled(rim, 0.5))


def car_side(length: float, height: float, paint: Colour, kind: str, pixels: float = 72) -> Image:
    """Front to the right. kind: sedan, suv, hatch, van, pickup."""
    brush = Brush(length, height, pixels)
    h, k = height, length / 2
    hood = {"sedan": 0.6, "suv": 0.62, "hatch": 0.6, "van": 0.62, "pickup": 0.6}[kind] * h
    low = 0.17 * h
    roofs = {
        "sedan": [(-0.62, hood + 0.02), (-0.38, h * 0.98), (0.08, h), (0.4, hood)],
        "suv": [(-0.96, hood), (-0.86, h * 0.97), (0.16, h), (0.42, hood)],
        "hatch": [(-0.94, hood), (-0.74, h * 0.96), (0.1, h), (0.44, hood)],
        "van": [(-0.98, hood), (-0.95, h), (0.4, h), (0.72, hood)],
        "pickup": [(-0.12, hood), (-0.1, h * 0.98), (0.26, h), (0.48, hood)],
    }[kind]
    cabin = [(x * k, y) for x, y in roofs]
    brush.poly(
        [
            (-k * 0.98, low),
            (-k, hood * 0.75),
            (-k * 0.97, hood),
            *cabin,
            (k * 0.9, hood * 0.9),
            (k, hood * 0.62),
            (k * 0.98, low),
        ],
        paint,
    )
    brush.gain(-k, low, k, h, 0.72, 1.08)
    mid = sum(x for x, _ in cabin) / 4, hood + (h - hood) * 0.42
    glass = [(mid[0] + (x - mid[0]) * 0.88, max(hood + 0.03, mid[1] + (y - mid[1]) * 0.8)) for x, y in cabin]
    brush.poly(glass, GLASS)
    brush.poly(
        [(x, y) for x, y in glass if y > hood + 0.1] + [(mid[0], hood + (h - hood) * 0.55)],
        mix(GLASS, (160, 180, 200), 0.35),
    )
    for share in (0.35, 0.68) if kind != "pickup" else (0.5,):
        x = glass[0][0] + (glass[-1][0] - glass[0][0]) * share
        brush.line([(x, hood), (x, h * 0.97)], paint, 0.07)
    brush.line([(-k * 0.9, hood * 0.78), (k * 0.9, hood * 0.76)], scaled(paint, 0.82), 0.03)
    brush.rect(-k, low, k, low + 0.08, (40, 40, 42))
    radius = 0.2 * min(h, 1.7) + 0.02
    for x in (-0.6 * k, 0.62 * k):
        brush.ellipse(x, radius, radius * 1.2, radius * 1.2, (20, 20, 22))
        wheel(brush, x, radius)
    brush.ellipse(k * 0.94, hood * 0.78, 0.12, 0.06, (230, 230, 220))
    brush.ellipse(-k * 0.96, hood * 0.8, 0.08, 0.09, (170, 24, 26))
    return brush.rgba


def car_end(width: float, height: float, paint: Colour, kind: str, rear: bool, lit: bool, pixels: float = 84) -> Image:
    brush = Brush(width, height, pixels)
    k, h = width / 2, height
    hood = (0.55 if kind in ("sedan", "pickup") else 0.52) * h
    top = 0.78 if kind in ("sedan", "hatch") else 0.88
    for s in (-1, 1):
        brush.rect(s * k * 0.94, 0, s * k * 0.64, h * 0.28, TYRE)
    brush.rect(-k * 0.9, h * 0.1, k * 0.9, h * 0.25, (22, 22, 24))
    contour = [(0.96, 0.17 * h), (1.0, 0.4 * h), (0.94, hood), (top, 0.93 * h), (top * 0.85, h)]
    outline = [(-x * k, y) for x, y in contour] + [(x * k, y) for x, y in reversed(contour)]
    brush.poly(outline, paint)
    brush.gain(-k, h * 0.15, k, h, 0.74, 1.1)
    brush.poly(
        [(-k * 0.82, hood + 0.03), (-k * top * 0.86, h * 0.92), (k * top * 0.86, h * 0.92), (k * 0.82, hood + 0.03)],
        GLASS,
    )
    brush.poly(
        [(-k * 0.3, hood + 0.1), (-k * 0.2, h * 0.9), (k * top * 0.8, h * 0.9), (k * 0.72, hood + 0.12)],
        mix(GLASS, (150, 170, 190), 0.3),
    )
    if rear:
        lamp: Colour = (255, 46, 36) if lit else (150, 22, 26)
        for s in (-1, 1):
            brush.poly(
                [(s * k * 0.95, h * 0.38), (s * k * 0.95, h * 0.52), (s * k * 0.62, h * 0.5), (s * k * 0.66, h * 0.4)],
                lamp,
            )
        brush.rect(-0.2, h * 0.33, 0.2, h * 0.42, (222, 222, 216))
        brush.line([(-k * 0.9, h * 0.28), (k * 0.9, h * 0.28)], scaled(paint, 0.7), 0.03)
    else:
        brush.poly([(-k * 0.5, h * 0.44), (k * 0.5, h * 0.44), (k * 0.42, h * 0.3), (-k * 0.42, h * 0.3)], (28, 28, 30))
        for s in (-1, 1):
            brush.poly(
                [(s * k * 0.92, h * 0.4), (s * k * 0.92, h * 0.48), (s * k * 0.58, h * 0.46), (s * k * 0.6, h * 0.4)],
                (236, 236, 228),
            )
        brush.rect(-0.2, h * 0.22, 0.2, h * 0.29, (222, 222, 216))
    for s in (-1, 1):
        brush.ellipse(s * k * 0.99, hood + 0.02, 0.1, 0.07, scaled(paint, 0.8))
    return brush.rgba


def car_body(rng: Rng, paint: Colour, kind: str | None = None) -> Body:
    kind = kind or pick(rng, ("sedan", "sedan", "suv", "suv", "hatch", "van", "pickup"))
    height = {"sedan": 1.45, "suv": 1.75, "hatch": 1.5, "van": 2.2, "pickup": 1.85}[kind] * float(
        rng.uniform(0.96, 1.05)
    )
    width = {"van": 2.0, "pickup": 1.95}.get(kind, 1.82)
    length = {"sedan": 4.6, "suv": 4.7, "hatch": 4.1, "van": 5.3, "pickup": 5.6}[kind]
    rear, lit = chance(rng, 0.65), chance(rng, 0.35)
    end = car_end(width, height, paint, kind, rear, lit)
    side = car_side(length, height, paint, kind)
    if rear:  # the side's right edge joins the end that is shown
        side = np.ascontiguousarray(side[:, ::-1])
    y = height * (0.45 if rear else 0.44)
    colour: Colour = (255, 40, 30) if rear else (255, 250, 230)
    lamps = tuple((s * width * 0.39, y, 0.1, colour) for s in (-1, 1)) if lit or not rear else ()
    return Body(width, height, length, end, side, lamps, 0.22)
