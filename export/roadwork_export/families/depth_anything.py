"""Depth Anything V2 (Yang et al., 2024, arXiv:2406.09414) in transformers: how near each part of the picture is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..canvas import some_canvases
from ..classes import ClassMap
from ..errors import WeightsError
from ..family import SIDE, Family, Kind, Source, Weights
from ..graph.resize import IMAGENET, resize_matrix
from ..hub import open_pretrained, open_processor
from ..random_weights import liven
from ..vision import Fixed, normalise_like, side_of
from .dinov2 import SIZES as BACKBONES
from .dinov2 import positions

if TYPE_CHECKING:
    from ..catalogue import Entry

GRID = 80
"""Cells of a side of the answer: eight pixels of the canvas each."""
SIZES: dict[str, tuple[list[int], int, list[int]]] = {
    "small": ([3, 6, 9, 12], 64, [48, 96, 192, 384]),
    "base": ([3, 6, 9, 12], 128, [96, 192, 384, 768]),
    "large": ([5, 12, 18, 24], 256, [256, 512, 1024, 1024]),
}
"""Layers of the backbone that are looked at, width of the fusion, widths of the neck (published configurations)."""
PROCESSOR: dict[str, Any] = {
    "size": {"height": 518, "width": 518}, "ensure_multiple_of": 14, "keep_aspect_ratio": True, "resample": 3,
    "image_mean": list(IMAGENET[0]), "image_std": list(IMAGENET[1]),
}  # fmt: skip


class DepthAnything(Family):
    """Sizes small to large; `layers` in the arguments makes the backbone less deep (a multiple of 4)."""

    name: ClassVar[str] = "depth_anything"
    kind: ClassVar[Kind] = "distance"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

        size = entry.arguments["size"]
        looked, fusion, neck = SIZES[size]
        shape = dict(BACKBONES[size])
        if "layers" in entry.arguments:
            shape["num_hidden_layers"] = entry.arguments["layers"]
            looked = [shape["num_hidden_layers"] * i // 4 for i in (1, 2, 3, 4)]
        settings = {**shape, "out_indices": looked, "reshape_hidden_states": False}
        backbone = Dinov2Config(image_size=518, patch_size=14, **settings)
        config = DepthAnythingConfig(
            backbone_config=backbone, reassemble_hidden_size=shape["hidden_size"], patch_size=14,
            fusion_hidden_size=fusion, neck_hidden_sizes=neck,
        )  # fmt: skip
        model = open_pretrained(DepthAnythingForDepthEstimation, config, weights, entry.name)
        if model.config.depth_estimation_type != "relative":
            raise WeightsError(f"{weights}: answers metres; {entry.name} is relative: near is large")
        processor = open_processor(DPTImageProcessor, weights, **PROCESSOR)
        source = Nearness(model, processor)
        if weights.random:
            liven(model, lambda: None, weights.seed)
            raise_up(model.head.conv3, source.core, source.pre(some_canvases()))
        return source


class Nearness(Source):
    """nearness [80, 80] in [0, 1]: relative inverse depth, 1 what is nearest in this picture, 0 what is furthest."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.pre = normalise_like(processor)
        side = side_of(processor)
        if side % model.config.patch_size:
            raise WeightsError(f"the image processor resizes to {side}, no multiple of {model.config.patch_size}")
        self.side = side
        self.core = Depth(model, positions(model.backbone.embeddings, side))

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(self.side)

    def look(self, canvas: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            said = self.model(**self.processor(images=canvas, return_tensors="pt"))
        found = self.processor.post_process_depth_estimation(said, target_sizes=[(SIDE, SIDE)])[0]["predicted_depth"]
        cell = SIDE // GRID
        map = found.numpy().astype(np.float64).reshape(GRID, cell, GRID, cell).mean((1, 3))
        low, high = map.min(), map.max()
        return ((map - low) / max(high - low, 1e-6)).astype(np.float32)


class Depth(nn.Module):
    """Pixels [B, 3, H, W] -> relative inverse depth [B, H, W], at least 0, larger is nearer."""

    def __init__(self, model: Any, fixed: Fixed) -> None:
        super().__init__()
        self.model, self.fixed = model, fixed

    def forward(self, pixels: Tensor) -> Tensor:
        with self.fixed.in_place():
            depth: Tensor = self.model(pixel_values=pixels).predicted_depth
        return depth


class Decode(nn.Module):
    """Depth [B, side, side] -> nearness [B, 80, 80].

    Its post-processing is a bicubic resize to the canvas; that and the mean over a cell are one linear map an axis.
    """

    matrix: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        resize = resize_matrix(SIDE, side, "bicubic", antialias=False)
        self.register_buffer("matrix", resize.reshape(GRID, SIDE // GRID, side).mean(1))

    def forward(self, depth: Tensor) -> Tensor:
        cells = self.matrix @ depth @ self.matrix.T
        low, high = cells.amin((1, 2), keepdim=True), cells.amax((1, 2), keepdim=True)
        return (cells - low) / (high - low).clamp(min=1e-6)


def raise_up(last: nn.Conv2d, core: nn.Module, pixels: Tensor) -> None:
    """Random depth that is not cut off at 0 in half of the places: its smallest value on some images becomes 1."""
    assert last.bias is not None
    with torch.no_grad():
        last.bias.fill_(1e4)
        low = float(core(pixels).min()) - 1e4
        last.bias.fill_(1.0 - low)
