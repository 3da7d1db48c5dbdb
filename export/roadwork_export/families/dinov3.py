"""DINOv3 (Siméoni et al., 2025, arXiv:2508.10104) in transformers, with a presence head on its features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..backbone import BackboneSource
from ..family import Family, Kind, Source, Weights
from ..hub import open_pretrained, open_processor
from ..random_weights import liven, seeded
from ..vision import Fixed, side_of

if TYPE_CHECKING:
    from ..catalogue import Entry

VITS: dict[str, dict[str, Any]] = {
    "vits16": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6},
    "vitb16": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vitl16": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
}
CONVNEXTS: dict[str, dict[str, Any]] = {
    "convnext_tiny": {"depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768]},
    "convnext_small": {"depths": [3, 3, 27, 3], "hidden_sizes": [96, 192, 384, 768]},
    "convnext_base": {"depths": [3, 3, 27, 3], "hidden_sizes": [128, 256, 512, 1024]},
    "convnext_large": {"depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]},
}
"""What each differs in from transformers' default (published configurations)."""
REGISTERS = 4


class DinoV3(Family):
    """Sizes vits16 to vitl16 and convnext_tiny to convnext_large; `layers` in the arguments makes a ViT less deep,
    `head` names the file of a head."""

    name: ClassVar[str] = "dinov3"
    kind: ClassVar[Kind] = "scene"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        from transformers import DINOv3ViTImageProcessor

        size = entry.arguments["size"]
        processor = open_processor(DINOv3ViTImageProcessor, weights)
        model, skipped = (vit if size in VITS else convnext)(entry, weights)
        if weights.random:
            revive(model, weights.seed)
        fixed = rotations(model, side_of(processor)) if size in VITS else None
        # Its processor resizes values in [0, 1], not whole levels.
        source = BackboneSource(entry.name, model, processor, skipped=skipped, rounded=False, fixed=fixed)
        source.take_head(entry.arguments, weights.seed if weights.random else None)
        return source


def vit(entry: Entry, weights: Weights) -> tuple[Any, int]:
    """The model, and how many tokens come before its patches: the class token and the registers."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    shape = VITS[entry.arguments["size"]]
    shape = {**shape, "num_hidden_layers": entry.arguments.get("layers", shape["num_hidden_layers"])}
    config = DINOv3ViTConfig(num_register_tokens=REGISTERS, **shape)
    model = open_pretrained(DINOv3ViTModel, config, weights, entry.name)
    return model, 1 + model.config.num_register_tokens


def convnext(entry: Entry, weights: Weights) -> tuple[Any, int]:
    """The model, and 1: it puts the mean of its patches before them, in place of a class token."""
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    config = DINOv3ConvNextConfig(**CONVNEXTS[entry.arguments["size"]])
    return open_pretrained(DINOv3ConvNextModel, config, weights, entry.name), 1


def rotations(model: Any, side: int) -> Fixed:
    """Cosines and sines of its rotary position embedding for a square input of `side` pixels."""
    with torch.no_grad():
        answer = model.rope_embeddings(torch.empty(1, 3, side, side))
    return Fixed(model.rope_embeddings, "forward", answer)


def revive(model: Any, seed: int) -> None:
    """Random weights that let every block count: a fresh ConvNeXt multiplies each by 1e-6."""
    liven(model, lambda: None, seed)
    with seeded(seed), torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("gamma"):
                weight.uniform_(0.1, 0.5)
