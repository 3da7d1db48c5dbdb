"""CLIP (Radford et al., 2021, arXiv:2103.00020) in transformers, asked for roadwork by prompts that are baked in."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..canvas import some_canvases
from ..classes import ClassMap
from ..errors import ExportError, WeightsError
from ..family import Family, Kind, Source, Weights
from ..hub import fetching, open_pretrained, open_processor
from ..random_weights import liven
from ..sides import PROMPTS, checked, read_sides
from ..vision import normalise_like

if TYPE_CHECKING:
    from ..catalogue import Entry

LONGEST = 77
"""Tokens of a text, the first and the last included."""
BASE_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 12}
LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
BASE_VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
LARGE_VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
SIZES: dict[str, tuple[dict[str, int], dict[str, int], int]] = {
    "vit_b32": (BASE_TEXT, {**BASE_VISION, "patch_size": 32}, 512),
    "vit_b16": (BASE_TEXT, {**BASE_VISION, "patch_size": 16}, 512),
    "vit_l14": (LARGE_TEXT, {**LARGE_VISION, "patch_size": 14}, 768),
}
"""Text, vision and the width that both are projected to (published configurations); all look at 224 pixels."""


class Clip(Family):
    """Sizes vit_b32 to vit_l14; `layers` in the arguments makes both sides less deep, `sides` holds the prompts."""

    name: ClassVar[str] = "clip"
    kind: ClassVar[Kind] = "scene"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

        if entry.arguments.get("head"):
            raise ExportError(f"{entry.name} answers to prompts: it takes no --head")
        text, vision, width = SIZES[entry.arguments["size"]]
        less = {"num_hidden_layers": entry.arguments["layers"]} if "layers" in entry.arguments else {}
        config = CLIPConfig(
            text_config={**text, **less, "projection_dim": width},
            vision_config={**vision, **less, "projection_dim": width}, projection_dim=width,
        )  # fmt: skip
        model = open_pretrained(CLIPModel, config, weights, entry.name)
        processor = open_processor(CLIPImageProcessor, weights)
        given = entry.arguments.get("sides")
        sides = read_sides(PROMPTS) if given is None else checked(given, "prompts")
        prompts = (*sides["positive"], *sides["negative"])
        if weights.source is None:
            tokens = stand_in_tokens(prompts, model.config.text_config)
        else:
            tokens = own_tokens(weights.source, prompts)
        if weights.random:
            liven(model, lambda: None, weights.seed)
        source = Asked(model, processor, tokens, len(sides["positive"]))
        if weights.random:
            source.sharpen()
        return source


def own_tokens(source: str, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Raises WeightsError where there is no tokenizer beside the weights, or a prompt is too long."""
    from transformers import AutoTokenizer

    with fetching(source):
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokens = tokenizer(list(prompts), padding=True, return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    # Without its files there is a tokenizer all the same, which knows no words and says the end of text for each.
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids)) & mask.bool()
    if int(special.sum(1).max()) > 2:
        raise WeightsError(f"{source}: its tokenizer is not there, or knows not all of the prompts' words")
    if ids.shape[1] > LONGEST:
        raise WeightsError(f"prompts: the longest has {ids.shape[1]} tokens, {LONGEST} is the most")
    return {"input_ids": ids, "attention_mask": mask}


def stand_in_tokens(prompts: Sequence[str], config: Any) -> dict[str, Tensor]:
    """A number for each word. Random weights know no words, and the vocabulary comes with the published ones only."""
    first, last = config.bos_token_id, config.eos_token_id
    rows = [[first, *(zlib.crc32(word.encode()) % first for word in prompt.split()), last] for prompt in prompts]
    rows = [row if len(row) <= LONGEST else [*row[: LONGEST - 1], last] for row in rows]
    size = max(map(len, rows))
    ids = torch.tensor([row + [last] * (size - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (size - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


class Asked(Source):
    """A CLIP model and its prompts as tokens; the first `positive` of them describe roadwork."""

    def __init__(self, model: Any, processor: Any, tokens: dict[str, Tensor], positive: int) -> None:
        self.model, self.processor, self.tokens, self.positive = model, processor, tokens, positive
        self.pre = normalise_like(processor)
        self.core = Embedding(model)

    def texts(self) -> Tensor:
        """Embeddings of the prompts, of length 1, times the model's logit scale: [prompts, D]."""
        with torch.no_grad():
            said = self.model.get_text_features(**self.tokens).pooler_output
            scaled: Tensor = nn.functional.normalize(said, dim=-1) * self.model.logit_scale.exp()
        return scaled

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(self.texts(), self.positive)

    def look(self, canvas: np.ndarray) -> np.ndarray:
        pixels = self.processor(images=canvas, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            said = self.model(**self.tokens, pixel_values=pixels)
        shares = said.logits_per_image[0].softmax(-1).numpy()
        ours, others = shares[: self.positive].mean(), shares[self.positive :].mean()
        return np.array([ours / (ours + others)], np.float32)

    def sharpen(self) -> None:
        """Give random weights a logit scale by which their answers to images differ."""
        with torch.no_grad():
            self.model.logit_scale.fill_(0.0)
            logits = nn.functional.normalize(self.core(self.pre(some_canvases())), dim=-1) @ self.texts().T
            self.model.logit_scale.fill_(math.log(1.0 / max(float(logits.std(0).mean()), 1e-4)))


class Embedding(nn.Module):
    """Pixels [B, 3, H, W] -> embedding of the image [B, D]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision, self.projection = model.vision_model, model.visual_projection

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.projection(self.vision(pixel_values=pixels).pooler_output)
        return embedding


class Decode(nn.Module):
    """Embedding of the image -> presence [B, 1]: softmax over the prompts, each side the mean of its own."""

    texts: Tensor

    def __init__(self, texts: Tensor, positive: int) -> None:
        super().__init__()
        self.register_buffer("texts", texts.T.contiguous())
        self.positive = positive

    def forward(self, embedding: Tensor) -> Tensor:
        length = embedding.pow(2).sum(-1, keepdim=True).sqrt()
        shares = ((embedding / length) @ self.texts).softmax(-1)
        ours = shares[:, : self.positive].mean(-1, keepdim=True)
        others = shares[:, self.positive :].mean(-1, keepdim=True)
        return ours / (ours + others)
