"""A keypoint detector: heat map of centres at stride 4 and distances to the four sides.

CenterNet (Zhou et al., 2019, arXiv:1904.07850) with the training of TTFNet (Liu et al., 2020, arXiv:1909.00700).
Peaks are found by a 3x3 maximum, so it needs no box suppression: another family than YOLOX.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .trunk import CSP, Backbone, Conv, DepthwiseConv, TopDown, prediction, upsample

STRIDE = 4


class CenterNetNano(nn.Module):
    """[B, 3, H, W] BGR 0 to 255 -> centre logits [B, C, H/4, W/4] and sides' distances [B, 4, H/4, W/4].

    The distances are to the left, top, right and bottom of the cell's middle, in pixels.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.top_down = TopDown()
        self.reduce = Conv(64, 32)
        self.p2 = CSP(64, 64)
        self.heat = nn.Sequential(DepthwiseConv(64, 64), prediction(64, classes, prior=0.01))
        self.sides = nn.Sequential(DepthwiseConv(64, 64), prediction(64, 4, bias=math.log(10.0)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        c2, c3, c4, c5 = self.backbone(image)
        p3, _, _ = self.top_down(c3, c4, c5)
        p2 = self.p2(torch.cat([upsample(self.reduce(p3)), c2], 1))
        return self.heat(p2).float(), self.sides(p2).float().clamp(-4.0, 6.5).exp()
