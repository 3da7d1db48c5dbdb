"""Start a network from the published YOLOX-nano COCO weights (Apache-2.0, Megvii), read from their ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn


def trunk_convolutions(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of the ONNX file's convolutions in running order, predictions left out.

    The file has batch norm folded into the convolutions, so every one of them has a bias.
    """
    graph = onnx.load(str(path)).graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    return [
        (values[node.input[1]], values[node.input[2]])
        for node in graph.node
        if node.op_type == "Conv" and "_preds." not in node.input[1]
    ]


@torch.no_grad()
def start_from_coco(network: nn.Module, path: Path, images: Tensor) -> int:
    """Copy what fits, in running order, and return how many convolutions were copied.

    `images` ([B, 3, H, W], BGR, 0 to 255) run once through the network: the folded batch norms are made anew from
    the statistics that they meet, so that each layer computes what the published one did and can still be trained
    with batch statistics.
    """
    convolutions = iter(trunk_convolutions(path))
    copied = 0
    expecting = True

    def load(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> bool:
        pair = next(convolutions, None)
        if pair is None or pair[0].shape != tuple(conv.weight.shape):
            return False
        weight, bias = pair
        conv.weight.copy_(torch.from_numpy(weight.copy()))
        y = conv(x)
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(torch.from_numpy(bias.copy()).to(mean) + mean)
        return True

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal copied, expecting
        if expecting:
            expecting = load(module[0], module[1], inputs[0])  # type: ignore[index]
            copied += expecting

    hooks = [m.register_forward_pre_hook(before) for m in network.modules() if type(m).__name__ == "Conv"]
    training = network.training
    network.eval()
    network(images)
    network.train(training)
    for hook in hooks:
        hook.remove()
    if copied == 0:
        raise ValueError(f"{path}: no convolution fits; is this the YOLOX-nano ONNX file?")
    return copied
