"""DINOv2 (Oquab et al., 2023, arXiv:2304.07193) in transformers, with a presence head on its features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..backbone import BackboneSource
from ..family import Family, Kind, Source, Weights
from ..graph.resize import IMAGENET
from ..hub import open_pretrained, open_processor
from ..random_weights import liven
from ..vision import Fixed, side_of

if TYPE_CHECKING:
    from ..catalogue import Entry

SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}
"""Published configurations; all have patches of 14 pixels and were trained up to a side of 518."""
PROCESSOR: dict[str, Any] = {
    "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3,
    "image_mean": list(IMAGENET[0]), "image_std": list(IMAGENET[1]),
}  # fmt: skip
"""As published: it cuts a sixteenth off each side of the canvas."""


def positions(embeddings: Any, side: int) -> Fixed:
    """Its position embeddings for a square input of `side` pixels: trained for 518, they are resized to any other."""
    tokens = torch.empty(1, (side // embeddings.patch_size) ** 2 + 1, embeddings.position_embeddings.shape[-1])
    with torch.no_grad():
        answer = embeddings.interpolate_pos_encoding(tokens, side, side)
    return Fixed(embeddings, "interpolate_pos_encoding", answer)


class DinoV2(Family):
    """Sizes small, base and large; `layers` in the arguments makes it less deep, `head` names the file of a head."""

    name: ClassVar[str] = "dinov2"
    kind: ClassVar[Kind] = "scene"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

        shape = SIZES[entry.arguments["size"]]
        shape = {**shape, "num_hidden_layers": entry.arguments.get("layers", shape["num_hidden_layers"])}
        model = open_pretrained(Dinov2Model, Dinov2Config(image_size=518, patch_size=14, **shape), weights, entry.name)
        processor = open_processor(BitImageProcessor, weights, **PROCESSOR)
        if weights.random:
            liven(model, lambda: None, weights.seed)
        fixed = positions(model.embeddings, side_of(processor))
        source = BackboneSource(entry.name, model, processor, skipped=1, fixed=fixed)
        source.take_head(entry.arguments, weights.seed if weights.random else None)
        return source
