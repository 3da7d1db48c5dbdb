"""RT-DETR v2 (Lv et al., 2024, arXiv:2407.17140) in transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..canvas import some_canvases
from ..classes import taxonomy_labels
from ..detr import DetrSource
from ..family import SIDE, Family, Kind, Source, Weights
from ..hub import open_pretrained, open_processor
from ..random_weights import liven, spread

if TYPE_CHECKING:
    from ..catalogue import Entry

BASIC = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "r18": (
        {**BASIC, "depths": [2, 2, 2, 2]},
        {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5, "decoder_layers": 3},
    ),
    "r34": (
        {**BASIC, "depths": [3, 4, 6, 3]},
        {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5, "decoder_layers": 4},
    ),
    "r50": ({"depths": [3, 4, 6, 3]}, {}),
    "r101": (
        {"depths": [3, 4, 23, 3]},
        {"encoder_hidden_dim": 384, "encoder_ffn_dim": 2048, "decoder_in_channels": [384, 384, 384]},
    ),
}
"""What each differs in from transformers' default: of the backbone, of the rest (published configurations)."""


class RTDetrV2(Family):
    """Sizes r18 to r101, by their ResNet."""

    name: ClassVar[str] = "rtdetr_v2"
    kind: ClassVar[Kind] = "boxes"
    packages: ClassVar[tuple[str, ...]] = ("transformers",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        from transformers import RTDetrImageProcessor, RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

        backbone, rest = SIZES[entry.arguments["size"]]
        stages: dict[str, Any] = {"out_features": ["stage2", "stage3", "stage4"]}
        config = RTDetrV2Config(
            backbone_config=RTDetrResNetConfig(**backbone, **stages),
            # Frozen norms would let the signal of random weights fade in a deep backbone: those learn what they see.
            freeze_backbone_batch_norms=not weights.random,
            id2label=dict(enumerate(taxonomy_labels())), **rest,
        )  # fmt: skip
        model = open_pretrained(RTDetrV2ForObjectDetection, config, weights, entry.name)
        processor = open_processor(RTDetrImageProcessor, weights, size={"height": SIDE, "width": SIDE})
        source = DetrSource(model, processor)
        if weights.random:
            liven(model, lambda: source.core(source.pre(some_canvases())), weights.seed)
            decoder = model.model.decoder
            spread(*decoder.class_embed, model.model.enc_score_head, seed=weights.seed, bias=-3.0)
            boxes = [head.layers[-1] for head in (*decoder.bbox_embed, model.model.enc_bbox_head)]
            spread(*boxes, seed=weights.seed, gain=0.5)
        return source
