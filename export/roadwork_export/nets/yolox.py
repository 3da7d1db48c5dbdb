"""YOLOX-nano: decoupled anchor-free head on three strides (arXiv:2107.08430)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .trunk import Backbone, BottomUp, Conv, DepthwiseConv, TopDown, prediction

STRIDES = (8, 16, 32)


class Level(nn.Module):
    """One stride's head. Rows of the output: class logits, four box numbers, objectness logit."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.stem = Conv(inputs, 64)
        self.cls_convs = nn.Sequential(DepthwiseConv(64, 64), DepthwiseConv(64, 64))
        self.cls_pred = prediction(64, classes, prior=0.01)
        self.reg_convs = nn.Sequential(DepthwiseConv(64, 64), DepthwiseConv(64, 64))
        self.reg_pred = prediction(64, 4)
        self.obj_pred = prediction(64, 1, prior=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        classes = self.cls_pred(self.cls_convs(x))
        r = self.reg_convs(x)
        return torch.cat([classes, self.reg_pred(r), self.obj_pred(r)], 1)


def grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cell corners [A, 2] and strides [A, 1] in pixels for an input of height x width."""
    points, strides = [], []
    for stride in STRIDES:
        ys, xs = torch.meshgrid(
            torch.arange(height // stride, device=device), torch.arange(width // stride, device=device), indexing="ij"
        )
        points.append(torch.stack([xs, ys], -1).reshape(-1, 2).float() * stride)
        strides.append(torch.full((points[-1].shape[0], 1), float(stride), device=device))
    return torch.cat(points), torch.cat(strides)


class YoloxNano(nn.Module):
    """[B, 3, H, W] BGR 0 to 255 -> class logits [B, A, C], boxes x1 y1 x2 y2 in pixels [B, A, 4], objectness [B, A]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.backbone = Backbone()
        self.top_down = TopDown()
        self.bottom_up = BottomUp()
        self.levels = nn.ModuleList(Level(c, classes) for c in (64, 128, 256))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, c3, c4, c5 = self.backbone(image)
        p3, f4, f5 = self.top_down(c3, c4, c5)
        p4, p5 = self.bottom_up(p3, f4, f5)
        rows = torch.cat([level(p).flatten(2) for level, p in zip(self.levels, (p3, p4, p5), strict=True)], 2)
        rows = rows.transpose(1, 2).float()
        points, strides = grid(image.shape[2], image.shape[3], image.device)
        centre = rows[..., self.classes : self.classes + 2] * strides + points
        size = rows[..., self.classes + 2 : self.classes + 4].clamp(max=8.0).exp() * strides
        boxes = torch.cat([centre - size / 2, centre + size / 2], -1)
        return rows[..., : self.classes], boxes, rows[..., -1]
