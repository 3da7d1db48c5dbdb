"""Is there roadwork anywhere? A map of local evidence at half size, pooled over its strongest cells.

Pooling local evidence, instead of describing the whole image, leaves the network no way to answer by recognising
the camera: it must point at something.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .trunk import Backbone, DepthwiseConv, TopDown, prediction

STRONGEST = 4


class SceneNano(nn.Module):
    """[B, 3, H, W] BGR 0 to 255 -> presence logit [B], evidence logits [B, H/16, W/16]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.top_down = TopDown()
        self.evidence = nn.Sequential(DepthwiseConv(64, 64), prediction(64, 1, prior=0.05))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.shift = nn.Parameter(torch.tensor(0.0))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        half = nn.functional.avg_pool2d(image, 2)
        _, c3, c4, c5 = self.backbone(half)
        p3, _, _ = self.top_down(c3, c4, c5)
        evidence = self.evidence(p3).float().flatten(1)
        strongest = evidence.topk(STRONGEST, 1).values.mean(1)
        side = (image.shape[2] // 16, image.shape[3] // 16)
        return strongest * nn.functional.softplus(self.scale) + self.shift, evidence.reshape(-1, *side)
