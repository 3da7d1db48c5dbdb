"""People: workers in high visibility clothes, police officers, passers-by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork_export.scenes.brush import Brush, Colour, View, mix, scaled
from roadwork_export.scenes.palette import LIME, SKINS, chance, orange, pick, vary

Rng = np.random.Generator
VESTS: tuple[Colour, ...] = (
    (206, 238, 42),
    (196, 226, 60),
    (226, 240, 70),
    (255, 104, 34),
    (250, 88, 40),
    (240, 120, 50),
)
CLOTHES: tuple[Colour, ...] = (
    *((34, 36, 44), (52, 62, 88), (84, 86, 90), (140, 134, 124), (196, 190, 182), (120, 40, 44), (44, 84, 66)),
    *((168, 120, 78), (36, 78, 130), (90, 62, 88), (224, 222, 218)),
)
TROUSERS: tuple[Colour, ...] = ((38, 44, 62), (52, 60, 84), (30, 30, 34), (96, 84, 66), (120, 112, 96), (70, 72, 76))


@dataclass(frozen=True)
class Dress:
    top: Colour
    sleeve: Colour
    trousers: Colour
    hat: Colour | None
    stripe: Colour | None = None
    brim: bool = False


def _figure(rng: Rng, pixels: float, dress: Dress, view: View, tool: str | None) -> Brush:
    tall = float(rng.normal(1.74, 0.07))
    brush = Brush(2.6, tall * 1.45, pixels)
    side = 1.0 if chance(rng, 0.5) else -1.0
    bend = float(rng.uniform(0.25, 0.6)) if tool == "shovel" or chance(rng, 0.12) else float(rng.normal(0, 0.03))
    profile = chance(rng, 0.4)
    wide = float(rng.uniform(0.15, 0.2)) * (0.78 if profile else 1.0)
    hip, torso = tall * 0.5, tall * 0.31
    neck = (side * torso * np.sin(bend), hip + torso * np.cos(bend))
    stride = float(rng.uniform(0.04, 0.12)) if not chance(rng, 0.3) else float(rng.uniform(0.15, 0.3))
    leg = 0.14 * float(rng.uniform(0.9, 1.15))
    for s in (-1, 1):
        knee = (s * (wide * 0.5 + stride * 0.5), hip * 0.52)
        ankle = (s * (wide * 0.5 + stride) - side * 0.03, 0.06)
        shade = scaled(dress.trousers, 0.86 if s * view.sun < 0 else 1.0)
        brush.line([(s * wide * 0.5, hip), knee, ankle], shade, leg)
        brush.line([ankle, (ankle[0] + side * 0.09, 0.045)], (34, 30, 28), 0.1)
        if dress.stripe and chance(rng, 0.3):
            y = hip * 0.36
            brush.line(
                [(s * (wide * 0.5 + stride * 0.7) - 0.05, y), (s * (wide * 0.5 + stride * 0.7) + 0.05, y)],
                dress.stripe,
                0.06,
            )
    back = _arm(rng, tool, neck, wide, -side)
    brush.line(back, scaled(dress.sleeve, 0.8), 0.1)
    brush.ellipse(*back[-1], 0.05, 0.05, pick(rng, SKINS))
    shoulder, waist = wide * 1.16, wide * 0.92
    nx, ny = float(neck[0]), float(neck[1])
    trunk = [(nx - shoulder, ny - 0.05), (nx - shoulder * 0.5, ny + 0.04), (nx + shoulder * 0.5, ny + 0.04)]
    trunk += [(nx + shoulder, ny - 0.05), (waist, hip - 0.09), (-waist, hip - 0.09)]
    brush.poly(trunk, dress.top)
    if dress.stripe:
        for share in (0.18, 0.42):
            x, y, w = nx * share, hip + (ny - hip) * share, waist + (shoulder - waist) * share
            brush.poly([(x - w, y), (x + w, y), (x + w, y + 0.055), (x - w, y + 0.055)], dress.stripe)
        if not profile:
            for part in (-0.55, 0.55):
                brush.line(
                    [(nx + part * shoulder, ny), (nx * 0.4 + part * waist, hip + (ny - hip) * 0.42)], dress.stripe, 0.05
                )
    brush.gain(-shoulder + min(0, nx), hip - 0.1, shoulder + max(0, nx), ny + 0.05, 0.84, 1.06)
    front = _arm(rng, tool, neck, wide, side)
    brush.line(front[:2], dress.sleeve, 0.105)
    brush.line(front[1:], pick(rng, (dress.sleeve, dress.sleeve, pick(rng, SKINS))), 0.09)
    _head(rng, brush, dress, nx + side * 0.05 * (bend > 0.2) + side * 0.02, ny + 0.155, side, profile)
    _hold(rng, brush, tool, front[-1], side)
    return brush


def _arm(rng: Rng, tool: str | None, neck: tuple[float, float], wide: float, side: float) -> list[tuple[float, float]]:
    x, y = float(neck[0]) + side * wide * 1.05, float(neck[1]) - 0.05
    swing = float(rng.uniform(-0.1, 0.6))
    if tool == "paddle":
        swing = 0.9
    elif tool == "shovel":
        swing = 0.7
    elbow = (x + side * (0.06 + 0.22 * max(0, swing)), y - 0.27 + 0.08 * max(0, swing))
    lift = 0.12 if tool == "paddle" else float(rng.uniform(-0.26, 0.05))
    return [(x, y), elbow, (elbow[0] + side * 0.16 * (0.3 + max(0, swing)), elbow[1] + lift)]


def _head(rng: Rng, brush: Brush, dress: Dress, x: float, y: float, side: float, profile: bool) -> None:
    skin = pick(rng, SKINS)
    brush.line([(x, y - 0.14), (x, y - 0.05)], scaled(skin, 0.8), 0.1)
    facing = chance(rng, 0.6)
    hair = pick(rng, ((36, 28, 24), (70, 50, 34), (120, 112, 104), (24, 22, 22)))
    brush.ellipse(x, y, 0.092, 0.125, skin if facing or profile else hair)
    if dress.hat is None:
        top = [(x - 0.1, y + 0.02), (x - 0.08, y + 0.12), (x, y + 0.15), (x + 0.08, y + 0.12), (x + 0.1, y + 0.02)]
        brush.poly([*top, (x, y + 0.06)], hair)
        return
    arc = [(x + 0.125 * np.cos(a), y + 0.045 + 0.125 * np.sin(a)) for a in np.linspace(0, np.pi, 11)]
    brush.poly(arc, dress.hat)
    reach = 0.06 if dress.brim else 0.03
    brush.line(
        [(x - 0.11 - reach * (side < 0), y + 0.05), (x + 0.11 + reach * (side > 0), y + 0.05)],
        scaled(dress.hat, 0.85),
        0.03,
    )
    brush.ellipse(x - 0.04, y + 0.12, 0.03, 0.02, mix(dress.hat, (255, 255, 255), 0.5))


def _hold(rng: Rng, brush: Brush, tool: str | None, hand: tuple[float, float], side: float) -> None:
    x, y = hand
    if tool == "paddle":
        brush.line([(x, max(0.05, y - 0.9)), (x, y + 0.5)], (150, 140, 120), 0.03)
        colour: Colour = pick(rng, ((196, 30, 36), (250, 120, 30)))
        ring = [(x + 0.24 * np.cos(a), y + 0.62 + 0.24 * np.sin(a)) for a in np.arange(8) * np.pi / 4 + np.pi / 8]
        brush.poly(ring, colour)
        brush.rect(x - 0.15, y + 0.58, x + 0.15, y + 0.67, (238, 236, 232) if colour[1] < 60 else (30, 30, 30))
    elif tool == "shovel":
        brush.line([(x - side * 0.25, y + 0.35), (x + side * 0.45, max(0.05, y - 0.75))], (134, 104, 70), 0.035)
        brush.ellipse(x + side * 0.47, max(0.06, y - 0.8), 0.1, 0.13, (84, 84, 86))


def worker(rng: Rng, pixels: float, view: View) -> Brush:
    vest = vary(rng, pick(rng, VESTS), 12)
    whole = chance(rng, 0.35)
    under = vary(rng, pick(rng, CLOTHES), 12)
    hats: tuple[Colour, ...] = (
        (236, 236, 232),
        (240, 236, 226),
        (250, 206, 40),
        (246, 116, 30),
        (40, 84, 170),
        (60, 150, 70),
    )
    trousers = vary(rng, vest if chance(rng, 0.12) else pick(rng, TROUSERS), 8)
    stripe: Colour = pick(
        rng,
        (
            (222, 226, 224),
            (200, 206, 206),
            (236, 238, 190),
            LIME if vest[2] < 60 and vest[1] < 130 else (214, 216, 214),
        ),
    )
    hat = vary(rng, pick(rng, hats), 8) if chance(rng, 0.88) else None
    tool = pick(rng, (None, None, None, "paddle", "shovel", "shovel"))
    dress = Dress(vest, vest if whole else under, trousers, hat, stripe, brim=chance(rng, 0.4))
    return _figure(rng, pixels, dress, view, tool)


def police_officer(rng: Rng, pixels: float, view: View) -> Brush:
    navy: Colour = vary(rng, (30, 36, 58), 8)
    vest: Colour = vary(rng, (204, 232, 50), 12)
    in_vest = chance(rng, 0.55)
    hat: Colour | None = (24, 28, 44) if chance(rng, 0.8) else None
    dress = Dress(
        vest if in_vest else navy, navy, vary(rng, (26, 30, 46), 6), hat, (220, 224, 224) if in_vest else None, True
    )
    brush = _figure(rng, pixels, dress, view, None)
    brush.rect(-0.17, 0.83, 0.17, 0.88, (22, 22, 24))
    return brush


def pedestrian(rng: Rng, pixels: float, view: View) -> Brush:
    """A passer-by: no high visibility vest (but some wear orange or yellow coats without stripes)."""
    top = vary(rng, pick(rng, CLOTHES), 14)
    if chance(rng, 0.1):
        top = pick(rng, (orange(rng), (232, 196, 60)))
    hat = vary(rng, pick(rng, CLOTHES), 10) if chance(rng, 0.2) else None
    return _figure(rng, pixels, Dress(top, top, vary(rng, pick(rng, TROUSERS), 8), hat), view, None)
