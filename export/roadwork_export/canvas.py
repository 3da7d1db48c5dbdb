"""The square canvas that all networks look at, for training and evaluation; `decode` makes the served one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .errors import CheckError

if TYPE_CHECKING:
    import torch

SIDE = 640
PADDING = 114


def letterbox(image: np.ndarray, scale: float | None = None) -> tuple[np.ndarray, tuple[int, int], int, int]:
    """Canvas uint8 [640, 640, 3] with `image` uint8 [H, W, 3] in its middle; its size there, pad_x and pad_y in pixels.

    `scale` is canvas pixels per image pixel; None makes the image as large as fits.
    """
    height, width = image.shape[:2]
    if scale is None:
        scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = np.full((SIDE, SIDE, 3), PADDING, np.uint8)
    left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=interpolation)
    return canvas, size, left, top


IMAGES = (".jpg", ".jpeg", ".png", ".webp")
SCENE_SEED = 9_000_000
"""First seed of the scenes that files are checked on; training uses none near it."""


LOOK_SEED = 9_100_000


@functools.lru_cache(maxsize=4)
def rendered(count: int, seed: int = SCENE_SEED) -> tuple[np.ndarray, ...]:
    """Canvases of scenes that the project draws itself."""
    from .scenes import render_scene

    return tuple(letterbox(render_scene(seed + i, width=640, height=400).image)[0] for i in range(count))


@functools.lru_cache(maxsize=1)
def some_canvases() -> torch.Tensor:
    """Two rendered canvases uint8 [2, 640, 640, 3] for what has to look at something, not to check by."""
    import torch

    return torch.from_numpy(np.stack(rendered(2, LOOK_SEED)))


def photographed(folder: Path, count: int) -> tuple[np.ndarray, ...]:
    """Canvases of the first `count` images in a folder, in the order of their names.

    Raises:
        CheckError: it holds none, or one cannot be read.
    """
    if not folder.is_dir():
        raise CheckError(f"{folder}: not a folder of images")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)[:count]
    if not paths:
        raise CheckError(f"{folder}: holds no image ({', '.join(IMAGES)})")
    return tuple(read_canvas(path) for path in paths)


def read_canvas(path: Path) -> np.ndarray:
    """uint8 [640, 640, 3]. Raises CheckError where the file is no image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise CheckError(f"{path}: not an image that can be read")
    return letterbox(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))[0]
