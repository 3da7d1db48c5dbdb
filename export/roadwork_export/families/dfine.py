"""D-FINE (Peng et al., 2024, arXiv:2410.13842) in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ..canvas import some_canvases
from ..classes import taxonomy_labels
from ..detr import DetrSource
from ..family import SIDE, Family, Kind, Source, Weights
from ..hub import open_pretrained, open_processor
from ..random_weights import liven, settle, spread

if TYPE_CHECKING:
    from ..catalogue import Entry

SMALL = {
    "stem_channels": [3, 16, 16], "stage_in_channels": [16, 64, 256, 512], "stage_mid_channels": [16, 32, 64, 128],
    "stage_out_channels": [64, 256, 512, 1024], "stage_num_blocks": [1, 1, 2, 1], "stage_numb_of_layers": [3] * 4,
    "use_learnable_affine_block": True,
}  # fmt: skip
"""HGNetv2-B0, the backbone of n and s."""
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "n": (
        {**SMALL, "out_indices": [3, 4]},
        {
            "encoder_in_channels": [512, 1024], "encoder_hidden_dim": 128, "encoder_ffn_dim": 512,
            "encode_proj_layers": [1], "d_model": 128, "decoder_ffn_dim": 512, "decoder_in_channels": [128, 128],
            "num_feature_levels": 2, "decoder_n_points": [6, 6], "feat_strides": [16, 32], "decoder_layers": 3,
            "hidden_expansion": 0.34, "depth_mult": 0.5,
        },
    ),
    "s": (
        SMALL,
        {"encoder_in_channels": [256, 512, 1024], "decoder_layers": 3, "hidden_expansion": 0.5, "depth_mult": 0.34},
    ),
    "m": (
        {
            "stem_channels": [3, 24, 32], "stage_in_channels": [32, 96, 384, 768],
            "stage_mid_channels": [32, 64, 128, 256], "stage_out_channels": [96, 384, 768, 1536],
            "stage_numb_of_layers": [4] * 4, "use_learnable_affine_block": True,
        },
        {"encoder_in_channels": [384, 768, 1536], "decoder_layers": 4, "depth_mult": 0.67},
    ),
    "l": ({}, {}),
    "x": (
        {
            "stem_channels": [3, 32, 64], "stage_in_channels": [64, 128, 512, 1024],
            "stage_mid_channels": [64, 128, 256, 512], "stage_num_blocks": [1, 2, 5, 2],
        },
        {
            "encoder_hidden_dim": 384, "encoder_ffn_dim": 2048, "decoder_in_channels": [384, 384, 384],
            "reg_scale": 8.0,
        },
    ),
}  # fmt: skip
"""What each differs in from transformers' default, which is l: of the backbone, of the rest (published ones)."""


class DFine(Family):
    """Sizes n to x."""

    name: ClassVar[str] = "dfine"
    kind: ClassVar[Kind] = "boxes"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        from transformers import DFineForObjectDetection, RTDetrImageProcessor

        config = configuration(entry.arguments["size"], taxonomy_labels())
        # Of random weights they are set to what the network sees; frozen ones would let its signal fade.
        config.freeze_backbone_batch_norms = not weights.random
        model = open_pretrained(DFineForObjectDetection, config, weights, entry.name)
        processor = open_processor(RTDetrImageProcessor, weights, size={"height": SIDE, "width": SIDE})
        source = DetrSource(model, processor)
        if weights.random:
            liven(model, lambda: None, weights.seed)
            smooth(model.model.backbone.model.embedder)
            settle(model, lambda: source.core(source.pre(some_canvases())))
            decoder = model.model.decoder
            spread(*decoder.class_embed, model.model.enc_score_head, seed=weights.seed, bias=-5.0)
            with torch.no_grad():
                # Rounding may take another query as the last that is chosen: the others should not hear much of it.
                for layer in decoder.layers:
                    layer.self_attn.o_proj.weight.mul_(0.1)
            boxes = (model.model.enc_bbox_head.layers[-1], decoder.pre_bbox_head.layers[-1])
            spread(*boxes, seed=weights.seed, gain=0.5)
            # Bins of a side's distribution: evenly spread, their mean would hardly leave the middle.
            spread(*(head.layers[-1] for head in decoder.bbox_embed), seed=weights.seed, gain=1.0)
            spread(*(layer.reg_conf.layers[-1] for layer in decoder.lqe_layers), seed=weights.seed, gain=0.5)
        return source


def configuration(size: str, labels: Sequence[str]) -> Any:
    """The published architecture of a size, with a head for these labels."""
    from transformers import DFineConfig, HGNetV2Config

    backbone, rest = SIZES[size]
    return DFineConfig(
        backbone_config=HGNetV2Config(
            # The widths that the rest reads; the class does not take them from the stages.
            hidden_sizes=backbone.get("stage_out_channels", [128, 512, 1024, 2048]),
            **{"out_indices": [2, 3, 4], **backbone},
        ),
        id2label=dict(enumerate(labels)),
        **{"decoder_n_points": [3, 6, 3], **rest},
    )


def smooth(stem: nn.Module) -> None:
    """Make kernels mostly flat. Random ones find little in the smooth parts of an image, the batch norm behind them
    enlarges that little, and with it rounding errors by a factor of 30."""
    with torch.no_grad():
        for layer in stem.modules():
            if isinstance(layer, nn.Conv2d):
                side = layer.kernel_size[0]
                layer.weight.copy_(layer.weight.mean((2, 3), keepdim=True) * side + 0.2 * layer.weight)
