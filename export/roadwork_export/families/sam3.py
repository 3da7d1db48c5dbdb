"""SAM 3 (Carion et al., 2025, arXiv:2511.16719) in transformers, asked for the boxes of concepts baked in as prompts.

Prompts are encoded once. What follows the image's encoder mixes text and image and runs once for every prompt, all of
an image's in one batch: keep the table short. Its encoder compares 72 x 72 places with each other, which takes 0.86 GB
a prompt where a runtime does not fuse attention. Masks are not computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from ..canvas import some_canvases
from ..classes import ClassMap
from ..family import SIDE, Family, Found, Kind, Source, Weights
from ..graph.boxes import FLOOR, finish
from ..graph.resize import Normalise
from ..hub import fetching, open_pretrained, open_processor
from ..prompts import fits, prompts_of, stand_in_tokenizer
from ..random_weights import liven, spread

if TYPE_CHECKING:
    from ..catalogue import Entry

SPECIAL = {"!": 0, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
"""Numbers of CLIP's tokens that frame a prompt."""
TOKENS = 32
"""Of a prompt; the processor fills up to as many."""


class Sam3(Family):
    """The one published size. `arguments` may hold `layers` of every part and `side` of the image (a multiple of 336),
    smaller than published, for tests."""

    name: ClassVar[str] = "sam3"
    kind: ClassVar[Kind] = "boxes"
    packages: ClassVar[tuple[str, ...]] = ("transformers", "torchvision")

    def open(self, entry: Entry, weights: Weights) -> Source:
        from transformers import Sam3ImageProcessor, Sam3Model, Sam3Processor

        prompts = prompts_of(entry)
        config = config_for(entry, weights)
        model = open_pretrained(Sam3Model, config, weights, entry.name)
        side = entry.arguments.get("side", 1008)
        processor = open_processor(
            Sam3Processor, weights, image_processor=Sam3ImageProcessor(size={"height": side, "width": side}),
            tokenizer=stand_in_tokenizer(
                list(prompts), SPECIAL, ("<|startoftext|>", "<|endoftext|>"), "<|endoftext|>", model_max_length=TOKENS
            ),
        )  # fmt: skip
        if weights.random:
            shown = processor(images=list(some_canvases()), text=list(prompts)[:2], return_tensors="pt")
            enliven(model, {k: shown[k] for k in ("pixel_values", "input_ids", "attention_mask")}, weights.seed)
        return Sam3Source(model, processor, prompts, entry.name)


def config_for(entry: Entry, weights: Weights) -> Any:
    """The real architecture; or, where the weights are published with the video model's, that one's type."""
    from transformers import AutoConfig, Sam3Config, Sam3VideoConfig

    if weights.source is not None:
        with fetching(weights.source):
            if AutoConfig.from_pretrained(weights.source).model_type == Sam3VideoConfig.model_type:
                return Sam3VideoConfig()
    config: Any = Sam3Config()
    layers = entry.arguments.get("layers")
    if layers is not None:
        config.vision_config.backbone_config.num_hidden_layers = layers
        config.vision_config.backbone_config.global_attn_indexes = [layers - 1]
        config.text_config.num_hidden_layers = layers
        config.detr_encoder_config.num_layers = layers
        config.detr_decoder_config.num_layers = layers
    config.image_size = entry.arguments.get("side", 1008)
    return config


class Sam3Source(Source):
    def __init__(self, model: Any, processor: Any, prompts: dict[str, str], name: str) -> None:
        self.model, self.processor = model, processor
        self.labels, self.table = tuple(prompts), prompts
        for prompt in prompts:
            fits(prompt, len(processor.tokenizer(prompt, truncation=False)["input_ids"]), TOKENS, name)
        text = processor(text=list(prompts), return_tensors="pt")
        self.text = {key: text[key] for key in ("input_ids", "attention_mask")}
        images = processor.image_processor
        self.pre = Normalise(images.size["height"], images.image_mean, images.image_std)
        with torch.no_grad():
            encoded = model.get_text_features(**self.text, return_dict=True).pooler_output
        self.core = Answers(model, encoded, self.text["attention_mask"], images.size["height"])

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(classes, len(self.labels))

    def look(self, canvas: np.ndarray) -> Found:
        """One prompt after the other, as the model takes one for an image."""
        images = self.processor.image_processor
        found = []
        with torch.no_grad():
            seen = self.model.get_vision_features(images(canvas, return_tensors="pt")["pixel_values"])
            for i in range(len(self.labels)):
                asked = {key: tensor[i : i + 1] for key, tensor in self.text.items()}
                outputs = self.model(vision_embeds=seen, **asked)
                found += self.processor.post_process_object_detection(
                    outputs, threshold=FLOOR, target_sizes=[(SIDE, SIDE)]
                )
        labels = np.concatenate([np.full(len(each["scores"]), i) for i, each in enumerate(found)])
        boxes = torch.cat([each["boxes"] for each in found]).numpy()
        return Found(boxes, torch.cat([each["scores"] for each in found]).numpy(), labels)


class Answers(nn.Module):
    """Pixels [B, 3, H, W] -> logits [B, prompts, N], boxes [B, prompts, N, 4] x1 y1 x2 y2 in [0, 1], and logits
    [B, prompts, 1] that the image shows the prompt at all."""

    prompts: Tensor
    mask: Tensor
    grid: Tensor

    def __init__(self, model: Any, prompts: Tensor, mask: Tensor, side: int) -> None:
        super().__init__()
        from transformers.models.sam3.modeling_sam3 import inverse_sigmoid

        self.model, self.inverse_sigmoid = model, inverse_sigmoid
        longest = int(mask.sum(1).max())  # what follows in each is filling, which nothing looks at
        self.register_buffer("prompts", prompts[:, :longest])
        self.register_buffer("mask", mask[:, :longest].bool())
        self.embeddings = model.vision_encoder.backbone.embeddings
        places = side // self.embeddings.patch_size
        with torch.no_grad():
            grid = self.embeddings._tile_position_embeddings(self.embeddings.position_embeddings, places, places)
        self.register_buffer("grid", grid)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, count = self.model, self.prompts.shape[0]
        # Their repetition over the image depends on nothing, but is traced as a branch.
        with mock.patch.object(self.embeddings, "_tile_position_embeddings", return_value=self.grid):
            seen = model.vision_encoder(pixels)
        level, places = seen.fpn_hidden_states[-2], seen.fpn_position_encoding[-2]
        batch = level.shape[0]
        level = level[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        places = places[:1].expand(batch * count, -1, -1, -1)
        text = self.prompts[None].expand(batch, -1, -1, -1).flatten(0, 1)
        mask = self.mask[None].expand(batch, -1, -1).flatten(0, 1)
        mixed = model.detr_encoder(
            vision_features=[level], text_features=text, vision_pos_embeds=[places], text_mask=mask
        )
        said = model.detr_decoder(
            vision_features=mixed.last_hidden_state, text_features=text, text_mask=mask,
            vision_pos_encoding=mixed.pos_embeds_flattened, spatial_shapes=mixed.spatial_shapes,
        )  # fmt: skip
        queries, before = said.intermediate_hidden_states[-1:], said.reference_boxes[-1]
        boxes = (self.inverse_sigmoid(before) + model.detr_decoder.box_head(queries[0])).sigmoid()
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        logits = model.dot_product_scoring(queries, text, mask)[0, ..., 0]
        return (
            logits.unflatten(0, (-1, count)),
            torch.cat([centre - half, centre + half], -1).unflatten(0, (-1, count)),
            said.presence_logits[-1].unflatten(0, (-1, count)),
        )


class Decode(nn.Module):
    """Those answers -> the contract's boxes, scores, classes."""

    ids: Tensor
    known: Tensor

    def __init__(self, classes: ClassMap, prompts: int) -> None:
        super().__init__()
        ids = torch.full((prompts,), -1.0)
        for group, number in zip(classes.columns, classes.ids, strict=True):
            ids[list(group)] = float(number)
        self.register_buffer("ids", ids[None, :, None])
        self.register_buffer("known", (ids >= 0).float()[None, :, None])

    def forward(self, logits: Tensor, boxes: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = logits.sigmoid() * present.sigmoid() * self.known
        ids = self.ids + torch.zeros_like(scores)
        return finish(boxes.flatten(1, 2) * SIDE, scores.flatten(1), ids.flatten(1), float(SIDE))


def enliven(model: Any, inputs: dict[str, Tensor], seed: int) -> None:
    """Random weights whose answers to `inputs` differ between places and prompts."""
    liven(model, lambda: None, seed)
    decoder, scoring = model.detr_decoder, model.dot_product_scoring.query_proj
    spread(decoder.box_head.layer3, seed=seed, gain=0.5)
    spread(decoder.presence_head.layer3, seed=seed, gain=0.5)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        queries, places = decoder.query_embed.weight, decoder.reference_points.weight
        queries.copy_(3.0 * torch.randn(queries.shape, generator=generator))
        places.copy_(torch.randn(places.shape, generator=generator) - torch.tensor([0, 0, 2, 2]))
        seen: dict[str, Tensor] = {}
        hooks = [
            scoring.register_forward_hook(lambda _, __, said: seen.update(scores=said[-1])),
            decoder.presence_head.register_forward_hook(lambda _, __, said: seen.update(present=said)),
        ]
        model(**inputs)
        for hook in hooks:
            hook.remove()
        # Without what all queries have in common; and images show about what they are asked for.
        middle = seen["scores"].mean((0, 1))
        stretch = 2.0 / (seen["scores"] - middle).std()
        scoring.weight.mul_(stretch)
        scoring.bias.sub_(middle).mul_(stretch)
        decoder.presence_head.layer3.bias.add_(1.5 - seen["present"].mean())
