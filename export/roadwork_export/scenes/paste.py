"""Put a cut-out into a picture so that it looks as if it had been there."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from roadwork_export.scenes.brush import Image

Window = tuple[slice, slice, slice, slice]


def window(shape: tuple[int, ...], height: int, width: int, x: int, y: int) -> Window | None:
    """Rows and columns of the image and of a sprite at (x, y) that overlap; None if none do."""
    x0, y0, x1, y1 = max(0, x), max(0, y), min(shape[1], x + width), min(shape[0], y + height)
    if x1 <= x0 or y1 <= y0:
        return None
    return slice(y0, y1), slice(x0, x1), slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)


def blend(image: Image, premultiplied: Image, x: int, y: int) -> None:
    """Lay premultiplied RGBA over `image`, in place, its top left corner at (x, y)."""
    part = window(image.shape, premultiplied.shape[0], premultiplied.shape[1], x, y)
    if part is None:
        return
    rows, columns, own_rows, own_columns = part
    piece = np.ascontiguousarray(premultiplied[own_rows, own_columns])
    darken(image, piece[..., 3], columns.start, rows.start)
    under = image[rows, columns]
    image[rows, columns] = cv2.add(under, cv2.cvtColor(piece, cv2.COLOR_RGBA2RGB))


def darken(image: Image, alpha: Image, x: int, y: int) -> None:
    """Take the share `alpha` / 255 of the light away, in place."""
    part = window(image.shape, alpha.shape[0], alpha.shape[1], x, y)
    if part is None:
        return
    rows, columns, own_rows, own_columns = part
    keep = cv2.cvtColor(cv2.bitwise_not(np.ascontiguousarray(alpha[own_rows, own_columns])), cv2.COLOR_GRAY2RGB)
    image[rows, columns] = cv2.multiply(image[rows, columns], keep, scale=1 / 255)


def sharpness(patch: Image) -> float:
    """Share of fine detail in a patch: about 0.05 when out of focus, 0.3 and over when crisp."""
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean() / (grey.std() * 4 + 4))


def paste(
    image: Image,
    sprite: Image,
    x: float,
    y: float,
    *,
    match: float = 0.5,
    blur: float | None = None,
    shadow: float = 0.45,
    grain: float = 2.0,
    rng: np.random.Generator | None = None,
) -> NDArray[np.float32] | None:
    """Paste a cut-out (straight RGBA) on a photograph in place, its top left corner at (x, y).

    Parameters
    ----------
    match: share of the surroundings' brightness and cast that the object takes on.
    blur: sigma in pixels; None follows the surroundings' sharpness.
    shadow: darkness of the contact shadow under it, 0 for none.
    grain: standard deviation of added sensor noise.

    Returns
    -------
    float32 [4] or None
        Box x1 y1 x2 y2 clipped to the image; None where nothing of it is inside.
    """
    rng = rng or np.random.default_rng(0)
    x, y = round(x), round(y)
    height, width = sprite.shape[:2]
    part = window(image.shape, height, width, x, y)
    if part is None:
        return None
    margin = max(6, height // 4)
    around = image[max(0, y - margin) : y + height + margin, max(0, x - margin) : x + width + margin]
    colour, alpha = sprite[..., :3].astype(np.float32), sprite[..., 3].astype(np.float32) / 255
    scene, ambient = around.reshape(-1, 3).mean(0), image[::16, ::16].reshape(-1, 3).mean(0)
    level = (0.5 * scene.mean() + 0.5 * ambient.mean() + 25) / 128
    cast = np.clip((ambient + 60) / (ambient.mean() + 60), 0.88, 1.12)
    gain = (1 + match * (np.clip(level, 0.35, 1.3) - 1)) * (1 + match * (cast - 1))
    colour *= gain.astype(np.float32)
    haze = np.percentile(around[::3, ::3], 2) * 0.6 * match
    colour += (1 - colour / 255) * np.float32(haze * 0.5)
    if grain > 0:
        colour += rng.normal(0, grain, colour.shape[:2]).astype(np.float32)[..., None]
    solid = np.dstack([np.clip(colour, 0, 255) * alpha[..., None], alpha * 255])
    if blur is None:
        blur = float(np.clip(0.9 - 3.0 * sharpness(around), 0.25, 1.0)) if around.size else 0.4
    if blur > 0.2:
        pad = 3
        solid = cv2.copyMakeBorder(solid, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
        solid = cv2.GaussianBlur(solid, (0, 0), blur)
    else:
        pad = 0
    if shadow > 0:
        contact_shadow(image, x + width / 2, y + height, width, shadow)
    blend(image, solid.astype(np.uint8), x - pad, y - pad)
    rows, columns, _, _ = part
    return np.array([columns.start, rows.start, columns.stop, rows.stop], np.float32)


def contact_shadow(image: Image, x: float, y: float, width: float, strength: float) -> None:
    """Darken the ground in a soft ellipse where an object stands."""
    rx, ry = max(2, int(width * 0.62)), max(1, int(width * 0.12))
    soft = cv2.resize(_blot(), (2 * rx + 1, 2 * ry + 1), interpolation=cv2.INTER_LINEAR)
    darken(image, np.asarray(cv2.convertScaleAbs(soft, alpha=strength), np.uint8), int(x) - rx, int(y) - ry)


@lru_cache(maxsize=1)
def _blot() -> Image:
    """A soft round spot, 255 in its middle."""
    v, u = np.ogrid[-1:1:33j, -1:1:65j]  # type: ignore[misc]
    return (255 * np.clip(1.15 - np.sqrt(u * u + v * v), 0, 1)).astype(np.uint8)
