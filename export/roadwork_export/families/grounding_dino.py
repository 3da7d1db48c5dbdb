"""Grounding DINO (Liu et al., 2023, arXiv:2303.05499) in transformers, its prompts baked in.

The text backbone sees the prompts alone, so its answer is computed once and kept; what follows mixes text and image and
stays in the graph. A box has one label, the prompt of its best token, and that token's score, as in transformers'
`post_process_object_detection`; `post_process_grounded_object_detection` gives the same boxes and scores, but joins all
tokens over a threshold to a phrase, which may be of two prompts. A box whose best token separates prompts is dropped.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from ..canvas import some_canvases
from ..classes import ClassMap
from ..errors import ExportError
from ..family import SIDE, Family, Found, Kind, Source, Weights
from ..graph.boxes import FLOOR, TOP, BestBoxes, corners
from ..graph.resize import Normalise
from ..hub import open_pretrained, open_processor
from ..prompts import prompts_of, stand_in_tokenizer
from ..random_weights import liven, spread

if TYPE_CHECKING:
    from ..catalogue import Entry

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7, "image_size": 224,
    },
    "base": {
        "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12, "image_size": 384,
    },
}  # fmt: skip
"""Swin of each (published configurations); the rest is transformers' default."""
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
"""Numbers of BERT's tokens that the model itself knows: all but the first two end a prompt."""
ENDS = (101, 102, 1012, 1029)


class GroundingDino(Family):
    """Sizes tiny and base, by their Swin. `arguments` may hold `layers` of encoder and decoder and `side` of the image,
    smaller than published, for tests."""

    name: ClassVar[str] = "grounding_dino"
    kind: ClassVar[Kind] = "boxes"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        from transformers import (
            GroundingDinoConfig,
            GroundingDinoForObjectDetection,
            GroundingDinoImageProcessor,
            GroundingDinoProcessor,
            SwinConfig,
        )

        prompts = prompts_of(entry)
        for prompt in prompts:
            if "." in prompt or "?" in prompt:
                raise ExportError(f"{entry.name}: a '.' or '?' ends a prompt, so {prompt!r} must hold none")
        layers, side = entry.arguments.get("layers", 6), entry.arguments.get("side", 800)
        swin: Any = SwinConfig
        config = GroundingDinoConfig(
            backbone_config=swin(**SIZES[entry.arguments["size"]], out_indices=[2, 3, 4]),
            encoder_layers=layers, decoder_layers=layers,
        )  # fmt: skip
        model = open_pretrained(GroundingDinoForObjectDetection, config, weights, entry.name)
        processor = open_processor(
            GroundingDinoProcessor, weights,
            image_processor=GroundingDinoImageProcessor(size={"shortest_edge": side, "longest_edge": 1333}),
            tokenizer=stand_in_tokenizer(list(prompts), SPECIAL, ("[CLS]", "[SEP]"), "[PAD]"),
        )  # fmt: skip
        text = processor(text=[list(prompts)], return_tensors="pt")
        owned = owners(text["input_ids"][0].tolist(), tuple(prompts), model.config.max_text_len, entry.name)
        if weights.random:
            shown = processor(images=list(some_canvases()), text=[list(prompts)] * 2, return_tensors="pt")
            enliven(model, shown, weights.seed)
        return GroundingDinoSource(model, processor, prompts, text, owned)


class GroundingDinoSource(Source):
    """`text` is what the processor makes of all prompts together, `owned` the prompt of each of its tokens."""

    def __init__(self, model: Any, processor: Any, prompts: dict[str, str], text: Any, owned: list[int]) -> None:
        self.model, self.processor, self.owners = model, processor, owned
        self.labels, self.table = tuple(prompts), prompts
        self.text = {key: text[key] for key in ("input_ids", "token_type_ids", "attention_mask")}
        images = processor.image_processor
        self.pre = Normalise(images.size["shortest_edge"], images.image_mean, images.image_std)
        self.core = Grounded(model, self.text)

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(classes, self.owners)

    def look(self, canvas: np.ndarray) -> Found:
        images = self.processor.image_processor
        with torch.no_grad():
            outputs = self.model(**images(canvas, return_tensors="pt"), **self.text)
        found = images.post_process_object_detection(outputs, threshold=FLOOR, target_sizes=[(SIDE, SIDE)])[0]
        prompt = np.array(self.owners)[found["labels"].numpy()]
        kept = prompt >= 0
        return Found(found["boxes"].numpy()[kept], found["scores"].numpy()[kept], prompt[kept])


def owners(tokens: list[int], prompts: tuple[str, ...], most: int, name: str) -> list[int]:
    """The prompt that each token belongs to, -1 for those that separate prompts.

    Raises:
        ExportError: the prompts cannot be told apart, or are more than the model reads.
    """
    if len(tokens) > most:
        raise ExportError(f"{name}: the prompts have {len(tokens)} tokens together, at most {most} are read")
    found, current, inside = [], -1, False
    for token in tokens:
        if token in ENDS:
            inside = False
        elif not inside:
            current, inside = current + 1, True
        found.append(current if inside else -1)
    if current + 1 != len(prompts):
        raise ExportError(f"{name}: {len(prompts)} prompts were read as {current + 1}; none may be empty")
    return found


class Remembered(nn.Module):
    """In place of the text backbone: what it said of the prompts."""

    features: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features)

    def forward(self, ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        output: Any = BaseModelOutput
        return output(last_hidden_state=self.features.expand(ids.shape[0], -1, -1))


class Grounded(nn.Module):
    """Pixels [B, 3, H, W] -> logits [B, N, T] of each token of the prompts, boxes [B, N, 4] as centre and size in
    [0, 1]."""

    ids: Tensor
    among: Tensor
    places: Tensor

    def __init__(self, model: Any, text: dict[str, Tensor]) -> None:
        super().__init__()
        from transformers.models.grounding_dino import modeling_grounding_dino

        module: Any = modeling_grounding_dino
        heard: list[Tensor] = []
        hook = model.model.text_backbone.register_forward_hook(lambda _, __, said: heard.append(said[0]))
        self.modeling = module
        with torch.no_grad():
            among, places = module.generate_masks_with_special_tokens_and_transfer_map(text["input_ids"])
            model.model.text_backbone(
                text["input_ids"], among[:, None], text["token_type_ids"], places, return_dict=True
            )
        hook.remove()
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = copy.deepcopy(model, shared)
        self.model.model.text_backbone = Remembered(heard[0])
        self.register_buffer("ids", text["input_ids"])
        self.register_buffer("among", among)
        self.register_buffer("places", places)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        batch = pixels.shape[0]
        with self.without_text():
            outputs = self.model(pixel_values=pixels, input_ids=self.ids.expand(batch, -1))
        return outputs.logits[..., : self.ids.shape[1]], outputs.pred_boxes

    @contextlib.contextmanager
    def without_text(self) -> Iterator[None]:
        """Masks of the prompts from the first run, as their making uses operators that ONNX has not; and `logit` by
        its plain name, which is the only one that the exporter knows."""

        def masks(ids: Tensor) -> tuple[Tensor, Tensor]:
            return self.among.expand(ids.shape[0], -1, -1), self.places.expand(ids.shape[0], -1)

        name = "generate_masks_with_special_tokens_and_transfer_map"
        with mock.patch.object(self.modeling, name, masks), mock.patch.object(torch.special, "logit", torch.logit):
            yield


class Decode(nn.Module):
    """Those answers -> the contract's boxes, scores, classes."""

    def __init__(self, classes: ClassMap, owners: list[int]) -> None:
        super().__init__()
        tokens = tuple(tuple(t for t, owner in enumerate(owners) if owner in group) for group in classes.columns)
        self.best = BestBoxes(ClassMap(tokens, classes.ids, {}), len(owners), candidates=TOP, rounds=0)

    def forward(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.best(corners(boxes) * SIDE, logits.sigmoid())


def enliven(model: Any, inputs: dict[str, Tensor], seed: int) -> None:
    """Random weights whose answers to `inputs` differ; a freshly made model does not mix text and image, and its boxes
    stay where they are."""
    liven(model, lambda: None, seed)
    heads = {id(head): head for head in (*model.bbox_embed, model.model.encoder_output_bbox_embed)}
    spread(*(head.layers[-1] for head in heads.values()), seed=seed, gain=0.3)
    norm = model.model.decoder.layer_norm
    with torch.no_grad():
        for layer in model.model.encoder.layers:
            layer.fusion_layer.vision_param.fill_(0.3)
            layer.fusion_layer.text_param.fill_(0.3)
        # Queries stand for places in the order of these places' scores. Rounding swaps near ones, which must not matter
        # more than it does to scores.
        model.model.query_position_embeddings.weight.mul_(0.001)
        # A score is a product of a query and a token: without what all queries have in common, and lowered by what all
        # tokens have in common.
        model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after.bias.fill_(0.25)
        seen: list[Tensor] = []
        hook = norm.register_forward_hook(lambda _, __, said: seen.append(said))
        model(**inputs)
        hook.remove()
        width = norm.weight.numel()
        middle = seen[-1].mean((0, 1))
        norm.weight.fill_(float(1.6 * width**-0.5 / (seen[-1] - middle).std()))
        norm.bias.copy_(-middle * norm.weight - 2.7 / (0.25 * width))
