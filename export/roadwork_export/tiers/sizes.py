"""The sizes of the project's own vision-language models, as configurations of the Qwen3-VL architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PATCH = 16
"""Pixels of a vision patch's side."""
MERGE = 2
"""Patches a side that become one visual token: a visual token is PATCH * MERGE = 32 pixels square."""
CELL = PATCH * MERGE
VOCABULARY = 640
"""Rows of the token table; the tokenizer has somewhat fewer tokens."""


@dataclass(frozen=True)
class Size:
    """Numbers that tell one size from the other. `grids` are rows and columns of visual tokens met in training."""

    name: str
    vision_width: int
    vision_depth: int
    vision_heads: int
    vision_inner: int
    deepstack: tuple[int, ...]
    text_width: int
    text_depth: int
    text_heads: int
    text_kv_heads: int
    text_inner: int
    max_side: int
    grids: tuple[tuple[int, int], ...]
    grid_positions: int = 256
    head_dim: int = 64
    rate: float = 1e-3

    @property
    def pixels(self) -> tuple[int, int]:
        """Fewest and most pixels that the image processor makes of an image."""
        most = max(rows * columns for rows, columns in self.grids)
        return CELL * CELL * 16, CELL * CELL * most


# Grids of one position in both lists are the same view at two resolutions: 16:9, 4:3, 3:4, square.
SIZES = {
    "s": Size(
        "tiny_vlm_s", vision_width=128, vision_depth=4, vision_heads=4, vision_inner=512, deepstack=(1,),
        text_width=128, text_depth=2, text_heads=2, text_kv_heads=1, text_inner=256, max_side=288,
        grids=((5, 9), (7, 9), (9, 7), (9, 9)), rate=1.2e-3,
    ),
    "m": Size(
        "tiny_vlm_m", vision_width=192, vision_depth=6, vision_heads=6, vision_inner=768, deepstack=(2,),
        text_width=256, text_depth=2, text_heads=4, text_kv_heads=2, text_inner=512, max_side=384,
        grids=((7, 12), (9, 12), (12, 9), (10, 10)), rate=8e-4,
    ),
}  # fmt: skip
VIEWS = (0.5, 0.2, 0.15, 0.15)
"""Share of the training batches for each view."""


def model_config(size: Size, vocabulary: int, ids: dict[str, int]) -> dict[str, Any]:
    """`config.json` of a size, as transformers and vLLM read it; `ids` are the special tokens' ids by their text."""
    half = size.head_dim // 2
    # Interleaved m-rope: time takes what height and width leave of the frequencies.
    side = 5 * half // 16
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen3_vl_text",
            "dtype": "bfloat16",
            "vocab_size": vocabulary,
            "hidden_size": size.text_width,
            "intermediate_size": size.text_inner,
            "num_hidden_layers": size.text_depth,
            "num_attention_heads": size.text_heads,
            "num_key_value_heads": size.text_kv_heads,
            "head_dim": size.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-6,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_cache": True,
            "tie_word_embeddings": True,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "rope_theta": 10000.0,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_interleaved": True,
                "mrope_section": [half - 2 * side, side, side],
            },
        },
        "vision_config": {
            "model_type": "qwen3_vl_vision",
            "depth": size.vision_depth,
            "hidden_size": size.vision_width,
            "hidden_act": "gelu_pytorch_tanh",
            "intermediate_size": size.vision_inner,
            "num_heads": size.vision_heads,
            "in_channels": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": size.text_width,
            "num_position_embeddings": size.grid_positions,
            "deepstack_visual_indexes": list(size.deepstack),
            "initializer_range": 0.02,
        },
    }


def processor_configs(size: Size) -> dict[str, dict[str, Any]]:
    """The image and video processors' files by name. Videos are never sent; the file is wanted all the same."""
    low, high = size.pixels
    common = {
        "patch_size": PATCH, "temporal_patch_size": 2, "merge_size": MERGE,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": low, "longest_edge": high}, "processor_class": "Qwen3VLProcessor",
    }  # fmt: skip
    return {
        "preprocessor_config.json": common | {"image_processor_type": "Qwen2VLImageProcessorFast"},
        "video_preprocessor_config.json": common | {"video_processor_type": "Qwen3VLVideoProcessor"},
    }
