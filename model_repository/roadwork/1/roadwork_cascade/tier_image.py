"""The picture that a tier gets, as an encoded file."""

from __future__ import annotations

import asyncio
import base64
import io

import numpy as np
from PIL import Image, ImageOps

from roadwork_cascade.engine import EngineError, first_line
from roadwork_cascade.members import Geometry
from roadwork_cascade.prompts import TierImage

_BASE64_MAGIC = (b"/9j/", b"iVBORw0KGgo", b"UklGR")  # JPEG, PNG, WebP
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


async def tier_image(settings: TierImage, image: bytes, canvas: np.ndarray | None, geometry: Geometry | None) -> bytes:
    """Encoded bytes for one tier; the work is done in a thread, because it holds the event loop for milliseconds.

    `image` is what the caller sent; `canvas` UINT8 [1, H, W, 3] and `geometry` are what decoding made of it, None where
    it failed: the tier then gets the original, scaled here. Raises `EngineError` where that cannot be read either.
    """
    if settings.source == "original":
        return _unwrapped(image)
    return await asyncio.to_thread(_scaled, settings, image, canvas, geometry)


def _scaled(settings: TierImage, image: bytes, canvas: np.ndarray | None, geometry: Geometry | None) -> bytes:
    if canvas is not None and geometry is not None:
        picture = Image.fromarray(without_padding(canvas[0], geometry))
    else:
        picture = _decoded(image, settings.max_side)
    return encoded(picture, settings.max_side, settings.quality)


def encoded(picture: Image.Image, max_side: int, quality: int) -> bytes:
    """A JPEG of an RGB picture, scaled down to a longer side of `max_side` pixels; training sees the same."""
    longer = max(picture.size)
    if longer > max_side:
        width, height = (max(1, round(side * max_side / longer)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    # Chroma is kept whole: orange is what cones and signs are told by, and these pictures are small.
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def without_padding(canvas: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The picture on a canvas UINT8 [H, W, 3], without the letterbox's bars; at least one pixel."""
    height, width = canvas.shape[:2]
    left = min(max(round(geometry.pad_x), 0), width - 1)
    top = min(max(round(geometry.pad_y), 0), height - 1)
    right = min(width, left + max(1, round(geometry.width * geometry.scale)))
    bottom = min(height, top + max(1, round(geometry.height * geometry.scale)))
    return canvas[top:bottom, left:right]


def _decoded(image: bytes, side: int) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(_unwrapped(image)), formats=("JPEG", "PNG", "WEBP"))
        picture.draft("RGB", (side, side))
        return ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:  # Pillow raises what it likes for a damaged file
        raise EngineError(f"the image cannot be decoded: {type(error).__name__}: {first_line(error)}") from None


def _unwrapped(image: bytes) -> bytes:
    """The encoded file: callers may send its base64 text, with or without a data URL before it."""
    text = image[image.find(b",", 0, 64) + 1 :] if image[:5].lower() == b"data:" else image
    if not text.lstrip()[:12].startswith(_BASE64_MAGIC):
        return image
    try:
        plain = b"".join(text.split()).translate(_URL_SAFE)
        return base64.b64decode(plain + b"=" * (-len(plain) % 4))
    except ValueError:
        raise EngineError("the image is no base64 text") from None
