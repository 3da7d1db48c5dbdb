"""Boards with lamps on trailers: arrow boards and changeable message boards."""

from __future__ import annotations

import cv2
import numpy as np

from roadwork_export.scenes.brush import Brush, Colour, Image, Point, View, scaled
from roadwork_export.scenes.palette import AMBER, STEEL, chance, orange, pick, vary
from roadwork_export.scenes.textures import lettering, plain

Rng = np.random.Generator
MESSAGES: tuple[tuple[str, ...], ...] = (
    *(
        ("ROAD", "WORK", "AHEAD"),
        ("RIGHT", "LANE", "CLOSED"),
        ("LEFT", "LANE", "CLOSED"),
        ("EXPECT", "DELAYS"),
        ("SLOW", "DOWN"),
    ),
    *(
        ("MERGE", "LEFT"),
        ("DETOUR", "AHEAD"),
        ("LANE", "ENDS"),
        ("WORK", "ZONE"),
        ("USE", "ALT", "ROUTE"),
        ("BAUSTELLE",),
    ),
    *(
        ("ROAD", "CLOSED"),
        ("CAUTION",),
        ("NIGHT", "WORK"),
        ("WORKERS", "PRESENT"),
        ("SPEED", "LIMIT", "45"),
        ("TRAVAUX",),
    ),
)


def trailer(brush: Brush, rng: Rng, half: float, colour: Colour) -> None:
    """Wheels, drawbar and box of a small trailer, from the ground to about 0.9 m."""
    brush.rect(-half * 0.7, 0.32, half * 0.7, 0.5, scaled(colour, 0.8))
    brush.rect(-half * 0.45, 0.45, half * 0.4, float(rng.uniform(0.75, 1.0)), colour)
    brush.line([(half * 0.7, 0.4), (half * 1.15, 0.35)], scaled(colour, 0.6), 0.07)
    for x in (-half * 0.72, half * 0.72):
        brush.rect(x - 0.04, 0.02, x + 0.04, 0.4, (70, 70, 72))
    for x in (-0.35 * half, 0.3 * half)[: int(rng.integers(1, 3))]:
        brush.ellipse(x, 0.3, 0.3, 0.3, (26, 26, 28))
        brush.ellipse(x, 0.3, 0.14, 0.14, (120, 120, 122))


def arrow_points(kind: str) -> list[Point]:
    """Lamps in a unit board, x and y from -1 to 1."""
    shaft = [(x, 0.0) for x in np.linspace(-0.75, 0.75, 7)]
    right = [(0.45, 0.55), (0.6, 0.28), (0.45, -0.55), (0.6, -0.28)]
    left = [(-x, y) for x, y in right]
    if kind == "caution":
        return [(x, y) for x in (-0.8, 0.8) for y in (-0.7, 0.7)]
    if kind == "bar":
        return shaft
    if kind == "double":
        return [*shaft, *left, *right]
    if kind == "chevron":
        base = [(-0.1, 0.6), (0.08, 0.3), (0.25, 0.0), (0.08, -0.3), (-0.1, -0.6)]
        return [(x + d, y) for d in (-0.6, 0.0, 0.55) for x, y in base]
    return [*shaft, *(right if kind == "right" else left)]


def arrow_panel(brush: Brush, rng: Rng, x: float, y: float, half: float, rise: float) -> None:
    """A dark board with lamps centred at (x, y)."""
    brush.rect(x - half, y - rise, x + half, y + rise, (30, 31, 33))
    brush.gain(x - half, y - rise, x + half, y + rise, 0.8, 1.35)
    brush.line(
        [(x - half, y - rise), (x + half, y - rise), (x + half, y + rise), (x - half, y + rise)],
        (86, 84, 80),
        0.04,
        True,
    )
    lit = {*arrow_points(pick(rng, ("left", "right", "left", "right", "double", "caution", "bar", "chevron")))}
    dark = {*arrow_points("double"), *arrow_points("caution")} - lit
    radius = min(half, rise * 1.6) * 0.085
    for u, v in sorted(dark):
        brush.ellipse(x + u * half, y + v * rise, radius, radius, (66, 60, 46))
    if chance(rng, 0.08):
        lit = set()
    for u, v in sorted(lit):
        brush.lamp(x + u * half, y + v * rise, radius * 1.15, pick(rng, (AMBER, AMBER, (255, 214, 120))))


def arrow_board(rng: Rng, pixels: float, view: View) -> Brush:
    half, rise = float(rng.uniform(0.9, 1.25)), float(rng.uniform(0.42, 0.65))
    raised = float(rng.uniform(1.1, 2.0))
    brush = Brush(half * 2.6, raised + 2 * rise + 0.2, pixels)
    colour = pick(rng, (orange(rng), orange(rng), (222, 222, 220), (60, 62, 64)))
    trailer(brush, rng, half * 0.9, colour)
    for x in (-0.25 * half, 0.25 * half):
        brush.line([(x, 0.5), (x, raised + rise)], scaled(colour, 0.7), 0.08)
    arrow_panel(brush, rng, 0, raised + rise, half * float(rng.uniform(0.85, 1)), rise)
    return brush


def _message_face(rng: Rng) -> Image:
    face = plain(168, 110, vary(rng, (24, 25, 26), 5))
    text = pick(rng, MESSAGES)
    ink = pick(rng, ((255, 176, 40), (255, 200, 80), (255, 150, 30), (240, 240, 210)))
    if chance(rng, 0.9):
        rows = [*text, *("",) * (3 - len(text))] if chance(rng, 0.4) else list(text)
        lettering(face, rows, ink, (0.08, 0.08, 0.92, 0.92))
    face[::4] = (face[::4] * 0.45).astype(np.uint8)
    face[:, ::4] = (face[:, ::4] * 0.45).astype(np.uint8)
    cv2.rectangle(face, (0, 0), (167, 109), vary(rng, (70, 70, 70), 12), 6)
    return face


def ttc_message_board(rng: Rng, pixels: float, view: View) -> Brush:
    half, rise = float(rng.uniform(1.1, 1.7)), float(rng.uniform(0.65, 0.95))
    raised = float(rng.uniform(1.2, 2.2))
    brush = Brush(half * 2.6, raised + 2 * rise + 0.4, pixels)
    colour = pick(rng, (orange(rng), orange(rng), (222, 222, 220), STEEL))
    trailer(brush, rng, half * 0.85, colour)
    brush.line([(0, 0.5), (0, raised + rise)], scaled(colour, 0.75), 0.16)
    wide, skew = half * float(rng.uniform(0.8, 1.0)), float(rng.uniform(-0.06, 0.06))
    top, low = raised + 2 * rise, raised
    brush.panel([(-wide, top + skew), (wide, top - skew), (wide, low + skew), (-wide, low - skew)], _message_face(rng))
    if chance(rng, 0.3):
        brush.poly(
            [(-wide * 0.7, top + 0.1), (wide * 0.7, top + 0.1), (wide * 0.5, top + 0.22), (-wide * 0.6, top + 0.22)],
            (36, 44, 70),
        )
    for x in (-0.4, 0.4):
        brush.lamps.append((*brush.at(x * wide, raised + rise), rise * brush.scale * 0.12, (150, 100, 30)))
    return brush
