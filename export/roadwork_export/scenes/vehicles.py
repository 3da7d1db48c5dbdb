"""Ordinary traffic, and police cars."""

from __future__ import annotations

import numpy as np

from roadwork_export.scenes.bodies import Body, assemble, car_body, wheel
from roadwork_export.scenes.brush import Brush, Colour, View, mix, scaled
from roadwork_export.scenes.palette import GLASS, PAINTS, chance, orange, pick, vary
from roadwork_export.scenes.textures import lettering

Rng = np.random.Generator


def car(rng: Rng, pixels: float, view: View) -> Brush:
    """A car; a few are orange or taxi yellow."""
    paint = vary(rng, pick(rng, PAINTS), 8)
    if chance(rng, 0.08):
        paint = pick(rng, (orange(rng), (250, 190, 20), (240, 130, 40)))
    return assemble(rng, car_body(rng, paint), view, pixels, across=chance(rng, 0.04))


def box_truck(rng: Rng, pixels: float, view: View) -> Brush:
    """A delivery truck, a city bus or a school bus: large and flat, some of them yellow or orange."""
    kind = pick(rng, ("box", "box", "box", "bus", "school"))
    paint: Colour = {
        "box": vary(
            rng,
            pick(rng, ((232, 232, 230), (210, 212, 214), (150, 92, 40), (120, 64, 34), (40, 70, 130), (238, 120, 30))),
            8,
        ),
        "bus": vary(rng, pick(rng, ((224, 226, 230), (36, 84, 150), (170, 34, 40), (60, 120, 80))), 8),
        "school": vary(rng, (246, 176, 18), 6),
    }[kind]
    width, height = 2.45, float(rng.uniform(2.9, 3.5))
    length = float(rng.uniform(6, 8)) if kind == "box" else float(rng.uniform(9, 12))
    end = Brush(width, height, 90)
    k = width / 2
    for s in (-1, 1):
        end.rect(s * k * 0.9, 0, s * k * 0.5, 0.6, (24, 24, 26))
    end.rect(-k, 0.45, k, height, paint)
    end.gain(-k, 0.45, k, height, 0.8, 1.05)
    if kind == "box":
        end.rect(-k * 0.92, 0.9, k * 0.92, height * 0.95, scaled(paint, 0.93))
        end.line([(0, 0.9), (0, height * 0.95)], scaled(paint, 0.7), 0.04)
        end.rect(-k, 0.45, k, 0.62, (40, 40, 42))
        if chance(rng, 0.5):
            lettering(
                end.rgba,
                [pick(rng, ("MOVING", "FRESH FOOD", "EXPRESS", "LAUNDRY"))],
                (60, 60, 140),
                (0.15, 0.3, 0.85, 0.5),
            )
    else:
        end.rect(-k * 0.85, height * 0.45, k * 0.85, height * 0.82, GLASS)
        end.rect(-k * 0.5, height * 0.45, -k * 0.46, height * 0.82, paint)
        if kind == "school":
            lettering(end.rgba, ["SCHOOL BUS"], (20, 20, 20), (0.12, 0.05, 0.88, 0.17))
            end.rect(-k, height * 0.36, k, height * 0.38, (20, 20, 20))
    for s in (-1, 1):
        end.rect(s * k * 0.97, 0.65, s * k * 0.82, 0.95, (170, 24, 24))
    side = Brush(length, height, 90)
    j = length / 2
    side.rect(-j, 0.45, j, height, paint)
    if kind == "box":
        side.rect(j * 0.62, 0.4, j, height, (0, 0, 0), 0)
        side.poly(
            [
                (j * 0.64, 0.45),
                (j * 0.64, height * 0.78),
                (j * 0.85, height * 0.78),
                (j * 0.99, height * 0.5),
                (j, 0.45),
            ],
            (226, 226, 226),
        )
        side.poly(
            [(j * 0.72, height * 0.5), (j * 0.72, height * 0.72), (j * 0.84, height * 0.72), (j * 0.95, height * 0.5)],
            GLASS,
        )
        if chance(rng, 0.5):
            side.rect(-j * 0.7, height * 0.4, j * 0.3, height * 0.75, vary(rng, pick(rng, PAINTS), 30))
    else:
        side.rect(-j * 0.94, height * 0.52, j * 0.96, height * 0.8, GLASS)
        for x in np.arange(-j * 0.94, j * 0.9, 1.1):
            side.rect(x, height * 0.52, x + 0.12, height * 0.8, paint)
        if kind == "school":
            side.rect(-j, height * 0.4, j, height * 0.42, (20, 20, 20))
    for x in (-0.62 * j, 0.72 * j):
        wheel(side, x, 0.48)
    near = np.ascontiguousarray(side.rgba[:, ::-1])
    return assemble(rng, Body(width, height, length, end.rgba, near), view, pixels, across=chance(rng, 0.05))


def police_vehicle(rng: Rng, pixels: float, view: View) -> Brush:
    paint: Colour = pick(rng, ((28, 30, 34), (236, 236, 236), (236, 236, 236), (34, 50, 96)))
    body = car_body(rng, paint, pick(rng, ("sedan", "suv", "suv")))
    body.lettered = True
    rows, columns = body.side.shape[:2]
    band = body.side[int(rows * 0.44) : int(rows * 0.72), int(columns * 0.3) : int(columns * 0.66)]
    other: Colour = (236, 236, 236) if paint[0] < 100 else (26, 52, 120)
    band[band[..., 3] > 0] = (*(int(c) for c in other), 255)
    lettering(
        body.side,
        ["POLICE"],
        mix(paint, (20, 20, 40), 0.4) if paint[0] < 100 else (240, 240, 240),
        (0.3, 0.46, 0.66, 0.68),
    )
    if chance(rng, 0.6):
        lettering(body.end, ["POLICE"], other, (0.25, 0.5, 0.75, 0.6))
    across = chance(rng, 0.3)
    bar = 0.14
    brush = assemble(rng, body, view, pixels, across, 1 + bar / body.height * 1.2)
    half = 0.55 if not across else 0.3
    y = body.height
    brush.rect(-half, y - 0.02, half, y + bar * 0.25, (30, 30, 34))
    left: Colour = (60, 90, 255)
    right: Colour = (255, 40, 40) if chance(rng, 0.7) else left
    lit = chance(rng, 0.7)
    for i, x in enumerate(np.linspace(-half * 0.8, half * 0.8, 4)):
        colour = left if i < 2 else right
        if lit and chance(rng, 0.7):
            brush.lamp(float(x), y + bar * 0.5, half * 0.16, colour)
        else:
            brush.rect(float(x) - half * 0.2, y, float(x) + half * 0.2, y + bar, scaled(colour, 0.55))
    return brush
