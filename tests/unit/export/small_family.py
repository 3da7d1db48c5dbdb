"""A family of one small network with random weights, quick to export: eight boxes of two classes on the canvas."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from roadwork_export.classes import ClassMap
from roadwork_export.detr import Decode
from roadwork_export.errors import WeightsError
from roadwork_export.family import SIDE, Family, Found, Kind, Source, Weights
from roadwork_export.graph.boxes import FLOOR, corners
from roadwork_export.graph.resize import RGB_ONE, Normalise
from roadwork_export.random_weights import liven, spread
from torch import Tensor, nn

QUERIES = 8


class Network(nn.Module):
    """Pixels [B, 3, 64, 64] -> class logits [B, 8, 2], boxes [B, 8, 4] as centre and size in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.classes = nn.Linear(128, QUERIES * 2)
        self.boxes = nn.Linear(128, QUERIES * 4)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.body(pixels)
        return self.classes(seen).view(-1, QUERIES, 2), self.boxes(seen).view(-1, QUERIES, 4).sigmoid()


class SmallSource(Source):
    labels = ("cone", "drum")

    def __init__(self, weights: Weights, moved: float) -> None:
        self.moved = moved
        self.core = Network().eval()
        self.pre = Normalise(64, *RGB_ONE)
        liven(self.core, lambda: None, weights.seed)
        spread(self.core.classes, self.core.boxes, seed=weights.seed)

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(classes)

    def look(self, canvas: np.ndarray) -> Found:
        with torch.no_grad():
            logits, boxes = self.core(self.pre(torch.from_numpy(canvas)[None]))
        scores = logits[0].sigmoid().numpy()
        queries, labels = np.nonzero(scores >= FLOOR)
        xyxy = (corners(boxes[0]) * SIDE).numpy()[queries] + self.moved
        return Found(xyxy, scores[queries, labels], labels)


class Small(Family):
    """`arguments["moved"]` makes its own pipeline answer boxes that are off by that many pixels."""

    name: ClassVar[str] = "small"
    kind: ClassVar[Kind] = "boxes"

    def open(self, entry: Any, weights: Weights) -> SmallSource:
        if not weights.random:
            raise WeightsError(f"{weights.source}: not weights of {entry.name}")
        return SmallSource(weights, float(entry.arguments.get("moved", 0.0)))
