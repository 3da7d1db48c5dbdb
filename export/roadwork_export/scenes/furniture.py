"""What stands in every street and is not roadwork, much of it in roadwork's colours."""

from __future__ import annotations

import cv2
import numpy as np

from roadwork_export.scenes import noise
from roadwork_export.scenes.brush import Brush, Colour, View, scaled
from roadwork_export.scenes.palette import RED, STEEL, chance, orange, pick, vary, white
from roadwork_export.scenes.textures import lettering, plain, stripes

Rng = np.random.Generator


def street_sign(rng: Rng, pixels: float, view: View) -> Brush:
    """Permanent signs: stop, yield, limits, yellow warning diamonds, blue, green, brown, parking."""
    kind = pick(
        rng,
        (
            "stop",
            "stop",
            "yield",
            "limit",
            "limit",
            "warning",
            "warning",
            "blue",
            "green",
            "oneway",
            "round",
            "noentry",
            "school",
            "chevron",
        ),
    )
    raised = float(rng.uniform(1.6, 2.2))
    brush = Brush(1.7, raised + 1.3, pixels)
    brush.line([(0, 0), (0, raised + 0.7)], vary(rng, STEEL, 14), 0.06)
    k, y = 0.38 * float(rng.uniform(0.8, 1.05)), raised + 0.5
    corners = [(-k, y + k), (k, y + k), (k, y - k), (-k, y - k)]
    face = np.zeros((80, 80, 4), np.uint8)
    ink: Colour = (24, 24, 24)
    if kind == "stop":
        ring = [(40 + 40 * np.cos(a), 40 + 40 * np.sin(a)) for a in np.arange(8) * np.pi / 4 + np.pi / 8]
        cv2.fillPoly(face, [np.array(ring, np.int32)], (*RED, 255))
        cv2.polylines(
            face,
            [np.array([(40 + (x - 40) * 0.9, 40 + (v - 40) * 0.9) for x, v in ring], np.int32)],
            True,
            (230, 230, 230, 255),
            2,
        )
        lettering(face, ["STOP"], (236, 236, 236), (0.1, 0.3, 0.9, 0.7))
    elif kind == "yield":
        cv2.fillPoly(face, [np.array([(2, 8), (78, 8), (40, 76)], np.int32)], (*RED, 255))
        cv2.fillPoly(face, [np.array([(18, 17), (62, 17), (40, 56)], np.int32)], (234, 234, 234, 255))
    elif kind in ("warning", "school", "chevron"):
        tone = (248, 206, 36) if kind != "school" else (190, 232, 50)
        cv2.fillPoly(face, [np.array([(40, 1), (79, 40), (40, 79), (1, 40)], np.int32)], (*tone, 255))
        cv2.polylines(
            face, [np.array([(40, 5), (75, 40), (40, 75), (5, 40)], np.int32)], True, (*ink, 255), 2, cv2.LINE_AA
        )
        if kind == "school":
            cv2.circle(face, (40, 22), 5, (*ink, 255), -1)
            cv2.line(face, (40, 28), (40, 46), (*ink, 255), 7)
            cv2.line(face, (38, 46), (30, 62), (*ink, 255), 4)
            cv2.line(face, (42, 46), (50, 62), (*ink, 255), 4)
        elif chance(rng, 0.5):
            cv2.polylines(face, [np.array([(40, 64), (40, 44), (52, 34), (52, 20)], np.int32)], False, (*ink, 255), 6)
        else:
            lettering(
                face,
                list(pick(rng, (("DEAD", "END"), ("SLOW",), ("NO", "OUTLET"), ("SIGNAL", "AHEAD"), ("BUMP",)))),
                ink,
                (0.2, 0.28, 0.8, 0.72),
            )
    elif kind == "round":
        cv2.circle(face, (40, 40), 39, (*RED, 255), -1)
        cv2.circle(face, (40, 40), 30, (236, 236, 236, 255), -1)
        lettering(face, [pick(rng, ("30", "50", "20", "70", "40"))], ink, (0.22, 0.25, 0.78, 0.75))
    elif kind == "noentry":
        cv2.circle(face, (40, 40), 39, (*RED, 255), -1)
        cv2.rectangle(face, (14, 33), (66, 47), (236, 236, 236, 255), -1)
    else:
        tone2: Colour = {
            "limit": (232, 232, 230),
            "blue": (28, 80, 170),
            "green": (16, 110, 76),
            "oneway": (30, 30, 30),
        }[kind]
        face[:] = [*(int(c) for c in tone2), 255]
        text = {
            "limit": ("SPEED", "LIMIT", pick(rng, ("25", "35", "45"))),
            "blue": ("P",),
            "green": ("MAIN ST",),
            "oneway": ("ONE WAY",),
        }[kind]
        lettering(face, list(text), ink if kind == "limit" else (236, 236, 236), (0.08, 0.08, 0.92, 0.92))
        cv2.rectangle(face, (1, 1), (78, 78), (*(ink if kind == "limit" else (226, 226, 226)), 255), 2)
        rise = {"limit": 1.25, "blue": 1.0, "green": 0.35, "oneway": 0.45}[kind] * k
        corners = [(-k, y + rise), (k, y + rise), (k, y - rise), (-k, y - rise)]
    brush.panel(corners, face)
    return brush


def traffic_light(rng: Rng, pixels: float, view: View) -> Brush:
    """Lights on a post or on a mast arm over the road."""
    arm = chance(rng, 0.5)
    tall = float(rng.uniform(5.2, 6.2)) if arm else float(rng.uniform(3.0, 3.8))
    brush = Brush(9.0 if arm else 1.4, tall * 1.05, pixels)
    post = vary(rng, pick(rng, (STEEL, (50, 54, 56), (40, 60, 50))), 10)
    shell: Colour = pick(rng, ((28, 28, 30), (34, 36, 34), (214, 166, 34)))
    x0 = 4.0 if arm else 0.0
    brush.line([(x0, 0), (x0, tall * 0.98)], post, 0.18)
    heads = [(x0 - 0.05, tall * 0.55)] if arm else [(0.0, tall - 0.6)]
    if arm:
        brush.line([(x0, tall * 0.95), (-3.8, tall)], post, 0.12)
        heads += [(-3.4, tall - 0.55), (-0.8, tall - 0.55)]
        if chance(rng, 0.4):
            brush.rect(0.8, tall - 0.35, 3.0, tall - 0.0, (16, 104, 74))
    lit = int(rng.integers(3))
    for x, y in heads:
        brush.rect(x - 0.19, y - 0.52, x + 0.19, y + 0.52, shell)
        for i, colour in enumerate(((255, 56, 40), (255, 176, 40), (60, 235, 150))):
            if i == lit:
                brush.lamp(x, y + 0.32 - 0.32 * i, 0.125, colour)
            else:
                brush.ellipse(x, y + 0.32 - 0.32 * i, 0.125, 0.125, scaled(colour, 0.2))
    return brush


def hydrant(rng: Rng, pixels: float, view: View) -> Brush:
    brush = Brush(0.7, 0.9, pixels)
    paint = vary(rng, pick(rng, ((196, 34, 34), (196, 34, 34), (236, 190, 40), (226, 110, 40), (120, 140, 170))), 8)
    brush.rect(-0.2, 0, 0.2, 0.08, scaled(paint, 0.8))
    brush.rect(-0.13, 0.05, 0.13, 0.62, paint)
    brush.rect(-0.25, 0.38, 0.25, 0.52, scaled(paint, 0.9))
    brush.ellipse(0, 0.62, 0.16, 0.13, paint)
    brush.rect(-0.04, 0.72, 0.04, 0.8, paint)
    brush.cylinder(-0.25, 0.25, 0, 0.82, view.sun, 0.5)
    return brush


def lamp_post(rng: Rng, pixels: float, view: View) -> Brush:
    tall = float(rng.uniform(6, 10))
    brush = Brush(3.6, tall * 1.03, pixels)
    post = vary(rng, pick(rng, (STEEL, (70, 62, 52), (44, 46, 48), (110, 84, 60))), 8)
    s = 1.0 if chance(rng, 0.5) else -1.0
    brush.line([(0, 0), (0, tall * 0.97)], post, 0.2)
    if chance(rng, 0.6):
        brush.line([(0, tall * 0.95), (s * 1.4, tall)], post, 0.08)
        brush.ellipse(s * 1.5, tall - 0.02, 0.3, 0.08, (90, 90, 90))
        brush.lamps.append((*brush.at(s * 1.5, tall - 0.05), 0.25 * brush.scale, (255, 214, 150)))
    else:
        brush.line([(-1.1, tall * 0.9), (1.1, tall * 0.9)], post, 0.12)
    return brush


def bin_or_box(rng: Rng, pixels: float, view: View) -> Brush:
    """Bins, post boxes, bollards: also orange, yellow and red ones."""
    tall, half = float(rng.uniform(0.8, 1.3)), float(rng.uniform(0.1, 0.35))
    brush = Brush(half * 2.4, tall * 1.05, pixels)
    paint = pick(
        rng, ((40, 60, 50), (30, 60, 130), (60, 60, 62), orange(rng), (236, 190, 40), (180, 34, 34), white(rng))
    )
    brush.rect(-half, 0, half, tall * 0.9, paint)
    brush.ellipse(0, tall * 0.9, half, tall * 0.09, scaled(paint, 0.9))
    brush.rect(-half * 0.6, tall * 0.7, half * 0.6, tall * 0.76, scaled(paint, 0.4))
    brush.cylinder(-half, half, 0, tall, view.sun, 0.35)
    return brush


def billboard(rng: Rng, pixels: float, view: View) -> Brush:
    """Advertising in red and white stripes, orange, yellow; shop banners; umbrellas."""
    if chance(rng, 0.35):
        brush = Brush(3.2, 2.7, pixels)
        tone = pick(rng, (orange(rng), RED, (236, 180, 40), (40, 110, 80)))
        brush.line([(0, 0), (0, 2.3)], (220, 220, 216), 0.06)
        for i, x in enumerate(np.linspace(-1.4, 0.7, 4)):
            brush.poly(
                [(float(x), 2.0), (float(x) + 0.7, 2.0), (0, 2.6)],
                tone if i % 2 else (white(rng) if chance(rng, 0.5) else scaled(tone, 0.9)),
            )
        return brush
    wide, tall = float(rng.uniform(1.5, 4.5)), float(rng.uniform(1.0, 2.2))
    raised = float(rng.uniform(0.3, 4))
    brush = Brush(wide * 1.1, raised + tall * 1.05, pixels)
    for x in (-wide * 0.35, wide * 0.35):
        brush.line([(x, 0), (x, raised + 0.2)], (90, 90, 92), 0.1)
    tone = pick(rng, (RED, orange(rng), (240, 190, 40), (30, 80, 160), white(rng)))
    face = stripes(120, 60, tone, white(rng), 12, 0) if chance(rng, 0.25) else plain(120, 60, tone)
    if chance(rng, 0.8):
        lettering(
            face,
            [pick(rng, ("SALE", "OPEN", "BURGER", "FOR RENT", "CAR WASH", "PARKING", "50% OFF"))],
            (250, 250, 246),
            (0.1, 0.2, 0.9, 0.8),
        )
    half = wide / 2
    brush.panel([(-half, raised + tall), (half, raised + tall), (half, raised), (-half, raised)], face)
    return brush


def guide_sign(rng: Rng, pixels: float, view: View) -> Brush:
    """A large green or blue guide sign, beside or over the road."""
    wide, tall, raised = float(rng.uniform(2.4, 5)), float(rng.uniform(1.0, 2.0)), float(rng.uniform(2.2, 5))
    brush = Brush(wide * 1.05, raised + tall * 1.03, pixels)
    half = wide / 2
    for x in (-half * 0.8, half * 0.8):
        brush.line([(x, 0), (x, raised + 0.3)], STEEL, 0.14)
    face = plain(140, int(140 * tall / wide), pick(rng, ((14, 108, 74), (14, 108, 74), (26, 76, 160))))
    words = pick(
        rng, (["EXIT 24", "Airport"], ["Main St", "1/2 MILE"], ["NORTH 95"], ["Downtown"], ["Springfield", "12 km"])
    )
    lettering(face, words, (238, 238, 236), (0.08, 0.1, 0.92, 0.9))
    brush.panel([(-half, raised + tall), (half, raised + tall), (half, raised), (-half, raised)], face)
    return brush


def tree(rng: Rng, pixels: float, view: View) -> Brush:
    """Summer green, autumn orange and yellow, or bare."""
    tall = float(rng.uniform(5, 10))
    brush = Brush(tall * 0.9, tall, min(pixels, 260))
    bark = vary(rng, (84, 70, 58), 12)
    greens: tuple[Colour, ...] = ((72, 96, 44), (92, 116, 56), (58, 82, 44), (110, 124, 66))
    autumns: tuple[Colour, ...] = ((196, 112, 34), (206, 150, 44), (168, 74, 34), (226, 120, 40))
    leaf = vary(rng, pick(rng, autumns if chance(rng, 0.22) else greens), 10)
    brush.line([(0, 0), (float(rng.normal(0, 0.1)), tall * 0.55)], bark, tall * 0.035)
    bare = chance(rng, 0.18)
    for _ in range(26 if bare else 8):
        a = float(rng.uniform(-1.0, 1.0))
        r = tall * float(rng.uniform(0.2, 0.5))
        y0 = tall * float(rng.uniform(0.25, 0.55))
        end = (r * np.sin(a) * 0.9, min(tall * 0.97, y0 + r * np.cos(a)))
        brush.line([(0, y0), (end[0] * 0.5, y0 + (end[1] - y0) * 0.6), end], bark, tall * (0.006 if bare else 0.012))
    if bare:
        return brush
    rows, columns = brush.rgba.shape[:2]
    x = np.linspace(-1, 1, columns, dtype=np.float32)[None]
    y = np.linspace(1, 0, rows, dtype=np.float32)[:, None]
    crown = 1.15 - np.sqrt((x / 0.92) ** 2 + ((y - 0.64) / 0.37) ** 2)
    clump = noise.crop("cloud", rows, columns, rng, 0.5)
    fine = noise.crop("grain", rows, columns, rng, 1.6)
    inside = crown + 0.22 * clump + 0.16 * fine > 0.25
    lit = 0.78 + 0.35 * (y - 0.5) + 0.16 * clump + 0.17 * fine - 0.12 * x * -view.sun
    colour = np.clip(np.array(leaf, np.float32) * lit[..., None], 0, 255)
    brush.rgba[inside, :3] = colour[inside].astype(np.uint8)
    brush.rgba[inside, 3] = 255
    return brush


def bush(rng: Rng, pixels: float, view: View) -> Brush:
    brush = Brush(float(rng.uniform(1.2, 3.5)), float(rng.uniform(0.6, 1.3)), min(pixels, 120))
    rows, columns = brush.rgba.shape[:2]
    x, y = np.linspace(-1, 1, columns)[None], np.linspace(1, 0, rows)[:, None]
    grain = noise.crop("cloud", rows, columns, rng, 0.6) * 0.2 + noise.crop("grain", rows, columns, rng, 1.5) * 0.15
    inside = 1.0 - np.abs(x) ** 2.5 - y**2 + grain > 0.2
    tone = vary(rng, pick(rng, ((70, 88, 48), (88, 100, 60), (110, 100, 60))), 8)
    brush.rgba[inside, :3] = np.clip(np.array(tone) * (0.75 + 0.4 * y + grain)[..., None], 0, 255)[inside].astype(
        np.uint8
    )
    brush.rgba[inside, 3] = 255
    return brush
