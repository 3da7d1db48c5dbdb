"""Random weights that make a network answer differently to different images and places.

A freshly made network does not: its class heads all say 0.01, its box heads 0, its norms expect what they never saw.
Comparing two programs on such answers proves little, because hundreds of equal scores can be ordered in any way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch from `seed` on; afterwards as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def liven(network: nn.Module, look: Callable[[], Any], seed: int, *, gain: float = 1.0) -> None:
    """Weights of variance gain^2 / fan-in everywhere, biases small, then batch norms that know what `look` shows.

    Args:
        look: runs the network on some images; called twice where there are batch norms.
    """
    with seeded(seed), torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, LAYERS):
                layer.weight.normal_(0.0, gain * fan_in(layer.weight) ** -0.5)
                if layer.bias is not None:
                    layer.bias.normal_(0.0, 0.1)
        settle(network, look)


def settle(network: nn.Module, look: Callable[[], Any]) -> None:
    """Set the batch norms' running statistics to those of what `look` shows."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
        norm.train()
    try:
        with torch.no_grad():
            look()
    finally:
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.eval()


def spread(*heads: nn.Module, seed: int, gain: float = 2.0, bias: float = 0.0) -> None:
    """Give last layers (linear or convolution) answers of deviation `gain` around `bias` for inputs of deviation 1."""
    with seeded(seed), torch.no_grad():
        for head in heads:
            assert isinstance(head, LAYERS), type(head)
            head.weight.normal_(0.0, gain * fan_in(head.weight) ** -0.5)
            if head.bias is not None:
                head.bias.fill_(bias)


def fan_in(weight: torch.Tensor) -> int:
    """Inputs that each output sums."""
    return max(1, weight[0].numel())
