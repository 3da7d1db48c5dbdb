"""The square canvas that all networks look at, for training and evaluation; `decode` makes the served one."""

from __future__ import annotations

import cv2
import numpy as np

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
