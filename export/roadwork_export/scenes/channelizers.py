"""What guides traffic round works: cones, drums, vertical panels and tubular markers."""

from __future__ import annotations

import numpy as np

from roadwork_export.scenes.brush import Brush, Colour, View, mix, scaled
from roadwork_export.scenes.palette import AMBER, LIME, RED, RUBBER, YELLOW, chance, orange, pick, vary, white
from roadwork_export.scenes.textures import stripes

Rng = np.random.Generator


def cone(rng: Rng, pixels: float, view: View) -> Brush:
    height = float(rng.choice([0.45, 0.71, 0.71, 0.91, 0.91, 1.07]))
    slim = height > 0.95 or chance(rng, 0.2)
    body = vary(rng, LIME, 8) if chance(rng, 0.05) else vary(rng, YELLOW, 8) if chance(rng, 0.03) else orange(rng)
    body = mix(body, (235, 60, 40), 0.6) if chance(rng, 0.1) else body
    foot = height * float(rng.uniform(0.22, 0.3) if slim else rng.uniform(0.26, 0.34))
    low, top = foot * 0.72, height * 0.045
    brush = Brush(foot * 3.4, height * 1.12, pixels)
    lean = float(rng.normal(0, 0.03)) * height + (
        float(rng.choice([-1, 1])) * 0.25 * height if chance(rng, 0.04) else 0
    )
    base = vary(rng, RUBBER, 8) if chance(rng, 0.55) else scaled(body, 0.8)
    thick, depth = height * 0.05, foot * 0.16
    brush.poly([(-foot, 0), (foot, 0), (foot, thick), (-foot, thick)], scaled(base, 0.75))
    brush.poly([(-foot, thick), (foot, thick), (foot * 0.86, thick + depth), (-foot * 0.86, thick + depth)], base)
    bottom, peak = thick + depth * 0.5, height

    def ring(a: float, b: float, colour: Colour) -> None:
        wa, wb = low + (top - low) * a, low + (top - low) * b
        ya, yb = bottom + (peak - bottom) * a, bottom + (peak - bottom) * b
        brush.band(ya, yb, wa, wb, colour, 0.22 * wb, lean * a, lean * b)

    ring(0, 1, body)
    brush.ellipse(lean, peak - 0.02 * height, top, top * 0.35, scaled(body, 0.8))
    if chance(rng, 0.86):
        collar = white(rng)
        ring(*((0.54, 0.8) if chance(rng, 0.5) else (0.6, 0.84)), collar)
        if height > 0.6 and chance(rng, 0.75):
            ring(0.28, 0.44, collar)
    spread = low + abs(lean)
    brush.cylinder(-spread, spread, bottom + depth * 0.4, peak, view.sun, 0.4)
    if slim and chance(rng, 0.5):
        brush.ellipse(lean, peak, top * 1.5, top * 1.1, scaled(body, 0.9))
    return brush


def drum(rng: Rng, pixels: float, view: View) -> Brush:
    height = float(rng.uniform(0.9, 1.05))
    brush = Brush(1.1, height * 1.35, pixels)
    body, pale = orange(rng), white(rng)
    low, top = float(rng.uniform(0.26, 0.3)), float(rng.uniform(0.2, 0.24))
    foot = float(rng.uniform(0.34, 0.44))
    brush.band(0, 0.09, foot, foot * 0.95, scaled(vary(rng, RUBBER, 8), 0.9), foot * 0.12)
    brush.ellipse(0, 0.09, foot * 0.95, foot * 0.16, scaled(RUBBER, 1.2))
    start, parts = 0.06, int(rng.choice([4, 5, 5]))
    edges = np.linspace(start, height, parts + 1)
    first_pale = chance(rng, 0.25)
    for i in range(parts):
        t0, t1 = (edges[i] - start) / (height - start), (edges[i + 1] - start) / (height - start)
        w0, w1 = low + (top - low) * t0, low + (top - low) * t1
        step = 0.012 * ((i + 1) % 2)
        brush.band(edges[i], edges[i + 1], w0 + step, w1 + step, pale if (i % 2 == 0) == first_pale else body, 0.2 * w0)
        if chance(rng, 0.5):
            brush.band(edges[i], edges[i] + 0.012, w0 + step, w0 + step, scaled(body, 0.6), 0.2 * w0)
    brush.ellipse(0, height, top, top * 0.2, scaled(body, 1.05))
    if chance(rng, 0.7):
        brush.band(height, height + 0.07, 0.1, 0.08, scaled(body, 0.85), 0.02)
    brush.cylinder(-low, low, 0.12, height * 1.1, view.sun, 0.5)
    if chance(rng, 0.12):
        brush.rect(-0.06, height, 0.06, height + 0.1, (200, 160, 30))
        brush.lamp(0, height + 0.17, 0.08, AMBER)
    return brush


def vertical_panel(rng: Rng, pixels: float, view: View) -> Brush:
    european = chance(rng, 0.3)
    width, tall = float(rng.uniform(0.2, 0.32)), float(rng.uniform(0.6, 0.95))
    raised = float(rng.uniform(0.12, 0.4))
    brush = Brush(1.0, raised + tall + 0.3, pixels)
    body: Colour = vary(rng, RED, 10) if european else orange(rng)
    texture = stripes(40, int(40 * tall / width), body, white(rng), float(rng.uniform(18, 26)), pick(rng, (-1, 1)))
    foot = float(rng.uniform(0.2, 0.4))
    brush.poly([(-foot, 0), (foot, 0), (foot * 0.9, 0.08), (-foot * 0.9, 0.08)], vary(rng, RUBBER, 10))
    brush.rect(-0.03, 0.05, 0.03, raised + 0.1, scaled(body, 0.7) if chance(rng, 0.5) else (110, 110, 110))
    half, lean = width / 2 * float(rng.uniform(0.75, 1)), float(rng.normal(0, 0.02))
    corners = [(lean - half, raised + tall), (lean + half, raised + tall), (half, raised), (-half, raised)]
    brush.panel(corners, texture)
    brush.line(corners, scaled(body, 0.85), 0.012, closed=True)
    if chance(rng, 0.3):
        brush.band(raised + tall, raised + tall + 0.1, 0.05, 0.03, body)
    if chance(rng, 0.12):
        brush.lamp(0, raised + tall + 0.1, 0.08, AMBER)
    return brush


def tubular_marker(rng: Rng, pixels: float, view: View) -> Brush:
    height, half = float(rng.uniform(0.7, 1.15)), float(rng.uniform(0.035, 0.06))
    brush = Brush(0.7, height * 1.08, pixels)
    body = orange(rng) if chance(rng, 0.92) else vary(rng, YELLOW, 10)
    foot, lean = float(rng.uniform(0.15, 0.26)), float(rng.normal(0, 0.02))
    brush.band(0, 0.06, foot, foot * 0.9, vary(rng, RUBBER, 10), foot * 0.12)
    brush.band(0.04, height, half * float(rng.uniform(1, 1.5)), half, body, half * 0.3, 0, lean)
    pale, size, y = white(rng), float(rng.uniform(0.07, 0.14)), height * float(rng.uniform(0.88, 0.95))
    for _ in range(int(rng.choice([2, 2, 3, 4]))):
        brush.band(y - size, y, half * 1.06, half * 1.06, pale, half * 0.3, lean * 0.9, lean)
        y -= size * float(rng.uniform(1.6, 2.0))
    brush.cylinder(-half + min(0, lean), half + max(0, lean), 0.06, height, view.sun, 0.45)
    if chance(rng, 0.35):
        brush.ellipse(lean, height, half * 1.5, half * 0.8, scaled(body, 0.9))
    return brush
