"""Networks as ONNX graphs with the contract's tensors: uint8 canvas in, boxes or presence out.

Nothing is left for the caller: channel order, decoding, suppression and top-k are nodes of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from ..graph.boxes import CANDIDATES, TOP, finish, suppress
from .centernet import STRIDE, CenterNetNano
from .scene import SceneNano
from .yolox import YoloxNano

OPSET = 17
"""ONNX Runtime in Triton's images since 23.04 reads it, and TensorRT 8.6 and later."""


def to_network(canvas: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] RGB to float [B, 3, H, W] BGR."""
    return canvas.float().permute(0, 3, 1, 2).flip(1)


class YoloxGraph(nn.Module):
    """canvas -> boxes, scores, classes."""

    def __init__(self, network: YoloxNano) -> None:
        super().__init__()
        self.network = network

    def forward(self, canvas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, boxes, objectness = self.network(to_network(canvas))
        best, classes = logits.sigmoid().max(-1)
        scores, order = (best * objectness.sigmoid()).topk(CANDIDATES, 1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        classes = classes.float().gather(1, order)
        return finish(boxes, suppress(boxes, scores, classes), classes, float(canvas.shape[1]))


class CenterNetGraph(nn.Module):
    """canvas -> boxes, scores, classes."""

    def __init__(self, network: CenterNetNano) -> None:
        super().__init__()
        self.network = network

    def forward(self, canvas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, sides = self.network(to_network(canvas))
        heat, classes = logits.sigmoid().max(1)
        peak = nn.functional.max_pool2d(heat[:, None], 3, 1, 1)[:, 0]
        heat = heat * (heat >= peak).float()
        width = logits.shape[3]
        scores, order = heat.flatten(1).topk(TOP, 1)
        index = order.float()
        row = torch.floor(index / width)
        x, y = (index - row * width + 0.5) * STRIDE, (row + 0.5) * STRIDE
        ltrb = sides.flatten(2).transpose(1, 2).gather(1, order[..., None].expand(-1, -1, 4))
        boxes = torch.stack([x - ltrb[..., 0], y - ltrb[..., 1], x + ltrb[..., 2], y + ltrb[..., 3]], -1)
        classes = classes.flatten(1).float().gather(1, order)
        # A large object may leave several peaks along its length.
        return finish(boxes, suppress(boxes, scores, classes), classes, float(canvas.shape[1]))


class SceneGraph(nn.Module):
    """canvas -> presence [B, 1]."""

    def __init__(self, network: SceneNano) -> None:
        super().__init__()
        self.network = network

    def forward(self, canvas: Tensor) -> Tensor:
        logit, _ = self.network(to_network(canvas))
        return logit.sigmoid()[:, None]


@dataclass(frozen=True)
class Form:
    """How a network becomes a model folder."""

    network: type[nn.Module]
    graph: type[nn.Module]
    outputs: tuple[str, ...]
    title: str


DETECTOR_OUTPUTS = ("boxes", "scores", "classes")
FORMS = {
    "yolox_nano": Form(YoloxNano, YoloxGraph, DETECTOR_OUTPUTS, "YOLOX-nano, anchor-free boxes on strides 8 to 32"),
    "centernet_nano": Form(
        CenterNetNano, CenterNetGraph, DETECTOR_OUTPUTS, "CenterNet, a heat map of centres at stride 4"
    ),
    "scene": Form(SceneNano, SceneGraph, ("presence",), "scene model, pooled local evidence at half size"),
}


def to_onnx(graph: nn.Module, outputs: tuple[str, ...], path: Path, metadata: dict[str, str], size: int = 640) -> None:
    """Write `graph` with a dynamic batch to `path`, checked, with `metadata` in the file.

    Batch norms fold into convolutions (the graph is in evaluation mode). IR version 8, for old runtimes.
    """
    graph.eval()
    canvas = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        graph, (canvas,), str(path), input_names=["canvas"], output_names=list(outputs), opset_version=OPSET,
        dynamic_axes={name: {0: "batch"} for name in ("canvas", *outputs)}, dynamo=False,
    )  # fmt: skip
    model = onnx.load(str(path))
    model.ir_version = 8
    model.producer_name = "roadwork-export"
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
