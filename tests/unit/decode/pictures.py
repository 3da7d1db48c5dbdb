"""Encoded pictures that tests draw for themselves."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def quarters(width: int, height: int) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    pixels[:top, :left] = 255, 0, 0
    pixels[:top, left:] = 0, 255, 0
    pixels[top:, :left] = 0, 0, 255
    pixels[top:, left:] = 255, 255, 255
    return Image.fromarray(pixels)


def street(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
    """Smooth noise: it compresses like a photograph and has no two like pixels."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
