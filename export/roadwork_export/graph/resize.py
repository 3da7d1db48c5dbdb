"""From the canvas to a network's input: resizing and normalisation as nodes of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..family import SIDE

Filter = Literal["bilinear", "bicubic"]
RGB_ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""Mean and deviation of networks that want values in [0, 1] as they are."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resize_matrix(target: int, source: int = SIDE, filter: Filter = "bilinear", antialias: bool = True) -> Tensor:
    """Float [target, source]: one axis of torch's resize, which is linear, so that M @ image @ M.T is the resize.

    ONNX's Resize knows antialiasing from opset 18 only, and TensorRT's does not; two matrix products do everywhere.
    """
    unit = torch.eye(source)[None, None]
    if antialias:
        rows = nn.functional.interpolate(unit, (target, source), mode=filter, antialias=True, align_corners=False)
    else:
        rows = nn.functional.interpolate(unit, (target, source), mode=filter, align_corners=False)
    return rows[0, 0]


class Normalise(nn.Module):
    """Canvas uint8 [B, 640, 640, 3] RGB -> float [B, 3, side, side], (value / 255 - mean) / std.

    Args:
        side: of the network's input in pixels.
        mean, std: by channel in RGB order, of values in [0, 1].
        rounded: round to whole levels after resizing each axis, as torchvision and Pillow do with uint8 images.
        antialias: smooth before scaling down, as Pillow does and OpenCV's linear filter does not.
    """

    matrix: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self, side: int, mean: Sequence[float], std: Sequence[float], *, filter: Filter = "bilinear",
        rounded: bool = True, antialias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.resized = side != SIDE
        self.rounded = rounded
        self.register_buffer("matrix", resize_matrix(side, SIDE, filter, antialias) if self.resized else None)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(std).view(1, 3, 1, 1) * 255))

    def forward(self, canvas: Tensor) -> Tensor:
        image = canvas.float().permute(0, 3, 1, 2)  # in this order: TensorRT moves no bytes, it only casts them
        if self.resized:
            image = self.whole(self.matrix @ self.whole(image @ self.matrix.T))
        return (image - self.mean) * self.scale

    def whole(self, image: Tensor) -> Tensor:
        # A half goes up, as in the pipelines, and not to the even level: simple ratios give many halves.
        return (image + 0.5001).floor().clamp(0, 255) if self.rounded else image
