"""What the detectors of transformers have in common that answer logits and boxes for a set of queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .classes import ClassMap
from .family import SIDE, Found, Source
from .graph.boxes import FLOOR, BestPairs, corners
from .graph.resize import RGB_ONE, Normalise


class DetrSource(Source):
    """A transformers detector whose processor has `post_process_object_detection` and whose scores are sigmoids."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.labels = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else RGB_ONE
        self.pre = Normalise(processor.size["height"], mean, std)
        self.core = Answers(model)

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(classes)

    def look(self, canvas: np.ndarray) -> Found:
        with torch.no_grad():
            outputs = self.model(**self.processor(images=canvas, return_tensors="pt"))
        found = self.processor.post_process_object_detection(outputs, threshold=FLOOR, target_sizes=[(SIDE, SIDE)])[0]
        return Found(found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy())


class Answers(nn.Module):
    """Pixels [B, 3, H, W] -> class logits [B, N, labels] and boxes [B, N, 4] as centre and size in [0, 1]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model(pixel_values=pixels)
        return outputs.logits, outputs.pred_boxes


class Decode(nn.Module):
    """Those answers -> the contract's boxes, scores, classes."""

    def __init__(self, classes: ClassMap) -> None:
        super().__init__()
        self.best = BestPairs(classes)

    def forward(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.best(corners(boxes) * SIDE, logits.sigmoid())
