"""Writes the config.json that a model has on the hub, out of the sizes in the catalogue."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roadwork_export.catalogue import Entry
from roadwork_export.serving import TextModel, VisionModel

LINEAR_HEAD = 128
"""Width of a head of the layers of Qwen3.5 that keep a state instead of a cache."""


def write_config(entry: Entry, folder: Path) -> Path:
    """`folder` with a config.json. Raises KeyError for a family that is not written here."""
    serving = entry.serving
    assert serving is not None
    assert serving.text is not None
    assert serving.vision is not None
    kind = FAMILIES[serving.architecture]
    config = {
        "architectures": [serving.architecture],
        "dtype": "bfloat16",
        "tie_word_embeddings": serving.text.tied,
        **kind(serving.text, serving.vision, serving.context),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def qwen3_vl(text: TextModel, vision: VisionModel, context: int) -> dict[str, Any]:
    sections = {"mrope_section": [24, 20, 20], "mrope_interleaved": True, "rope_type": "default"}
    return {
        "model_type": "qwen3_vl_moe" if text.experts else "qwen3_vl",
        "text_config": {
            "model_type": "qwen3_vl_moe_text" if text.experts else "qwen3_vl_text",
            **sizes(text, context),
            "rope_theta": 5e6,
            "rope_scaling": sections,
        },
        "vision_config": {"deepstack_visual_indexes": [5, 11, 17], **encoder(text, vision)},
    }


def qwen3_5(text: TextModel, vision: VisionModel, context: int) -> dict[str, Any]:
    name = "qwen3_5_moe" if text.experts else "qwen3_5"
    return {
        "model_type": name,
        "text_config": {
            "model_type": f"{name}_text",
            **sizes(text, context),
            "linear_key_head_dim": LINEAR_HEAD,
            "linear_value_head_dim": LINEAR_HEAD,
            "linear_num_key_heads": text.linear_keys // LINEAR_HEAD,
            "linear_num_value_heads": text.linear_values // LINEAR_HEAD,
            "shared_expert_intermediate_size": text.shared_expert,
        },
        "vision_config": encoder(text, vision),
    }


def qwen2_5_vl(text: TextModel, vision: VisionModel, context: int) -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl",
        **sizes(text, context),
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [16, 24, 24]},
        "vision_config": {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], **encoder(text, vision)},
    }


def internvl(text: TextModel, vision: VisionModel, context: int) -> dict[str, Any]:
    return {
        "model_type": "internvl",
        "text_config": {"model_type": "qwen3", **sizes(text, context)},
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": vision.hidden,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "intermediate_size": vision.intermediate,
            "patch_size": [vision.patch, vision.patch],
            "image_size": [448, 448],
        },
    }


def llama4(text: TextModel, vision: VisionModel, context: int) -> dict[str, Any]:
    inner = sizes(text, context)
    return {
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            **inner,
            "intermediate_size": text.expert_intermediate,
            "intermediate_size_mlp": text.intermediate,
            "num_local_experts": text.experts,
            "interleave_moe_layer_step": text.layers // text.expert_layers,
        },
        "vision_config": {
            "model_type": "llama4_vision_model",
            "hidden_size": vision.hidden,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "intermediate_size": vision.intermediate,
            "patch_size": vision.patch,
            "image_size": 336,
        },
    }


def sizes(text: TextModel, context: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "hidden_size": text.hidden,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "head_dim": text.head_dim,
        "intermediate_size": text.intermediate,
        "vocab_size": text.vocabulary,
        "max_position_embeddings": context,
        "tie_word_embeddings": text.tied,
        "dtype": "bfloat16",
    }
    if text.experts:
        found |= {
            "num_experts": text.experts,
            "num_experts_per_tok": text.active_experts,
            "moe_intermediate_size": text.expert_intermediate,
        }
    return found


def encoder(text: TextModel, vision: VisionModel) -> dict[str, Any]:
    return {
        "depth": vision.layers,
        "hidden_size": vision.hidden,
        "num_heads": vision.heads,
        "intermediate_size": vision.intermediate,
        "patch_size": vision.patch,
        "spatial_merge_size": vision.merge,
        "out_hidden_size": text.hidden,
    }


FAMILIES: dict[str, Callable[[TextModel, VisionModel, int], dict[str, Any]]] = {
    "Qwen3VLForConditionalGeneration": qwen3_vl,
    "Qwen3VLMoeForConditionalGeneration": qwen3_vl,
    "Qwen3_5ForConditionalGeneration": qwen3_5,
    "Qwen3_5MoeForConditionalGeneration": qwen3_5,
    "Qwen2_5_VLForConditionalGeneration": qwen2_5_vl,
    "InternVLForConditionalGeneration": internvl,
    "Llama4ForConditionalGeneration": llama4,
}
