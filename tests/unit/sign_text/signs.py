"""Street images with a sign, drawn with Pillow's own font."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

ORANGE = (250, 130, 20)


def street_with_sign(
    lines: Sequence[str],
    *,
    size: tuple[int, int] = (960, 540),
    letter: int = 40,
    centre: tuple[int, int] | None = None,
    ground: tuple[int, int, int] = ORANGE,
) -> Image.Image:
    """A grey street with one sign of these lines; `letter` is the height of the font in pixels."""
    image = Image.new("RGB", size, (120, 130, 140))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, size[1] * 2 // 3, *size), fill=(75, 75, 78))
    font = ImageFont.load_default(letter)
    x, y = centre or (size[0] // 2, size[1] // 2)
    step = letter * 1.3
    width = max(draw.textlength(line, font=font) for line in lines) / 2 + letter
    height = step * len(lines) / 2 + letter / 2
    draw.rectangle((x - width, y - height, x + width, y + height), fill=ground, outline=(0, 0, 0), width=4)
    for index, line in enumerate(lines):
        draw.text((x, y + (index - (len(lines) - 1) / 2) * step), line, fill=(0, 0, 0), font=font, anchor="mm")
    return image


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
