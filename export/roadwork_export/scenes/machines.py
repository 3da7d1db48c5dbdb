"""Work vehicles and work equipment."""

from __future__ import annotations

import numpy as np

from roadwork_export.scenes.boards import arrow_panel, trailer
from roadwork_export.scenes.bodies import Body, assemble, car_body, wheel
from roadwork_export.scenes.brush import Brush, Colour, View, mix, scaled
from roadwork_export.scenes.palette import AMBER, GLASS, STEEL, chance, orange, pick, vary, white
from roadwork_export.scenes.textures import stripes

Rng = np.random.Generator
YELLOWS: tuple[Colour, ...] = ((240, 180, 28), (250, 196, 40), (226, 160, 30), (232, 170, 60))


def _paint(rng: Rng) -> Colour:
    kinds: tuple[Colour, ...] = (
        orange(rng),
        vary(rng, pick(rng, YELLOWS), 8),
        white(rng),
        white(rng),
        (150, 30, 30),
        (40, 70, 120),
    )
    return pick(rng, (*kinds[:4], *kinds[:2], *kinds))


def _truck(rng: Rng, pixels: float, view: View) -> Brush:
    """A lorry seen from behind or from its side: dump bed, flat bed, or box with chevrons."""
    kind = pick(rng, ("dump", "dump", "flat", "crash", "mixer", "box"))
    paint, bed = _paint(rng), _paint(rng)
    width, height, length = 2.5, float(rng.uniform(2.7, 3.4)), float(rng.uniform(6.5, 9))
    k, j = width / 2, length / 2
    cab = height * 0.95
    end = Brush(width, height, 100)
    end.rect(-k * 0.8, height * 0.4, k * 0.8, cab, scaled(paint, 0.9))
    end.rect(-k * 0.7, height * 0.62, k * 0.7, cab * 0.94, GLASS)
    for s in (-1, 1):
        end.rect(s * k * 0.95, 0, s * k * 0.45, 0.95, (22, 22, 24))
        end.line([(s * k * 0.97, height * 0.5), (s * k * 0.97, height * 0.7)], (30, 30, 30), 0.12)
    end.rect(-k * 0.9, 0.55, k * 0.9, 0.95, (44, 44, 46))
    top = {"dump": 0.86, "flat": 0.42, "crash": 0.5, "mixer": 0.5, "box": 1.0}[kind] * height
    end.rect(-k, 0.85, k, top, bed)
    end.gain(-k, 0.85, k, top, 0.76, 1.05)
    if kind == "dump":
        for x in (-k, -k * 0.45, k * 0.4, k * 0.92):
            end.rect(x, 0.85, x + 0.08, top, scaled(bed, 0.8))
        end.rect(-k, top - 0.15, k, top, scaled(bed, 1.1))
        if chance(rng, 0.4):
            end.ellipse(0, top, k * 0.8, 0.25, (112, 92, 70))
    if kind == "mixer":
        end.ellipse(0, height * 0.68, k * 0.85, height * 0.3, bed)
        end.ellipse(0, height * 0.7, k * 0.35, height * 0.14, scaled(bed, 0.6))
    if kind in ("crash", "box") or chance(rng, 0.25):
        board = stripes(
            120,
            50,
            orange(rng) if chance(rng, 0.5) else (200, 30, 34),
            pick(rng, (white(rng), (240, 200, 30))),
            15,
            pick(rng, (-1, 1)),
        )
        y = 0.75 if kind != "box" else 1.2
        end.panel([(-k, y + 0.75), (k, y + 0.75), (k, y), (-k, y)], board)
    for s in (-1, 1):
        end.rect(s * k * 0.95, 0.95, s * k * 0.75, 1.12, (190, 26, 26))
    side = Brush(length, height, 100)
    side.rect(-j, 0.6, j, 0.95, (44, 44, 46))
    side.poly(
        [(j * 0.52, 0.5), (j * 0.52, cab), (j * 0.8, cab), (j * 0.88, height * 0.58), (j, height * 0.54), (j, 0.5)],
        paint,
    )
    side.poly(
        [(j * 0.58, height * 0.6), (j * 0.58, cab * 0.92), (j * 0.77, cab * 0.92), (j * 0.85, height * 0.6)], GLASS
    )
    if kind == "mixer":
        side.ellipse(-j * 0.2, height * 0.64, j * 0.62, height * 0.3, bed, 8)
        side.line([(-j * 0.4, height * 0.4), (0, height * 0.9)], white(rng), 0.25)
    else:
        side.poly([(-j, 0.85), (-j, top), (j * 0.46, top), (j * 0.44, 0.85)], bed)
        if kind == "dump":
            for x in np.linspace(-j * 0.95, j * 0.4, 7):
                side.rect(float(x), 0.85, float(x) + 0.1, top, scaled(bed, 0.82))
    side.gain(-j, 0.5, j, height, 0.78, 1.06)
    for x in (-0.72 * j, -0.45 * j, 0.72 * j):
        wheel(side, x, 0.5, pick(rng, ((150, 150, 152), (70, 70, 72))))
    body = Body(width, height, length, end.rgba, np.ascontiguousarray(side.rgba[:, ::-1]))
    across = chance(rng, 0.3)
    brush = assemble(rng, body, view, pixels, across, 1.5 if kind == "crash" else 1.1)
    if kind == "crash" and not across:
        arrow_panel(brush, rng, 0, height + 0.6, 1.0, 0.5)
        brush.rect(-0.06, height * 0.9, 0.06, height + 0.12, STEEL)
    elif chance(rng, 0.75):
        _beacons(brush, rng, height, 0.6 if not across else 0.2)
    return brush


def _beacons(brush: Brush, rng: Rng, y: float, half: float) -> None:
    """Amber beacons, or a light bar, on a roof."""
    if chance(rng, 0.4):
        brush.rect(-half, y - 0.02, half, y + 0.1, (196, 130, 30))
    for x in (-half, half)[: int(rng.integers(1, 3))]:
        brush.rect(x - 0.05, y - 0.04, x + 0.05, y + 0.05, (40, 40, 40))
        if chance(rng, 0.7):
            brush.lamp(x, y + 0.12, 0.11, AMBER)
        else:
            brush.rect(x - 0.08, y, x + 0.08, y + 0.16, (222, 130, 20))


def _pickup(rng: Rng, pixels: float, view: View) -> Brush:
    """A works pick-up or van: beacons, sometimes an arrow board, chevrons at the rear."""
    body = car_body(rng, _paint(rng), pick(rng, ("pickup", "pickup", "van")))
    if chance(rng, 0.45):
        rows, columns = body.end.shape[:2]
        colour = stripes(
            columns,
            int(rows * 0.2),
            orange(rng),
            pick(rng, (white(rng), (240, 200, 30))),
            columns / 9,
            pick(rng, (-1, 1)),
        )
        place = body.end[int(rows * 0.56) : int(rows * 0.56) + colour.shape[0]]
        place[..., :3] = np.where(place[..., 3:] > 0, colour, place[..., :3])
    board = chance(rng, 0.3)
    brush = assemble(rng, body, view, pixels, False, 1.65 if board else 1.15)
    if board:
        brush.rect(-0.06, body.height * 0.8, 0.06, body.height + 0.2, STEEL)
        arrow_panel(brush, rng, 0, body.height + 0.6, 0.85, 0.42)
    else:
        _beacons(brush, rng, body.height, 0.5)
    return brush


def _boom(brush: Brush, points: list[tuple[float, float]], paint: Colour, thick: float) -> None:
    """An excavator's arm, from its pivot to its bucket."""
    for a, b, share in ((points[0], points[1], 1.0), (points[1], points[2], 0.75)):
        brush.line([a, b], paint, thick * share)
        brush.line([a, b], scaled(paint, 1.12), thick * share * 0.3)
    (x0, y0), (x1, y1), (x2, y2) = points[:3]
    brush.line([(x0 * 0.7 + x1 * 0.3, y0 * 0.5 + y1 * 0.5 - 0.25), (x1, y1 - 0.1)], STEEL, thick * 0.3)
    brush.line([(x1, y1 + 0.2), (x1 * 0.3 + x2 * 0.7, y1 * 0.3 + y2 * 0.7)], STEEL, thick * 0.25)
    s = 1.0 if x2 >= x0 else -1.0
    brush.poly(
        [
            (x2, y2 + 0.15),
            (x2 + 0.35 * s, y2 - 0.2),
            (x2 + 0.2 * s, y2 - 0.75),
            (x2 - 0.55 * s, y2 - 0.7),
            (x2 - 0.3 * s, y2),
        ],
        (70, 62, 56),
    )


def _excavator(rng: Rng, pixels: float, view: View) -> Brush:
    paint = vary(rng, pick(rng, (*YELLOWS, (236, 110, 30), (222, 90, 40))), 8)
    brush = Brush(9.5, 6.2, pixels)
    s = 1.0 if chance(rng, 0.5) else -1.0
    x, y = s * float(rng.uniform(1.6, 2.4)), float(rng.uniform(4.0, 5.8))
    points = [(s * 0.5, 2.0), (x, y), (s * float(rng.uniform(2.8, 4.2)), float(rng.uniform(0.8, 3.2)))]
    _tracks(brush, -1.8, 1.8)
    brush.rect(-0.8, 0.85, 0.8, 1.2, (60, 60, 60))
    brush.poly(
        [(s * -1.9, 1.15), (s * -2.0, 2.1), (s * -1.7, 2.35), (s * 0.2, 2.35), (s * 1.1, 1.9), (s * 1.1, 1.15)], paint
    )
    brush.gain(-2, 1.1, 2, 2.4, 0.78, 1.05)
    brush.poly([(s * 0.05, 1.6), (s * 0.0, 3.0), (s * 0.9, 3.0), (s * 1.25, 2.0), (s * 1.2, 1.5)], scaled(paint, 0.9))
    brush.poly([(s * 0.15, 1.9), (s * 0.12, 2.9), (s * 0.82, 2.9), (s * 1.1, 2.0)], mix(GLASS, (140, 160, 180), 0.25))
    _boom(brush, points, paint, 0.45)
    return brush


def _tracks(brush: Brush, x0: float, x1: float) -> None:
    brush.line([(x0 + 0.4, 0.42), (x1 - 0.4, 0.42)], (40, 38, 36), 0.82)
    brush.line([(x0 + 0.4, 0.42), (x1 - 0.4, 0.42)], (70, 66, 60), 0.5)
    for x in np.linspace(x0 + 0.45, x1 - 0.45, 5):
        brush.ellipse(float(x), 0.38, 0.2, 0.2, (34, 32, 30))


def _roller(rng: Rng, pixels: float, view: View) -> Brush:
    paint = vary(rng, pick(rng, (*YELLOWS, (236, 110, 30))), 8)
    brush = Brush(5.4, 3.2, pixels)
    s = 1.0 if chance(rng, 0.5) else -1.0
    brush.poly([(s * -2.2, 0.6), (s * -2.2, 1.5), (s * -0.4, 1.6), (s * 1.2, 1.1), (s * 1.2, 0.6)], paint)
    brush.gain(-2.2, 0.5, 2.2, 1.7, 0.8, 1.05)
    brush.ellipse(s * 1.5, 0.68, 0.68, 0.68, (120, 118, 114))
    brush.ellipse(s * 1.5, 0.68, 0.2, 0.2, (60, 60, 60))
    brush.line([(s * 0.6, 1.1), (s * 1.5, 1.0)], scaled(paint, 0.85), 0.25)
    wheel(brush, s * -1.3, 0.68, scaled(paint, 0.9))
    for x in (-0.6, 0.6):
        brush.line([(s * x, 1.3), (s * x, 2.85)], (50, 50, 52), 0.08)
    brush.rect(-0.8, 2.8, 0.8, 2.95, paint)
    if chance(rng, 0.5):
        brush.poly([(-0.55, 1.5), (-0.55, 2.75), (0.55, 2.75), (0.55, 1.5)], mix(GLASS, (140, 160, 180), 0.3))
    if chance(rng, 0.5):
        brush.lamp(0, 3.05, 0.09, AMBER)
    return brush


def _loader(rng: Rng, pixels: float, view: View) -> Brush:
    paint = vary(rng, pick(rng, YELLOWS), 8)
    brush = Brush(6.4, 3.4, pixels)
    s = 1.0 if chance(rng, 0.5) else -1.0
    brush.poly([(s * -2.2, 0.8), (s * -2.2, 1.8), (s * -0.6, 1.9), (s * 1.0, 1.3), (s * 1.0, 0.8)], paint)
    brush.poly([(s * -0.7, 1.5), (s * -0.6, 3.1), (s * 0.5, 3.1), (s * 0.7, 1.5)], scaled(paint, 0.8))
    brush.poly([(s * -0.55, 1.8), (s * -0.5, 2.95), (s * 0.4, 2.95), (s * 0.55, 1.8)], mix(GLASS, (140, 160, 180), 0.3))
    brush.gain(-2.3, 0.7, 2.3, 3.1, 0.82, 1.05)
    lift = float(rng.uniform(0.4, 1.8))
    brush.line([(s * 0.4, 1.6), (s * 1.6, lift + 0.5), (s * 2.2, lift)], scaled(paint, 0.85), 0.3)
    brush.poly([(s * 1.9, lift - 0.3), (s * 2.0, lift + 0.5), (s * 2.9, lift - 0.35)], (96, 88, 78))
    for x in (-1.4, 1.1):
        wheel(brush, s * x, 0.72, scaled(paint, 0.9))
    return brush


def work_vehicle(rng: Rng, pixels: float, view: View) -> Brush:
    kinds = (_truck,) * 5 + (_pickup,) * 4 + (_excavator, _excavator, _roller, _loader, _loader)
    return pick(rng, kinds)(rng, pixels, view)


def work_equipment(rng: Rng, pixels: float, view: View) -> Brush:
    """Compressor, generator, light tower, mixer, lift, plate of an excavator's arm, portable signal."""
    kind = pick(rng, ("compressor", "generator", "tower", "tower", "arm", "signal", "lift", "mixer"))
    paint = vary(rng, pick(rng, (*YELLOWS, orange(rng), white(rng))), 8)
    if kind in ("compressor", "generator"):
        brush = Brush(3.4, 1.9, pixels)
        half = 1.2
        brush.poly(
            [(-half, 0.4), (-half, 1.3), (-half * 0.85, 1.55), (half * 0.8, 1.6), (half, 1.2), (half, 0.4)], paint
        )
        brush.gain(-half, 0.4, half, 1.6, 0.78, 1.08)
        for x in np.linspace(-0.7, 0.2, 7):
            brush.rect(float(x), 0.75, float(x) + 0.06, 1.25, scaled(paint, 0.45))
        brush.line([(half, 0.5), (half + 0.45, 0.4)], (50, 50, 50), 0.08)
        if kind == "compressor":
            wheel(brush, 0.1, 0.34)
        else:
            brush.rect(-half, 0.2, half, 0.42, (44, 44, 46))
        return brush
    if kind == "tower":
        brush = Brush(3.2, float(rng.uniform(4, 6.5)), pixels)
        trailer(brush, rng, 1.0, paint)
        top = brush.height * 0.93
        brush.line([(0, 0.8), (0, top)], (90, 90, 90), 0.12)
        for x in (-0.5, -0.18, 0.18, 0.5):
            brush.rect(x - 0.14, top - 0.15, x + 0.14, top + 0.15, (60, 60, 60))
            brush.lamp(x, top, 0.11, (255, 246, 220))
        return brush
    if kind == "arm":
        brush = Brush(6.0, 5.2, pixels)
        s = 1.0 if chance(rng, 0.5) else -1.0
        _boom(brush, [(-s * 2.0, 1.2), (-s * 0.2, 4.6), (s * 1.8, 1.6)], paint, 0.42)
        return brush
    if kind == "signal":
        brush = Brush(1.8, 3.2, pixels)
        trailer(brush, rng, 0.7, paint)
        brush.line([(0, 0.7), (0, 3.0)], paint, 0.12)
        brush.rect(-0.2, 2.1, 0.2, 3.1, (28, 28, 28))
        lit = int(rng.integers(3))
        for i, colour in enumerate(((255, 50, 40), (255, 180, 40), (50, 230, 120))):
            if i == lit:
                brush.lamp(0, 2.93 - i * 0.32, 0.12, colour)
            else:
                brush.ellipse(0, 2.93 - i * 0.32, 0.12, 0.12, scaled(colour, 0.25))
        return brush
    if kind == "lift":
        brush = Brush(3.0, 4.4, pixels)
        brush.rect(-1.1, 0.35, 1.1, 0.8, paint)
        for x in (-0.8, 0.8):
            wheel(brush, x, 0.28)
        for i in range(3):
            y = 0.8 + i * 0.7
            brush.line([(-0.8, y), (0.8, y + 0.7)], scaled(paint, 0.8), 0.09)
            brush.line([(0.8, y), (-0.8, y + 0.7)], scaled(paint, 0.8), 0.09)
        brush.rect(-1.15, 2.9, 1.15, 3.05, (70, 70, 70))
        for x in (-1.1, 0, 1.1):
            brush.line([(x, 3.0), (x, 4.0)], paint, 0.06)
        for y in (3.5, 4.0):
            brush.line([(-1.1, y), (1.1, y)], paint, 0.06)
        return brush
    brush = Brush(1.7, 1.6, pixels)
    brush.line([(-0.5, 0.05), (0, 0.9), (0.5, 0.05)], (60, 60, 60), 0.08)
    wheel(brush, -0.45, 0.24)
    brush.ellipse(0, 0.95, 0.5, 0.4, paint, 30)
    brush.ellipse(0.26, 1.18, 0.22, 0.16, scaled(paint, 0.4), 30)
    return brush


def other(rng: Rng, pixels: float, view: View) -> Brush:
    """What lies about: heaps of earth, pipes, sandbags, portable toilets, skips."""
    kind = pick(rng, ("heap", "heap", "pipes", "bags", "toilet", "skip"))
    if kind == "heap":
        wide, tall = float(rng.uniform(1.5, 4)), float(rng.uniform(0.7, 1.5))
        brush = Brush(wide * 1.2, tall * 1.2, pixels)
        earth = vary(rng, pick(rng, ((120, 92, 66), (140, 124, 104), (96, 92, 90), (150, 104, 70))), 10)
        x = np.linspace(-1, 1, 25)
        y = tall * (1 - np.abs(x) ** 1.6) * (1 + 0.12 * rng.normal(size=25))
        brush.poly([(float(a) * wide / 2, max(0.0, float(b))) for a, b in zip(x, y, strict=True)], earth)
        for _ in range(40):
            a = float(rng.uniform(-0.9, 0.9))
            b = float(rng.uniform(0, 0.85)) * tall * (1 - abs(a) ** 1.6)
            r = float(rng.uniform(0.03, 0.1))
            brush.ellipse(a * wide / 2, b, r, r * 0.7, scaled(earth, float(rng.uniform(0.7, 1.25))))
        brush.gain(-wide / 2, 0, wide / 2, tall, 0.75, 1.1)
        return brush
    if kind == "pipes":
        brush = Brush(2.4, 1.3, pixels)
        tone = pick(rng, ((150, 146, 140), (60, 62, 66), (40, 90, 150), (70, 130, 90), (200, 110, 50)))
        for row in range(2):
            for i in range(3 - row):
                u, v = -0.7 + i * 0.7 + row * 0.35, 0.34 + row * 0.58
                brush.ellipse(u, v, 0.34, 0.34, tone)
                brush.ellipse(u, v, 0.26, 0.26, scaled(tone, 0.3))
        return brush
    if kind == "bags":
        brush = Brush(1.4, 0.6, pixels)
        tone = pick(rng, ((176, 150, 110), (214, 206, 190), (226, 130, 60)))
        for u, v in ((-0.35, 0.12), (0.3, 0.12), (0.0, 0.32)):
            brush.ellipse(u, v, 0.34, 0.14, vary(rng, tone, 8))
        return brush
    if kind == "toilet":
        brush = Brush(1.3, 2.4, pixels)
        tone = pick(rng, ((40, 96, 160), (60, 130, 90), (120, 120, 126)))
        brush.rect(-0.55, 0.05, 0.55, 2.1, tone)
        brush.poly([(-0.58, 2.1), (0.58, 2.1), (0.45, 2.32), (-0.45, 2.32)], (226, 226, 226))
        brush.rect(-0.42, 0.15, 0.42, 1.95, scaled(tone, 0.85))
        brush.gain(-0.6, 0, 0.6, 2.2, 0.8, 1.1)
        return brush
    brush = Brush(4.2, 1.7, pixels)
    tone = pick(rng, ((50, 90, 60), (40, 70, 120), (150, 60, 40), (190, 150, 40)))
    brush.poly([(-1.6, 0.1), (-2.0, 1.5), (2.0, 1.5), (1.6, 0.1)], tone)
    brush.rect(-2.0, 1.4, 2.0, 1.55, scaled(tone, 1.2))
    for a in np.linspace(-1.4, 1.4, 5):
        brush.line([(float(a), 0.15), (float(a) * 1.2, 1.4)], scaled(tone, 0.75), 0.08)
    brush.gain(-2, 0, 2, 1.5, 0.75, 1.05)
    return brush
