"""What closes a road: barricades with striped boards, barriers and fences."""

from __future__ import annotations

import cv2
import numpy as np

from roadwork_export.scenes.brush import Brush, Colour, Point, View, scaled
from roadwork_export.scenes.palette import AMBER, CONCRETE, RED, STEEL, chance, orange, pick, vary, white
from roadwork_export.scenes.textures import lettering, plain, stripes

Rng = np.random.Generator


def barricade(rng: Rng, pixels: float, view: View) -> Brush:
    boards = int(rng.choice([1, 2, 2, 3, 3]))
    width = float(rng.uniform(0.6, 0.9) if boards < 3 else rng.uniform(1.2, 2.4))
    height = float(rng.uniform(0.9, 1.1) if boards < 3 else rng.uniform(1.35, 1.6))
    board = float(rng.uniform(0.2, 0.3) if boards > 1 else rng.uniform(0.25, 0.35))
    brush = Brush(width * 1.4, height * 1.4, pixels)
    body: Colour = vary(rng, RED, 10) if chance(rng, 0.15) else orange(rng)
    pale, frame = white(rng), pick(rng, (white(rng), STEEL, scaled(body, 0.85), (120, 96, 66)))
    turn = float(rng.uniform(-0.25, 0.25))
    left, right = 1.0 + max(0, turn) * 0.3, 1.0 - min(0, turn) * -0.3
    half = width / 2 * (1 - abs(turn) * 0.6)
    inset = half * (0.92 if boards < 3 else float(rng.uniform(0.6, 0.85)))
    for side in (-1, 1):
        spread = 0.06 if boards < 3 else 0.3
        brush.line(
            [(side * inset - spread, 0.02), (side * inset, height * (0.95 if boards < 3 else 0.12))], frame, 0.04
        )
        brush.line(
            [(side * inset + spread * 0.6, 0.02), (side * inset, height * 0.95 if boards < 3 else 0.1)], frame, 0.04
        )
        brush.line([(side * inset, 0.03), (side * inset, height)], frame, 0.055)
    slant = pick(rng, (-1, 1))
    for i in range(boards):
        y1 = height - i * (height - board * 0.4) / max(boards, 2) * (1.0 if boards > 1 else 0)
        tall = 24
        texture = stripes(int(tall * width / board), tall, body, pale, float(rng.uniform(15, 19)), slant)
        y0 = y1 - board
        brush.panel([(-half, y1 * left), (half, y1 * right), (half, y0 * right), (-half, y0 * left)], texture)
        brush.line([(-half, y0 * left), (half, y0 * right)], scaled(body, 0.6), 0.012)
    if chance(rng, 0.22) and boards > 1:
        sign = plain(96, 64, pick(rng, (pale, orange(rng), pale)))
        text = pick(rng, (["ROAD", "CLOSED"], ["SIDEWALK", "CLOSED"], ["ROAD CLOSED", "TO THRU TRAFFIC"], ["DETOUR"]))
        lettering(sign, text, (20, 20, 20), (0.06, 0.08, 0.94, 0.92))
        w, y = min(0.45, half * 0.8), height * 0.75
        brush.panel([(-w, y + w * 0.65), (w, y + w * 0.65), (w, y - w * 0.65), (-w, y - w * 0.65)], sign)
    for side in (-1, 1):
        if chance(rng, 0.22):
            brush.rect(side * inset - 0.04, height, side * inset + 0.04, height + 0.06, (190, 150, 30))
            brush.lamp(side * inset, height + 0.13, 0.09, AMBER if chance(rng, 0.85) else (230, 40, 30))
    if chance(rng, 0.2):
        brush.ellipse(inset * 0.8, 0.05, 0.22, 0.07, (170, 130, 84))
    return brush


def _projected(view: View, length: float, height: float, side: float) -> tuple[list[Point], float]:
    """Corners of a wall along the road: its near edge at x = 0, the rest toward the vanishing point."""
    reach = max(0.12, abs(view.lateral) * view.distance)
    far = view.distance / (view.distance + length)
    x = -side * reach * (1 - far)

    def y(value: float) -> float:
        return view.eye + (value - view.eye) * far

    return [(0, height), (x, y(height)), (x, y(0)), (0, 0)], x


def barrier(rng: Rng, pixels: float, view: View) -> Brush:
    plastic = chance(rng, 0.5)
    height = float(rng.uniform(0.8, 1.1))
    unit = float(rng.uniform(1.6, 2.1) if plastic else rng.uniform(2.5, 4))
    count = int(rng.integers(1, 5))
    along = abs(view.lateral) > 0.08 and chance(rng, 0.6)
    length = unit * count
    body = vary(rng, CONCRETE, 14)
    shades: list[Colour] = [orange(rng), white(rng)]
    if plastic and chance(rng, 0.5):
        shades = [shades[0]]
    if plastic and chance(rng, 0.1):
        shades = [vary(rng, RED, 12), shades[-1]]
    wide = int(64 * unit)
    pieces = []
    for i in range(count):
        colour = shades[i % len(shades)] if plastic else vary(rng, body, 5)
        piece = plain(wide, 64, colour)
        piece[:12] = np.clip(piece[:12] * 1.12, 0, 255).astype(np.uint8)
        piece[46:] = (piece[46:] * 0.86).astype(np.uint8)
        if plastic:
            for k in (0.3, 0.7):
                cv2.rectangle(
                    piece, (int((k - 0.12) * wide), 22), (int((k + 0.12) * wide), 42), scaled(colour, 0.8), -1
                )
            cv2.rectangle(piece, (int(wide * 0.2), 58), (int(wide * 0.35), 64), (30, 30, 30), -1)
        else:
            cv2.rectangle(piece, (int(wide * 0.25), 60), (int(wide * 0.4), 64), (40, 40, 40), -1)
        piece[:, :2] = (piece[:, :2] * 0.55).astype(np.uint8)
        pieces.append(piece)
    texture = np.hstack(pieces)
    if along:
        side = 1.0 if view.lateral > 0 else -1.0
        corners, far = _projected(view, length, height, side)
        brush = Brush(2 * (abs(far) + 0.7), height * 1.15, pixels)
        brush.panel(corners, texture)
        end = scaled(shades[0] if plastic else body, 0.72)
        base, top = 0.5, 0.18
        brush.poly(
            [(0, 0), (side * base, 0), (side * base * 0.68, height * 0.4), (side * top, height), (0, height)], end
        )
    else:
        brush = Brush(length * 1.05, height * 1.15, pixels)
        half = length / 2
        brush.panel([(-half, height), (half, height), (half, 0), (-half, 0)], texture)
        cap = scaled(shades[0] if plastic else body, 1.15)
        brush.poly(
            [(-half, height), (half, height), (half * 0.985, height * 1.06), (-half * 0.985, height * 1.06)], cap
        )
    if chance(rng, 0.15):
        brush.lamp(0, height * 1.05, 0.07, AMBER)
    return brush


def fence(rng: Rng, pixels: float, view: View) -> Brush:
    kind = pick(rng, ("mesh", "mesh", "mesh", "chain", "chain", "screen", "crowd"))
    height = {"mesh": 1.1, "chain": 1.9, "screen": 1.9, "crowd": 1.05}[kind] * float(rng.uniform(0.9, 1.1))
    span = float(rng.uniform(1.8, 3.0))
    count = int(rng.integers(1, 5))
    length = span * count
    brush = Brush(length * 1.08, height * 1.12, pixels)
    brush.translucent = True
    half = length / 2
    shade = {
        "mesh": orange(rng),
        "chain": STEEL,
        "screen": pick(rng, ((36, 62, 46), (30, 32, 34), (40, 56, 92))),
        "crowd": STEEL,
    }[kind]
    closing = float(rng.uniform(0.7, 1.0)) if chance(rng, 0.5) else 1.0
    if chance(rng, 0.5):
        half = -half

    def tall(t: float) -> tuple[float, float]:
        share = 1 + (closing - 1) * t
        return view.eye * 0.5 * (1 - share), share

    for i in range(count):
        t0, t1 = i / count, (i + 1) / count
        points = []
        for t in np.linspace(t0, t1, 7):
            sag = 0.1 * np.sin((t - t0) * count * np.pi) if kind == "mesh" else 0.0
            lift, share = tall(float(t))
            points.append((half * (2 * t - 1), lift + share * (height - sag)))
        bottom = []
        for t in (t1, t0):
            lift, share = tall(t)
            bottom.append((half * (2 * t - 1), lift + share * 0.06))
        solid = {"mesh": rng.uniform(130, 215), "chain": 40, "screen": 240, "crowd": 10}[kind]
        brush.poly(points + bottom, vary(rng, shade, 4), float(solid))
    _mesh(brush, kind, shade, height, rng)
    for i in range(count + 1):
        lift, share = tall(i / count)
        x = half * (2 * i / count - 1)
        post = {"mesh": pick(rng, ((96, 72, 50), (60, 70, 60), (120, 120, 120)))}.get(kind, STEEL)
        brush.line([(x, lift), (x, lift + share * height * 1.02)], post, 0.045)
        if kind != "mesh":
            brush.rect(x - 0.22, lift, x + 0.22, lift + 0.08, scaled(CONCRETE, 0.8))
    if kind != "mesh":
        for level in (0.1, 1.0):
            ends = [tall(0.0), tall(1.0)]
            line = [(-half, ends[0][0] + ends[0][1] * height * level), (half, ends[1][0] + ends[1][1] * height * level)]
            brush.line(line, shade if kind == "crowd" else STEEL, 0.045)
    return brush


def _mesh(brush: Brush, kind: str, shade: Colour, height: float, rng: Rng) -> None:
    """Threads of the fence, drawn only where its cloth is."""
    rows, columns = brush.rgba.shape[:2]
    x, y = np.arange(columns)[None, :], np.arange(rows)[:, None]
    pitch = max(3.0, {"mesh": 0.09, "chain": 0.13, "screen": 0.5, "crowd": 0.13}[kind] * brush.scale)
    thick = max(1.0, pitch * (0.35 if kind == "mesh" else 0.13))
    if kind == "mesh":
        threads = (y % pitch < thick) | (x % (pitch * 0.9) < thick * 0.8)
    elif kind == "chain":
        threads = ((x + y) % pitch < thick) | ((x - y) % pitch < thick)
    elif kind == "crowd":
        threads = (x % pitch < thick) & (y >= 0)
    else:
        threads = (x % pitch < thick * 0.4) & (y >= 0)
    inside = threads & (brush.rgba[..., 3] > 0)
    brush.rgba[inside] = [*(int(c * 0.97) for c in shade), 235]
