"""OWLv2 (Minderer et al., 2023, arXiv:2306.09683) in transformers, its prompts baked in.

Text and image meet in a product at the very end, so the prompts are encoded once and only the image's side is in the
graph. Each of the image's patches gives one box with its best prompt, as in transformers' own post-processing, which
suppresses no duplicates; neither does this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..canvas import some_canvases
from ..classes import ClassMap
from ..errors import WeightsError
from ..family import SIDE, Family, Found, Kind, Source, Weights
from ..graph.boxes import FLOOR, TOP, BestBoxes, corners
from ..graph.resize import Normalise
from ..hub import open_pretrained, open_processor
from ..prompts import fits, prompts_of, stand_in_tokenizer
from ..random_weights import liven, spread

if TYPE_CHECKING:
    from ..catalogue import Entry

SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "base": ({"image_size": 960}, {}, 512),
    "large": (
        {
            "image_size": 1008, "patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 24, "num_attention_heads": 16,
        },
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        768,
    ),
}  # fmt: skip
"""What the image's and the text's side differ in from transformers' default, and the width in which they meet
(published configurations; base is patch 16, large patch 14)."""
SPECIAL = {"!": 0, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
"""Numbers of CLIP's tokens that the model itself knows. It reads a prompt at its highest number, which ends it."""
TEMPLATE = "a photo of a {}"
"""The words around a prompt: captions are what the text's side was trained on."""


class Owlv2(Family):
    """Sizes base and large. `arguments` may hold `layers` of both sides and `side` of the image, smaller than
    published, for tests."""

    name: ClassVar[str] = "owlv2"
    kind: ClassVar[Kind] = "boxes"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

        prompts = prompts_of(entry)
        vision, text, width = SIZES[entry.arguments["size"]]
        fewer = {"num_hidden_layers": entry.arguments["layers"]} if "layers" in entry.arguments else {}
        side = entry.arguments.get("side", vision["image_size"])
        config = Owlv2Config(
            vision_config={**vision, "image_size": side, **fewer}, text_config={**text, **fewer}, projection_dim=width
        )
        model = open_pretrained(Owlv2ForObjectDetection, config, weights, entry.name)
        length = model.config.text_config.max_position_embeddings
        processor = open_processor(
            Owlv2Processor, weights, image_processor=Owlv2ImageProcessor(size={"height": side, "width": side}),
            tokenizer=stand_in_tokenizer(
                [TEMPLATE.format(prompt) for prompt in prompts], SPECIAL, ("<|startoftext|>", "<|endoftext|>"), "!",
                model_max_length=length,
            ),
        )  # fmt: skip
        if weights.random:
            pre = Normalise(side, (0.5,) * 3, (0.25,) * 3, rounded=False, antialias=False)
            enliven(model, pre(some_canvases()), weights.seed)
        return Owlv2Source(model, processor, prompts, entry.name)


class Owlv2Source(Source):
    def __init__(self, model: Any, processor: Any, prompts: dict[str, str], name: str) -> None:
        self.model, self.processor = model, processor
        self.labels, self.table = tuple(prompts), prompts
        self.texts = [TEMPLATE.format(prompt) for prompt in prompts]
        for prompt, text in zip(prompts, self.texts, strict=True):
            most = model.config.text_config.max_position_embeddings
            fits(prompt, len(processor.tokenizer(text, truncation=False)["input_ids"]), most, name)
        images = processor.image_processor
        side = images.size["height"]
        if side < SIDE:
            raise WeightsError(f"{name}: looks at {side} pixels, but its way of scaling down from {SIDE} is not built")
        # This processor scales floats, not whole levels, and does not smooth where it enlarges.
        self.pre = Normalise(side, images.image_mean, images.image_std, rounded=False, antialias=False)
        text = processor(text=[self.texts], return_tensors="pt")
        with torch.no_grad():
            prompts_seen = model.owlv2.get_text_features(**text)
        self.core = Answers(model, getattr(prompts_seen, "pooler_output", prompts_seen))

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(classes, len(self.labels))

    def look(self, canvas: np.ndarray) -> Found:
        with torch.no_grad():
            outputs = self.model(**self.processor(images=canvas, text=[self.texts], return_tensors="pt"))
        found = self.processor.post_process_grounded_object_detection(
            outputs, threshold=FLOOR, target_sizes=[(SIDE, SIDE)]
        )[0]
        return Found(found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy())


class Answers(nn.Module):
    """Pixels [B, 3, H, W] -> logits [B, N, prompts] and boxes [B, N, 4] as centre and size in [0, 1]."""

    prompts: Tensor

    def __init__(self, model: Any, prompts: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("prompts", (prompts / prompts.norm(dim=-1, keepdim=True))[None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.model.image_embedder(pixel_values=pixels)[0]
        patches = seen.flatten(1, 2)
        logits = self.model.class_predictor(patches, self.prompts)[0]
        return logits, self.model.box_predictor(patches, seen)


class Decode(nn.Module):
    """Those answers -> the contract's boxes, scores, classes."""

    def __init__(self, classes: ClassMap, prompts: int) -> None:
        super().__init__()
        self.best = BestBoxes(classes, prompts, candidates=TOP, rounds=0)

    def forward(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.best(corners(boxes) * SIDE, logits.sigmoid())


def enliven(model: Any, pixels: Tensor, seed: int) -> None:
    """Random weights whose answers to `pixels` differ from place to place and between prompts."""
    liven(model, lambda: None, seed)
    head = model.class_head
    spread(head.logit_scale, seed=seed, gain=2.0, bias=40.0)
    spread(head.logit_shift, seed=seed, gain=0.02, bias=-0.12)
    spread(model.box_head.dense2, seed=seed, gain=2.0, bias=0.5)
    with torch.no_grad():
        seen = model.image_embedder(pixel_values=pixels)[0]
        # Without what all patches have in common, each has a prompt of its own.
        head.dense0.bias.copy_(-head.dense0.weight @ seen.mean((0, 1, 2)))
