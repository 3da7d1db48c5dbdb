"""Temporary traffic control signs."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from roadwork_export.scenes.brush import Brush, Colour, Image, View
from roadwork_export.scenes.palette import AMBER, RED, SIGN_ORANGES, STEEL, YELLOW, chance, pick, vary
from roadwork_export.scenes.textures import lettering

Rng = np.random.Generator
SIDE = 112
INK: Colour = (22, 20, 20)
DIAMONDS: tuple[tuple[str, ...], ...] = (
    *(("ROAD", "WORK", "AHEAD"), ("ROAD", "WORK", "AHEAD"), ("ROAD", "WORK", "500 FT"), ("ROAD", "CLOSED", "AHEAD")),
    *(
        ("LANE", "CLOSED", "AHEAD"),
        ("RIGHT LANE", "CLOSED", "AHEAD"),
        ("ONE LANE", "ROAD", "AHEAD"),
        ("UTILITY", "WORK", "AHEAD"),
    ),
    *(
        ("LEFT LANE", "CLOSED"),
        ("DETOUR", "AHEAD"),
        ("FLAGGER", "AHEAD"),
        ("BE", "PREPARED", "TO STOP"),
        ("MEN", "WORKING"),
    ),
    *(
        ("UNEVEN", "LANES"),
        ("LOOSE", "GRAVEL"),
        ("FRESH", "OIL"),
        ("SHOULDER", "WORK"),
        ("STEEL PLATE", "AHEAD"),
        ("BUMP",),
    ),
    *(
        ("SURVEY", "CREW"),
        ("BAUSTELLE",),
        ("TRAVAUX",),
        ("OBRAS",),
        ("BRIDGE", "WORK", "AHEAD"),
        ("NIGHT", "WORK", "AHEAD"),
    ),
)
PLATES: tuple[tuple[str, ...], ...] = (
    *(
        ("ROAD", "CLOSED"),
        ("ROAD CLOSED", "AHEAD"),
        ("DETOUR",),
        ("DETOUR",),
        ("END", "ROAD WORK"),
        ("SIDEWALK", "CLOSED"),
    ),
    *(
        ("ROAD WORK", "NEXT 5 MILES"),
        ("WORK ZONE",),
        ("SIDEWALK CLOSED", "USE OTHER SIDE"),
        ("LANE CLOSED",),
        ("EXIT",),
    ),
    *(("ROUTE BARREE",), ("UMLEITUNG",), ("FINES DOUBLE", "WORK ZONE"), ("ROAD CLOSED", "TO THRU", "TRAFFIC")),
)


def _worker_symbol(texture: Image, ink: Colour) -> None:
    """A person who digs."""
    tone = (*ink, 255)
    cv2.circle(texture, (52, 36), 6, tone, -1)
    cv2.line(texture, (52, 44), (44, 64), tone, 9)
    cv2.line(texture, (44, 64), (36, 84), tone, 6)
    cv2.line(texture, (44, 64), (56, 84), tone, 6)
    cv2.line(texture, (52, 48), (66, 60), tone, 5)
    cv2.line(texture, (58, 50), (76, 80), tone, 3)
    cv2.fillPoly(texture, [np.array([(66, 86), (94, 86), (80, 70)], np.int32)], tone)


def _flagger_symbol(texture: Image, ink: Colour) -> None:
    tone = (*ink, 255)
    cv2.circle(texture, (58, 30), 6, tone, -1)
    cv2.line(texture, (58, 40), (58, 62), tone, 11)
    cv2.line(texture, (55, 62), (52, 88), tone, 5)
    cv2.line(texture, (61, 62), (64, 88), tone, 5)
    cv2.line(texture, (58, 42), (38, 52), tone, 4)
    cv2.rectangle(texture, (26, 40), (40, 54), tone, -1)


def _arrow_symbol(texture: Image, ink: Colour, variant: int) -> None:
    tone = (*ink, 255)
    x = 44 if variant else 68
    cv2.polylines(texture, [np.array([(56, 86), (56, 66), (x, 52), (x, 34)], np.int32)], False, tone, 7)
    cv2.fillPoly(texture, [np.array([(x - 12, 38), (x + 12, 38), (x, 20)], np.int32)], tone)


def _shape(points: list[tuple[float, float]], face: Colour, rim: Colour, inner: float) -> Image:
    texture = np.zeros((SIDE, SIDE, 4), np.uint8)
    outline = np.array(points) * SIDE
    centre = outline.mean(0)
    cv2.fillPoly(texture, [outline.astype(np.int32)], (*face, 255))
    cv2.polylines(texture, [(centre + (outline - centre) * inner).astype(np.int32)], True, (*rim, 255), 3, cv2.LINE_AA)
    return texture


@lru_cache(maxsize=256)
def _mask(kind: str, variant: int, face: Colour) -> Image:
    if kind == "diamond":
        texture = _shape([(0.5, 0.01), (0.99, 0.5), (0.5, 0.99), (0.01, 0.5)], face, INK, 0.92)
        if variant < len(DIAMONDS):
            lettering(texture, DIAMONDS[variant], INK, (0.2, 0.24, 0.8, 0.76))
        elif variant % 3 == 0:
            _worker_symbol(texture, INK)
        elif variant % 3 == 1:
            _flagger_symbol(texture, INK)
        else:
            _arrow_symbol(texture, INK, variant % 2)
        return texture
    if kind == "triangle":
        texture = np.zeros((SIDE, SIDE, 4), np.uint8)
        cv2.fillPoly(texture, [np.array([(56, 4), (110, 104), (2, 104)], np.int32)], (*RED, 255))
        cv2.fillPoly(texture, [np.array([(56, 28), (90, 92), (22, 92)], np.int32)], (*face, 255))
        small = np.zeros((SIDE, SIDE, 4), np.uint8)
        _worker_symbol(small, INK)
        small = np.asarray(cv2.resize(small, (64, 64), interpolation=cv2.INTER_AREA), np.uint8)
        place = texture[34:98, 26:90]
        place[small[..., 3] > 127] = (*(int(c) for c in INK), 255)
        return texture
    texture = np.zeros((SIDE // 2, SIDE, 4), np.uint8)
    texture[:] = [*(int(c) for c in face), 255]
    cv2.rectangle(texture, (3, 3), (SIDE - 4, SIDE // 2 - 4), (*INK, 255), 2)
    if kind == "arrow":
        cv2.arrowedLine(
            texture,
            (18, 28) if variant % 2 else (94, 28),
            (94, 28) if variant % 2 else (18, 28),
            (*INK, 255),
            8,
            tipLength=0.35,
        )
    else:
        lettering(texture, PLATES[variant % len(PLATES)], INK, (0.06, 0.1, 0.94, 0.9))
    return texture


def face_texture(rng: Rng, kind: str) -> Image:
    if kind == "triangle":
        face: Colour = pick(rng, (YELLOW, YELLOW, (232, 230, 226)))
    elif kind in ("plate", "arrow") and chance(rng, 0.25):
        face = (226, 226, 222)
    elif kind == "plate" and chance(rng, 0.1):
        face = YELLOW
    else:
        face = pick(rng, SIGN_ORANGES)
    limit = len(DIAMONDS) + 9 if kind == "diamond" else len(PLATES)
    texture = _mask(kind, int(rng.integers(limit)), face)
    tint = np.clip(1 + rng.normal(0, 0.03, 3), 0.9, 1.08)
    toned = texture.copy()
    toned[..., :3] = np.clip(texture[..., :3] * tint, 0, 255).astype(np.uint8)
    return toned


def ttc_sign(rng: Rng, pixels: float, view: View) -> Brush:
    kind = pick(rng, ("diamond",) * 7 + ("plate",) * 3 + ("arrow", "triangle", "triangle"))
    side = float(rng.uniform(0.85, 1.3)) if kind in ("diamond", "triangle") else float(rng.uniform(0.5, 1.1))
    low = kind != "plate" and chance(rng, 0.5)
    raised = float(rng.uniform(0.25, 0.6) if low else rng.uniform(0.9, 2.0))
    tall, wide = side if kind == "triangle" else side * 0.5, side
    if kind == "diamond":
        tall, wide = side * 1.25, side * 1.25
    brush = Brush(wide * 1.7 + 0.6, raised + tall * 1.25, pixels)
    turn = float(rng.uniform(0.72, 1.0))
    half = wide / 2 * turn
    metal = vary(rng, pick(rng, (STEEL, (96, 98, 100), (70, 64, 58))), 8)
    if low:
        for foot in (-0.5, -0.25, 0.25, 0.5):
            brush.line([(0, raised * 0.7), (foot * wide, 0.02)], metal, 0.03)
        brush.line([(0, raised * 0.5), (0, raised + tall * 0.8)], metal, 0.04)
    elif wide > 0.9 and chance(rng, 0.4):
        for x in (-half * 0.55, half * 0.55):
            brush.line([(x, 0), (x, raised + tall * 0.6)], metal, 0.06)
    else:
        brush.line([(0, 0), (0, raised + tall * 0.7)], metal, 0.06)
        if chance(rng, 0.4):
            brush.rect(-0.35, 0, 0.35, 0.1, vary(rng, (60, 58, 54), 10))
    lean, skew = float(rng.normal(0, 0.03)), float(rng.uniform(-0.06, 0.06)) * tall
    top, bottom = raised + tall, raised
    face = face_texture(rng, kind)
    corners = [(lean - half, top + skew), (lean + half, top - skew), (half, bottom + skew), (-half, bottom - skew)]
    if chance(rng, 0.06):
        face[..., :3] = (120, 118, 112)
        face[..., :3] = np.clip(face[..., :3].astype(np.int16) + rng.integers(-10, 10), 0, 255).astype(np.uint8)
    brush.panel(corners, face)
    reach = half + abs(lean)
    brush.region = (-reach, bottom - abs(skew), reach, top + abs(skew))
    shade = 1.0 - 0.25 * float(rng.random()) * abs(view.sun)
    brush.gain(-half, bottom, half, top, shade * 0.96, shade * 1.04)
    if chance(rng, 0.2) and kind == "diamond":
        for s in (-1, 1):
            flag = pick(rng, SIGN_ORANGES)
            brush.poly([(0, top - 0.02), (s * 0.32, top + 0.2), (s * 0.42, top - 0.05)], vary(rng, flag, 12))
    elif chance(rng, 0.06):
        brush.lamp(0, top + 0.08, 0.09, AMBER)
    elif chance(rng, 0.2) and not low:
        plate = face_texture(rng, "plate")
        brush.panel(
            [
                (-half * 0.7, bottom),
                (half * 0.7, bottom),
                (half * 0.7, bottom - half * 0.6),
                (-half * 0.7, bottom - half * 0.6),
            ],
            plate,
        )
    return brush
