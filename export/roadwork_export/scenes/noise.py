"""Noise textures, made once for each process from fixed seeds and cropped at random places."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 1024


def unit(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero mean, unit variance."""
    return ((field - field.mean()) / (field.std() + 1e-6)).astype(np.float32)


@lru_cache(maxsize=8)
def bank(kind: str) -> NDArray[np.float32]:
    """`fine`: white noise; `grain`: soft speckle; `cloud`: fractal with most power in low frequencies."""
    rng = np.random.default_rng({"fine": 11, "grain": 12, "cloud": 13}[kind])
    white = rng.standard_normal((SIZE, SIZE)).astype(np.float32)
    if kind == "fine":
        return white
    if kind == "grain":
        return unit(np.asarray(cv2.GaussianBlur(white, (0, 0), 0.9), np.float32))
    total = np.zeros((SIZE, SIZE), np.float32)
    for octave in range(2, 9):
        cells = 2**octave
        small = rng.standard_normal((cells, cells)).astype(np.float32)
        total += cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) / cells**0.8
    return unit(total)


def crop(kind: str, height: int, width: int, rng: np.random.Generator, zoom: float = 1.0) -> NDArray[np.float32]:
    """A [height, width] piece of a bank, magnified `zoom` times (float32, about N(0, 1))."""
    rows, columns = (min(SIZE, max(2, int(side / zoom) + 1)) for side in (height, width))
    top, left = int(rng.integers(0, SIZE - rows + 1)), int(rng.integers(0, SIZE - columns + 1))
    piece = bank(kind)[top : top + rows, left : left + columns]
    if piece.shape != (height, width):
        piece = np.asarray(cv2.resize(piece, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return piece


@lru_cache(maxsize=8)
def bank8(kind: str) -> NDArray[np.uint8]:
    """A bank in 8 bits: 128 is zero, 32 is one standard deviation."""
    return np.clip(bank(kind) * 32 + 128, 0, 255).astype(np.uint8)
