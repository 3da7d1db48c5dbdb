"""Turns base64 text into pictures, with limits that are checked before memory is spent."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError
from vllm_request import RequestError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MIB = 1 << 20
Image.MAX_IMAGE_PIXELS = None  # Limits.pixels takes its place


@dataclass(frozen=True)
class Limits:
    """Most that one request may bring.

    Attributes:
        count: images, `limit_mm_per_prompt` of model.json.
        bytes: of one encoded file; parameter `max_image_bytes` of config.pbtxt.
        pixels: of one image; parameter `max_image_pixels` of config.pbtxt.
    """

    count: int = 1
    bytes: int = 20 * MIB
    pixels: int = 50_000_000


def read_limits(parameters: Mapping[str, str], count: int) -> Limits:
    """Limits of a model.

    Args:
        parameters: of config.pbtxt, name -> text.
        count: images that the engine takes.

    Raises:
        ValueError: a limit is no whole number over 0.
    """
    found = {}
    for key in ("bytes", "pixels"):
        text = parameters.get(f"max_image_{key}")
        if text is None:
            continue
        if not text.isdigit() or int(text) < 1:
            raise ValueError(f"parameter max_image_{key} in config.pbtxt is a whole number over 0, got {text!r}")
        found[key] = int(text)
    return Limits(count=count, **found)


def check_images(images: list[bytes], limits: Limits) -> None:
    """Raise RequestError when there are too many images or one is too long; decodes nothing."""
    if len(images) > limits.count:
        raise RequestError(
            f"image: {len(images)} images, and this model takes {limits.count} (limit_mm_per_prompt in model.json)"
        )
    for index, text in enumerate(images):
        size = len(text) * 3 // 4
        if size > limits.bytes + 2:
            raise RequestError(
                f"image[{index}]: is {size} bytes, the limit is {limits.bytes} (max_image_bytes in config.pbtxt)"
            )


def decode_image(text: bytes, index: int, limits: Limits) -> Any:
    """An RGB `PIL.Image`; as in NVIDIA's backend the file's orientation is not applied.

    Args:
        text: base64 of an encoded file.
        index: of the image in its request, for messages.
        limits: its pixels are looked at before anything is decoded.

    Raises:
        RequestError: no base64, no picture, too large or cut off.
    """
    picture = open_image(text, index, limits)
    try:
        return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise RequestError(f"image[{index}]: cannot be decoded ({error})") from None


def open_image(text: bytes, index: int, limits: Limits) -> Any:
    """A `PIL.Image` of which only the header is read. Args and errors as `decode_image`, except that a file that is cut
    off goes through.
    """
    where = f"image[{index}]"
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{where}: is not base64 text ({error})") from None
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise RequestError(f"{where}: is not an image in a known format ({', '.join(FORMATS)})") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise RequestError(f"{where}: cannot be read ({error})") from None
    width, height = picture.size
    if width * height > limits.pixels:
        raise RequestError(
            f"{where}: has {width} x {height} = {width * height} pixels, the limit is {limits.pixels} "
            "(max_image_pixels in config.pbtxt)"
        )
    return picture
