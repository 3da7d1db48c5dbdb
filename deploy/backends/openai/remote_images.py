"""Checks a picture's file and hands it on as it is, in a data URL: the server decodes it."""

from __future__ import annotations

from PIL import Image
from vllm_images import Limits, open_image


def data_url(text: bytes, index: int, limits: Limits) -> str:
    """`data:image/jpeg;base64,...` of an encoded file.

    Args:
        text: base64 of the file.
        index: of the image in its request, for messages.
        limits: its pixels are looked at; the header alone is read.

    Raises:
        RequestError: no base64, no picture, or too large.
    """
    with open_image(text, index, limits) as picture:
        kind = Image.MIME[str(picture.format)]
    return f"data:{kind};base64,{text.decode('ascii')}"
