"""Is a model of the Hugging Face hub in this machine's cache? Nothing is asked of the network."""

from __future__ import annotations

import json
from pathlib import Path

INDEX = "model.safetensors.index.json"
KINDS = ("safetensors", "bin", "pt", "gguf")


def in_cache(hub_id: str, revision: str | None = None, *, weights: bool = True) -> bool:
    """Whether the cache has this model, whole.

    A download that was broken off leaves files missing, which the index of its shards names.

    Args:
        hub_id: such as `Qwen/Qwen3-VL-2B-Instruct`.
        revision: branch, tag or commit; by default the main branch.
        weights: False is content with the configuration, for weights that are made up.
    """
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return False  # it comes with vLLM: without it nobody could serve the model either
    try:
        found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    except HFValidationError:
        return False
    if not isinstance(found, str):
        return False
    return not weights or all_files(Path(found).parent)


def all_files(snapshot: Path) -> bool:
    """Whether a folder has weights, and all files of them. A link to a blob that is gone counts as missing."""
    index = snapshot / INDEX
    if index.is_file():
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            return False
        return all((snapshot / name).is_file() for name in files)
    return any(path.is_file() for kind in KINDS for path in snapshot.glob(f"*.{kind}"))
