"""ViT image classifiers (Dosovitskiy et al., 2020, arXiv:2010.11929) in transformers, of the kind that miners of the
subnet fine-tune to the labels None and Roadwork."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..canvas import some_canvases
from ..classes import ClassMap
from ..errors import ExportError, WeightsError
from ..family import Family, Kind, Source, Weights
from ..hub import open_pretrained, open_processor
from ..random_weights import liven
from ..sides import positive_labels
from ..vision import normalise_like

if TYPE_CHECKING:
    from ..catalogue import Entry

LABELS = ("None", "Roadwork")
SIZES: dict[str, dict[str, Any]] = {
    "base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
}


class Vit(Family):
    """Size base; `layers` in the arguments makes it less deep, `sides` names the labels (see `sides.py`)."""

    name: ClassVar[str] = "vit"
    kind: ClassVar[Kind] = "scene"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

        if entry.arguments.get("head"):
            raise ExportError(f"{entry.name} has a head of its own: it takes no --head")
        shape = SIZES[entry.arguments["size"]]
        shape = {**shape, "num_hidden_layers": entry.arguments.get("layers", shape["num_hidden_layers"])}
        config = ViTConfig(id2label=dict(enumerate(LABELS)), **shape)
        model = open_pretrained(ViTForImageClassification, config, weights, entry.name)
        if model.config.num_labels < 2 or model.config.problem_type == "multi_label_classification":
            raise WeightsError(f"{weights}: {entry.name} needs two labels or more that exclude each other")
        processor = open_processor(ViTImageProcessor, weights)
        labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        source = Classifier(model, processor, positive_labels(labels, entry.arguments.get("sides")))
        if weights.random:
            liven(model, lambda: None, weights.seed)
            centre(model.classifier, source.core(source.pre(some_canvases())))
        return source


class Classifier(Source):
    """`positive` are the positions of the labels that mean roadwork."""

    def __init__(self, model: Any, processor: Any, positive: Sequence[int]) -> None:
        self.model, self.processor, self.positive = model, processor, tuple(positive)
        self.pre = normalise_like(processor)
        self.core = Logits(model)

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(self.positive)

    def look(self, canvas: np.ndarray) -> np.ndarray:
        from PIL import Image
        from transformers import ImageClassificationPipeline

        pipeline = ImageClassificationPipeline(model=self.model, image_processor=self.processor, device="cpu")
        wanted = {self.model.config.id2label[i] for i in self.positive}
        said = pipeline(Image.fromarray(canvas), top_k=self.model.config.num_labels)
        return np.array([sum(item["score"] for item in said if item["label"] in wanted)], np.float32)


class Logits(nn.Module):
    """Pixels [B, 3, H, W] -> logits [B, labels]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=pixels).logits
        return logits


class Decode(nn.Module):
    """Logits [B, labels] -> presence [B, 1]: the probability of all labels that mean roadwork."""

    def __init__(self, positive: Sequence[int]) -> None:
        super().__init__()
        self.positive = list(positive)

    def forward(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)[:, self.positive].sum(-1, keepdim=True)


def centre(classifier: nn.Linear, logits: Tensor) -> None:
    """Move random logits [B, labels] of some images around 0, so that neither label always wins, and apart."""
    with torch.no_grad():
        gap = logits - logits.mean(-1, keepdim=True)
        scale = 1.0 / gap.std(0).max().clamp(min=1e-3)
        classifier.bias.copy_((classifier.bias - logits.mean(0)) * scale)
        classifier.weight.mul_(scale)
