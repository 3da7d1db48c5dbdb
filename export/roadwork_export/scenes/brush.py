"""Drawing in metres on a large transparent canvas that is then reduced, so that edges are smooth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from roadwork_export.scenes import noise

Image = NDArray[np.uint8]
Colour = tuple[float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class View:
    """How an object is seen.

    lateral: metres right of the camera axis for each metre of distance; distance: metres to its near face;
    eye: height of the camera in metres; sun: -1 (light from the left) to 1, 0 is overcast.
    """

    lateral: float = 0.0
    distance: float = 15.0
    eye: float = 1.6
    sun: float = 0.0


@dataclass
class Sprite:
    """Premultiplied RGBA pixels, and lamps as (x, y, radius, colour) in its pixels."""

    pixels: Image
    lamps: list[tuple[float, float, float, Colour]] = field(default_factory=list)
    #: x0, y0, x1, y1 in pixels of the part that data sets put a box round (a sign's board without its post).
    region: tuple[float, float, float, float] | None = None

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


def mix(first: Colour, second: Colour, share: float) -> Colour:
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def scaled(colour: Colour, factor: float) -> Colour:
    return tuple(min(255.0, max(0.0, c * factor)) for c in colour)  # type: ignore[return-value]


Region = tuple[float, float, float, float]


class Brush:
    """A canvas `width` x `height` metres, x from its middle to the right, y up from the ground."""

    def __init__(self, width: float, height: float, pixels: float) -> None:
        self.scale = max(pixels, 8.0) / height
        self.pad = 3
        self.width, self.height = width, height
        rows, columns = (int(np.ceil(side * self.scale)) + 2 * self.pad for side in (height, width))
        self.rgba: Image = np.zeros((rows, columns, 4), np.uint8)
        self.lamps: list[tuple[float, float, float, Colour]] = []
        self.translucent = False
        self.region: tuple[float, float, float, float] | None = None

    def at(self, x: float, y: float) -> Point:
        """Canvas pixels of a point in metres."""
        return self.pad + (x + self.width / 2) * self.scale, self.rgba.shape[0] - self.pad - y * self.scale

    def _fixed(self, points: Sequence[Point]) -> NDArray[np.int32]:
        return np.array([self.at(*p) for p in points]).__mul__(16).astype(np.int32).reshape(-1, 1, 2)

    def poly(self, points: Sequence[Point], colour: Colour, alpha: float = 255) -> None:
        cv2.fillPoly(self.rgba, [self._fixed(points)], (*colour, alpha), lineType=cv2.LINE_8, shift=4)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, alpha: float = 255) -> None:
        left, bottom = self.at(min(x0, x1), min(y0, y1))
        right, top = self.at(max(x0, x1), max(y0, y1))
        rows, columns = self.rgba.shape[:2]
        t, b = max(0, round(top)), min(rows, max(round(bottom), round(top) + 1))
        le, r = max(0, round(left)), min(columns, max(round(right), round(left) + 1))
        self.rgba[t:b, le:r] = [int(c) for c in (*colour, alpha)]

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, angle: float = 0.0) -> None:
        cx, cy = self.at(x, y)
        axes = (max(1, int(rx * self.scale * 16)), max(1, int(ry * self.scale * 16)))
        centre = (int(cx * 16), int(cy * 16))
        cv2.ellipse(self.rgba, centre, axes, -angle, 0, 360, (*colour, 255), -1, cv2.LINE_8, 4)

    def line(self, points: Sequence[Point], colour: Colour, thick: float, closed: bool = False) -> None:
        """A polyline `thick` metres wide with round ends."""
        weight = max(1, round(thick * self.scale))
        cv2.polylines(self.rgba, [self._fixed(points)], closed, (*colour, 255), weight, cv2.LINE_8, 4)

    def band(
        self, y0: float, y1: float, w0: float, w1: float, colour: Colour, sag: float = 0.0, x0: float = 0, x1: float = 0
    ) -> None:
        """A ring round an upright body: half-widths w0 at y0, w1 at y1, edges that sag as seen from above."""
        t = np.linspace(-1, 1, 9)
        drop = sag * np.sqrt(np.maximum(0, 1 - t * t))
        low = [(x0 + w0 * u, y0 - d) for u, d in zip(t, drop, strict=True)]
        high = [(x1 + w1 * u, y1 - d) for u, d in zip(t[::-1], drop[::-1], strict=True)]
        self.poly(low + high, colour)

    def panel(self, corners: Sequence[Point], texture: Image) -> None:
        """A texture (RGB or RGBA) on a quad: top left, top right, bottom right, bottom left."""
        target = np.array([self.at(*p) for p in corners], np.float32)
        low = np.maximum(np.floor(target.min(0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(target.max(0)).astype(int) + 1, self.rgba.shape[1::-1])
        if (high - low).min() < 2:
            return
        rows, columns = texture.shape[:2]
        source = np.array([(0, 0), (columns, 0), (columns, rows), (0, rows)], np.float32)
        if texture.shape[2] == 3:
            texture = np.asarray(cv2.cvtColor(texture, cv2.COLOR_RGB2RGBA), np.uint8)
        size = (int(high[0] - low[0]), int(high[1] - low[1]))
        matrix = cv2.getPerspectiveTransform(source, (target - low).astype(np.float32))
        warped = cv2.warpPerspective(texture, matrix, size, flags=cv2.INTER_LINEAR)
        place = self.rgba[low[1] : high[1], low[0] : high[0]]
        cv2.copyTo(warped, (warped[..., 3] > 100).astype(np.uint8), place)

    def _window(self, x0: float, y0: float, x1: float, y1: float) -> NDArray[np.uint8]:
        left, bottom = self.at(x0, y0)
        right, top = self.at(x1, y1)
        return self.rgba[max(0, int(top)) : max(0, int(bottom) + 1), max(0, int(left)) : max(0, int(right) + 1), :3]

    def cylinder(self, x0: float, x1: float, y0: float, y1: float, sun: float, depth: float = 0.45) -> None:
        """Shade what is drawn between x0 and x1 as an upright cylinder lit from `sun`."""
        window = self._window(x0, y0, x1, y1)
        if window.size == 0:
            return
        u = np.linspace(-0.98, 0.98, window.shape[1], dtype=np.float32)
        lit = np.cos(np.arcsin(u) - 0.9 * sun)
        gain = (1.12 - depth) + depth * np.maximum(lit, 0) ** 0.8
        np.clip(window * gain[None, :, None], 0, 255, out=window, casting="unsafe")

    def gain(self, x0: float, y0: float, x1: float, y1: float, low: float, high: float) -> None:
        """Multiply brightness, from `low` at the bottom to `high` at the top."""
        window = self._window(x0, y0, x1, y1)
        if window.size:
            ramp = np.linspace(high, low, window.shape[0], dtype=np.float32)[:, None, None]
            np.clip(window * ramp, 0, 255, out=window, casting="unsafe")

    def lamp(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A lit lamp: drawn, and noted so that the scene can let it glow."""
        self.ellipse(x, y, radius, radius, colour)
        self.ellipse(x, y, radius * 0.5, radius * 0.5, mix(colour, (255, 255, 255), 0.6))
        self.lamps.append((*self.at(x, y), radius * self.scale, colour))

    def finish(self, rng: np.random.Generator, height: int | None = None, dirt: float = 0.0) -> Sprite:
        """Weather the surface, crop to what is drawn and reduce it (to `height` pixels when given)."""
        x, y, w, h = cv2.boundingRect(self.rgba[..., 3])
        if w == 0 or h == 0:
            return Sprite(np.zeros((1, 1, 4), np.uint8))
        piece = self.rgba[y : y + h, x : x + w]
        if self.translucent:
            piece = piece.copy()
            piece[..., :3] = (piece[..., :3] * (piece[..., 3:].astype(np.uint16)) // 255).astype(np.uint8)
        ratio = 1.0
        if height is not None and height != h:
            ratio = height / h
            size = (max(1, round(w * ratio)), max(1, height))
            reducing = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
            piece = np.asarray(cv2.resize(piece, size, interpolation=reducing), np.uint8)
        rows, columns = piece.shape[:2]
        colour = piece[..., :3].astype(np.float32)
        tone = noise.crop("cloud", rows, columns, rng, 1.5) * np.float32(rng.uniform(0.02, 0.07))
        tone += noise.crop("grain", rows, columns, rng) * np.float32(0.02)
        tone += np.float32(rng.uniform(0.88, 1.06))
        colour *= tone[..., None]
        if dirt > 0:
            low = np.linspace(0.0, 1.0, rows, dtype=np.float32)[:, None] ** 2
            share = np.clip((noise.crop("cloud", rows, columns, rng, 0.7) + low - 0.4) * dirt, 0, 0.75)[..., None]
            cover = piece[..., 3:].astype(np.float32) / 255
            colour += share * (np.array([112, 101, 88], np.float32) * cover - colour)
        colour = np.minimum(np.maximum(colour, 0), piece[..., 3:])
        full = np.dstack([colour.astype(np.uint8), piece[..., 3]])
        lamps = [((a - x) * ratio, (b - y) * ratio, r * ratio, c) for a, b, r, c in self.lamps]
        return Sprite(full, lamps, self._region(x, y, ratio, rows, columns))

    def _region(self, x: int, y: int, ratio: float, rows: int, columns: int) -> Region | None:
        if self.region is None:
            return None
        left, bottom = self.at(self.region[0], self.region[1])
        right, top = self.at(self.region[2], self.region[3])
        x0, x1 = sorted(min(max((a - x) * ratio, 0), columns) for a in (left, right))
        y0, y1 = sorted(min(max((b - y) * ratio, 0), rows) for b in (top, bottom))
        return x0, y0, x1, y1
