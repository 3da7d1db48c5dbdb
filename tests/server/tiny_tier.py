"""Makes a tier of a real architecture (Qwen3-VL) at toy size: random weights, a vocabulary of bytes and a few words.

Its answers mean nothing; the engine, its image processing and its sampling are the real ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WORDS = ("yes", " yes", "Yes", " Yes", "no", " no", "No", " No", "true", "false", "roadwork")
PROMPT = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Is there roadwork?<|im_end|>\n<|im_start|>assistant\n"
)
TEXT_PROMPT = "<|im_start|>user\nIs there roadwork?<|im_end|>\n<|im_start|>assistant\n"
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 1024,
    "limit_mm_per_prompt": {"image": 1, "video": 0},
    "mm_processor_cache_gb": 0,
    "kv_cache_memory_bytes": 64 << 20,
}
CONFIG = """name: "{name}"
backend: "vllm"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input [
  {{ name: "text_input" data_type: TYPE_STRING dims: [1] }},
  {{ name: "image" data_type: TYPE_STRING dims: [-1] optional: true }},
  {{ name: "stream" data_type: TYPE_BOOL dims: [1] optional: true }},
  {{ name: "sampling_parameters" data_type: TYPE_STRING dims: [1] optional: true }},
  {{ name: "exclude_input_in_output" data_type: TYPE_BOOL dims: [1] optional: true }},
  {{ name: "return_finish_reason" data_type: TYPE_BOOL dims: [1] optional: true }},
  {{ name: "return_cumulative_logprob" data_type: TYPE_BOOL dims: [1] optional: true }},
  {{ name: "return_logprobs" data_type: TYPE_BOOL dims: [1] optional: true }},
  {{ name: "return_num_input_tokens" data_type: TYPE_BOOL dims: [1] optional: true }},
  {{ name: "return_num_output_tokens" data_type: TYPE_BOOL dims: [1] optional: true }}
]
output [
  {{ name: "text_output" data_type: TYPE_STRING dims: [-1] }},
  {{ name: "finish_reason" data_type: TYPE_STRING dims: [-1] }},
  {{ name: "cumulative_logprob" data_type: TYPE_FP32 dims: [-1] }},
  {{ name: "logprobs" data_type: TYPE_STRING dims: [-1] }},
  {{ name: "num_input_tokens" data_type: TYPE_UINT32 dims: [1] }},
  {{ name: "num_output_tokens" data_type: TYPE_UINT32 dims: [-1] }}
]
instance_group [{{ count: 1 kind: KIND_MODEL }}]
{more}
"""


def add_tier(
    repository: Path, name: str, *, weights: bool = True, config: str = "", text: str | None = None, **engine: Any
) -> dict[str, int]:
    """Make `<repository>/<name>`; token -> id of its vocabulary.

    Args:
        repository: folder of models.
        name: of the tier.
        weights: False leaves the folder of the weights out.
        config: more of config.pbtxt.
        text: all of config.pbtxt instead.
        engine: settings of model.json that differ from `ENGINE`; None leaves one out.
    """
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(text or CONFIG.format(name=name, more=config))
    settings = {"model": f"{name}/1/weights", **ENGINE, **engine}
    (version / "model.json").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    return make_weights(version / "weights") if weights else {}


def make_weights(folder: Path) -> dict[str, int]:
    """A Qwen3-VL of about a million random parameters with tokenizer and image processor; token -> id."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    folder.mkdir(parents=True)
    vocabulary = _make_tokenizer(folder)
    ids = {token: vocabulary[token] for token in SPECIAL}
    torch.manual_seed(0)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(vocabulary),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "rope_scaling": {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    Qwen3VLForConditionalGeneration(config).to(torch.float32).save_pretrained(folder)
    _make_processor(folder)
    return vocabulary


def _make_tokenizer(folder: Path) -> dict[str, int]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2TokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return dict(tokenizer.get_vocab())


def _make_processor(folder: Path) -> None:
    processor = {
        "processor_class": "Qwen3VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 64 * 64, "longest_edge": 128 * 128},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    video = {**processor, "video_processor_type": "Qwen3VLVideoProcessor"}
    video.pop("image_processor_type")
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
