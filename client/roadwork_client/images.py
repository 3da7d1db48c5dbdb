"""From whatever the caller has to the bytes that travel."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from roadwork_client.errors import InvalidImage

ImageLike: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str] | Image.Image | np.ndarray"

# What folders are searched for; the server reads these formats.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

# JPEG at 95 without chroma subsampling: a 1080p frame takes about a tenth of PNG's time and size, and differs from
# the pixels by less than what cameras' own JPEG has already lost.
JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}
# What JPEG cannot hold (alpha, 16 bit) goes losslessly; level 1, because the time counts and not the size.
PNG: dict[str, Any] = {"format": "PNG", "compress_level": 1}


def encode(image: ImageLike) -> bytes:
    """The bytes that are sent for `image`.

    Bytes and files go as they are. PIL images and arrays are pixels: they are turned upright (EXIF) and encoded,
    JPEG where it can hold them and else PNG. Arrays are RGB, [height, width], [height, width, 3] or
    [height, width, 4] of uint8, or [height, width] of uint16.

    Raise InvalidImage where that is not possible.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
    elif isinstance(image, (str, os.PathLike)):
        data = _read(Path(image))
    elif isinstance(image, np.ndarray):
        data = _encode_pixels(_from_array(image))
    elif isinstance(image, Image.Image):
        data = _encode_pixels(image)
    else:
        raise InvalidImage(f"cannot send a {type(image).__name__}: give bytes, a path, a PIL image or a NumPy array")
    if not data:
        raise InvalidImage("the image is empty (0 bytes)")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidImage(f"cannot read {path}: {error.strerror or error}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    grey = array.ndim == 2
    colour = array.ndim == 3 and array.shape[2] in (3, 4)
    if 0 in array.shape or not (grey or colour):
        raise InvalidImage(
            f"an array of shape {list(array.shape)} is no image: give [height, width], [height, width, 3] "
            "or [height, width, 4]"
        )
    if array.dtype != np.uint8 and not (grey and array.dtype == np.uint16):
        raise InvalidImage(
            f"an array of {array.dtype} is no image: give uint8 values from 0 to 255 (uint16 for greyscale)"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _encode_pixels(image: Image.Image) -> bytes:
    try:
        # The encoded file carries no orientation, and boxes are meant in pixels of the upright image.
        upright = _sendable(ImageOps.exif_transpose(image))
        buffer = io.BytesIO()
        upright.save(buffer, **(JPEG if upright.mode in ("RGB", "L") else PNG))
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise InvalidImage(f"cannot encode this image ({image.mode}, {image.width}x{image.height}): {error}") from error
    return buffer.getvalue()


def _sendable(image: Image.Image) -> Image.Image:
    """`image` in a mode that JPEG or PNG can hold without losing what the server looks at."""
    if image.mode in ("RGB", "L", "RGBA", "LA", "I;16"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "I":
        return image.convert("I;16")
    if image.mode == "F":
        raise ValueError("pixels are floating point numbers; convert them to 8 bit")
    if image.mode in ("P", "PA") and (image.mode == "PA" or "transparency" in image.info):
        return image.convert("RGBA")
    return image.convert("RGB")
