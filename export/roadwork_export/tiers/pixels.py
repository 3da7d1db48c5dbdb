"""Images to the patches that the vision tower reads, as Qwen's image processor makes them."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from roadwork_cascade.prompts import DEFAULT_QUALITY
from roadwork_cascade.tier_image import encoded
from torch import Tensor

from roadwork_export.canvas import letterbox

from .sizes import CELL, MERGE, PATCH


def grid_for(height: int, width: int, pixels: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches for an image; `pixels`: fewest and most that it may have (smart_resize)."""
    low, high = pixels
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"an image of {width} x {height} pixels is too narrow: the sides' ratio must be at most 200")
    h, w = max(CELL, round(height / CELL) * CELL), max(CELL, round(width / CELL) * CELL)
    if h * w > high:
        beta = math.sqrt(height * width / high)
        h, w = (max(CELL, math.floor(side / beta / CELL) * CELL) for side in (height, width))
    elif h * w < low:
        beta = math.sqrt(low / (height * width))
        h, w = (math.ceil(side * beta / CELL) * CELL for side in (height, width))
    return h // PATCH, w // PATCH


def patches(images: Tensor) -> Tensor:
    """[B, 3, H, W] RGB 0 to 255 -> [B, P, 768] in block order, scaled to -1 to 1; H and W are multiples of 32."""
    b, c, h, w = images.shape
    x = images / 127.5 - 1
    x = x.view(b, c, h // CELL, MERGE, PATCH, w // CELL, MERGE, PATCH)
    return x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(b, -1, c * PATCH * PATCH)


def served(image: np.ndarray, max_side: int) -> np.ndarray:
    """uint8 [H, W, 3] RGB -> what a tier's engine decodes: through the canvas, scaled to `max_side`, JPEG and back."""
    canvas, size, left, top = letterbox(image)
    picture = Image.fromarray(canvas[top : top + size[1], left : left + size[0]])
    data = encoded(picture, max_side, DEFAULT_QUALITY)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def processed(image: np.ndarray, pixels: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """uint8 [H, W, 3] -> patches [1, P, 768] and their grid, as the image processor would (bicubic, antialiased)."""
    rows, columns = grid_for(image.shape[0], image.shape[1], pixels)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    x = torch.nn.functional.interpolate(x, (rows * PATCH, columns * PATCH), mode="bicubic", antialias=True)
    return patches(x.round().clamp(0, 255)), (rows, columns)
