"""Scene models that are a frozen backbone of transformers and a linear head on its features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .canvas import some_canvases
from .classes import ClassMap
from .errors import ExportError
from .family import Source
from .head import Head, probe_canvas, read_head, same_backbone
from .vision import Fixed, normalise_like


class BackboneSource(Source):
    """A backbone and, where there is one, the head.

    `core` gives features float [B, 2 D]: the model's pooled token beside the mean of its patches.

    Args:
        name: in the catalogue, to tell heads of other models.
        skipped: tokens before the first patch.
        rounded: see `normalise_like`.
        fixed: what depends on the size of the input alone.
    """

    def __init__(
        self, name: str, model: Any, processor: Any, *, skipped: int, rounded: bool = True, fixed: Fixed | None = None
    ) -> None:
        self.name, self.model, self.processor, self.skipped = name, model, processor, skipped
        self.pre = normalise_like(processor, rounded=rounded)
        self.core = Features(model, skipped, fixed)
        self.head: Head | None = None
        self.device = torch.device("cpu")

    def take_head(self, arguments: Mapping[str, Any], seed: int | None) -> None:
        """The head that `arguments` name; without one, and with a seed, a random one.

        Raises:
            WeightsError: it cannot be read, or was fitted on another backbone.
            ExportError: there are prompts or labels, which a head has not.
        """
        if arguments.get("sides"):
            raise ExportError(f"{self.name} answers by its head, it takes no --classes")
        path = arguments.get("head")
        if path is not None:
            head = read_head(Path(path))
            same_backbone(head, Path(path), self.name, self.features_of(probe_canvas()[None])[0])
            self.head = head
        elif seed is not None:
            self.head = random_head(self.name, self.features_of(some_canvases().numpy()), seed)

    def move(self, device: str) -> None:
        self.device = torch.device(device)
        self.pre.to(self.device)
        self.core.to(self.device)

    def features_of(self, canvases: np.ndarray) -> np.ndarray:
        """Features float32 [B, 2 D] of canvases uint8 [B, 640, 640, 3]."""
        with torch.no_grad():
            found: np.ndarray = self.core(self.pre(torch.from_numpy(canvases).to(self.device))).cpu().numpy()
        return found

    def fitted(self) -> Head:
        """Raises ExportError where there is no head."""
        if self.head is None:
            raise ExportError(
                f"{self.name} is a backbone, it needs a head: fit one with roadwork-export fit-head IMAGES --model "
                f"{self.name}, then give it with --head"
            )
        return self.head

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(self.fitted())

    def look(self, canvas: np.ndarray) -> np.ndarray:
        head = self.fitted()
        with torch.no_grad():
            said = self.model(**self.processor(images=canvas, return_tensors="pt"))
        patches = said.last_hidden_state[0, self.skipped :].numpy()
        feature = np.concatenate([said.pooler_output[0].numpy(), patches.mean(0)])
        return head.presence(feature[None])


class Features(nn.Module):
    """Pixels [B, 3, H, W] -> pooled token and mean of the patches, [B, 2 D]."""

    def __init__(self, model: nn.Module, skipped: int, fixed: Fixed | None) -> None:
        super().__init__()
        self.model, self.skipped, self.fixed = model, skipped, fixed

    def forward(self, pixels: Tensor) -> Tensor:
        if self.fixed is None:
            said = self.model(pixel_values=pixels)
        else:
            with self.fixed.in_place():
                said = self.model(pixel_values=pixels)
        return torch.cat([said.pooler_output, said.last_hidden_state[:, self.skipped :].mean(1)], -1)


class Decode(nn.Module):
    """Those features -> presence [B, 1]."""

    weight: Tensor

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(head.weight)[:, None])
        self.bias = head.bias

    def forward(self, features: Tensor) -> Tensor:
        return (features[:, : self.weight.shape[0]] @ self.weight + self.bias).sigmoid()


def random_head(name: str, features: np.ndarray, seed: int) -> Head:
    """A head whose answers to the images of these features [B, 2 D] lie around 0.5 and are apart from each other."""
    weight = np.random.default_rng(seed).standard_normal(features.shape[1])
    said = features @ weight
    weight /= max(float(said.std()), 1e-6)
    bias = -float((features @ weight).mean())
    return Head(weight.astype(np.float32), bias, "cls+patches", name, np.zeros(features.shape[1], np.float32), {})
