"""CSPDarknet and PAFPN of YOLOX-nano (Ge et al., 2021, arXiv:2107.08430; Apache-2.0), depthwise, SiLU.

Layers run in the order in which the published ONNX graph runs them, so that `roadwork_export.nets.coco`
can copy its weights by position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def prediction(inputs: int, outputs: int, prior: float | None = None, bias: float = 0.0) -> nn.Conv2d:
    """A 1x1 convolution with a bias; with `prior` its sigmoid starts there, as focal-loss heads do."""
    layer = nn.Conv2d(inputs, outputs, 1)
    start = math.log(prior / (1 - prior)) if prior is not None else bias
    with torch.no_grad():
        layer.bias.fill_(start)  # type: ignore[union-attr]
    return layer


class Conv(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.SiLU(inplace=True),
        )


class DepthwiseConv(nn.Sequential):
    """A depthwise 3x3 convolution, then a pointwise one."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(Conv(inputs, inputs, 3, stride, groups=inputs), Conv(inputs, outputs))


class Bottleneck(nn.Module):
    """1x1, then depthwise 3x3, with a shortcut on demand."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.first = Conv(channels, channels)
        self.second = DepthwiseConv(channels, channels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


class CSP(nn.Module):
    """Cross-stage partial block with `depth` bottlenecks."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        hidden = outputs // 2
        self.main = Conv(inputs, hidden)
        self.side = Conv(inputs, hidden)
        self.blocks = nn.Sequential(*(Bottleneck(hidden, shortcut) for _ in range(depth)))
        self.join = Conv(2 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        main, side = self.main(x), self.side(x)
        return self.join(torch.cat([self.blocks(main), side], 1))


class Focus(nn.Module):
    """Every second pixel into channels, then a 3x3 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv(12, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        # The published order: top left, bottom left, top right, bottom right.
        parts = [x[..., 0::2, 0::2], x[..., 1::2, 0::2], x[..., 0::2, 1::2], x[..., 1::2, 1::2]]
        return self.conv(torch.cat(parts, 1))


class SPP(nn.Module):
    """Spatial pyramid pooling with windows of 5, 9 and 13."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = Conv(256, 128)
        self.join = Conv(512, 256)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        pooled = [nn.functional.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)]
        return self.join(torch.cat([x, *pooled], 1))


class Backbone(nn.Module):
    """[B, 3, H, W] BGR in [0, 255] to features of strides 4 (32 channels), 8 (64), 16 (128) and 32 (256)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Focus()
        self.dark2 = nn.Sequential(DepthwiseConv(16, 32, 2), CSP(32, 32, 1, True))
        self.dark3 = nn.Sequential(DepthwiseConv(32, 64, 2), CSP(64, 64, 3, True))
        self.dark4 = nn.Sequential(DepthwiseConv(64, 128, 2), CSP(128, 128, 3, True))
        self.dark5 = nn.Sequential(DepthwiseConv(128, 256, 2), SPP(), CSP(256, 256, 1, False))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c2 = self.dark2(self.stem(x))
        c3 = self.dark3(c2)
        c4 = self.dark4(c3)
        return c2, c3, c4, self.dark5(c4)


def upsample(x: Tensor) -> Tensor:
    """Nearest neighbour, twice the size."""
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


class TopDown(nn.Module):
    """The upper half of PAFPN: stride 8 (64 channels), and what the lower half needs."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = Conv(256, 128)
        self.p4 = CSP(256, 128)
        self.reduce = Conv(128, 64)
        self.p3 = CSP(128, 64)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f5 = self.lateral(c5)
        f4 = self.reduce(self.p4(torch.cat([upsample(f5), c4], 1)))
        p3 = self.p3(torch.cat([upsample(f4), c3], 1))
        return p3, f4, f5


class BottomUp(nn.Module):
    """The lower half of PAFPN: strides 16 (128 channels) and 32 (256)."""

    def __init__(self) -> None:
        super().__init__()
        self.down3 = DepthwiseConv(64, 64, 2)
        self.n3 = CSP(128, 128)
        self.down4 = DepthwiseConv(128, 128, 2)
        self.n4 = CSP(256, 256)

    def forward(self, p3: Tensor, f4: Tensor, f5: Tensor) -> tuple[Tensor, Tensor]:
        p4 = self.n3(torch.cat([self.down3(p3), f4], 1))
        p5 = self.n4(torch.cat([self.down4(p4), f5], 1))
        return p4, p5
