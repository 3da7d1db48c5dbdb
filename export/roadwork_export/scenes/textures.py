"""Flat textures that are laid on quads: stripes, lettering."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from roadwork_export.scenes.brush import Colour, Image

FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX)


def plain(width: int, height: int, colour: Colour) -> Image:
    texture = np.empty((height, width, 3), np.uint8)
    texture[:] = [int(c) for c in colour]
    return texture


def stripes(width: int, height: int, first: Colour, second: Colour, period: float, slant: float) -> Image:
    """Diagonal stripes, each `period` pixels wide; slant 1 falls to the right, 0 is vertical."""
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    choice = np.floor((x + slant * y) / period).astype(int) % 2
    return np.array([first, second], np.float32)[choice].astype(np.uint8)


def lettering(texture: Image, lines: Sequence[str], colour: Colour, area: tuple[float, float, float, float]) -> None:
    """Write lines centred in `area` (x0, y0, x1, y1 as shares of the texture), as large as they fit."""
    rows, columns = texture.shape[:2]
    x0, y0, x1, y1 = area[0] * columns, area[1] * rows, area[2] * columns, area[3] * rows
    pitch = (y1 - y0) / len(lines)
    widest = max(cv2.getTextSize(line, FONTS[0], 1.0, 1)[0][0] for line in lines) + 6
    scale = min((x1 - x0) / widest, pitch * 0.74 / 22)
    weight = max(1, round(scale * 3.4))
    ink = (*colour, 255) if texture.shape[2] == 4 else colour
    for i, line in enumerate(lines):
        wide = cv2.getTextSize(line, FONTS[0], scale, weight)[0][0]
        origin = (int((x0 + x1 - wide) / 2), int(y0 + pitch * (i + 0.5) + 11 * scale))
        cv2.putText(texture, line, origin, FONTS[0], scale, ink, weight, cv2.LINE_AA)
