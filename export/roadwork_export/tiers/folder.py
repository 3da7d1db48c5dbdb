"""A tier's folder in the model repository: config.pbtxt, 1/model.json, prompt.json and, on request, the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..catalogue import Entry, load_catalogue
from ..techniques import apply, merge
from .pixels import grid_for
from .prompting import Kind, TierError, make_prompt, read_speech

COPIED = ("*.json", "*.txt", "*.jinja", "*.safetensors", "*.model", "*.md")
CONFIG = """# A vision-language tier: docs/contracts.md, "Vision-language tiers". Made by roadwork-export tier {name}.
name: "{name}"
backend: "vllm"
max_batch_size: 0 # the engine batches by itself
model_transaction_policy {{ decoupled: true }}
input [
  {{ name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "image" data_type: TYPE_STRING dims: [ -1 ] optional: true }},
  {{ name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "exclude_input_in_output" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "return_finish_reason" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "return_cumulative_logprob" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "return_logprobs" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "return_num_input_tokens" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "return_num_output_tokens" data_type: TYPE_BOOL dims: [ 1 ] optional: true }}
]
output [
  {{ name: "text_output" data_type: TYPE_STRING dims: [ -1 ] }},
  {{ name: "finish_reason" data_type: TYPE_STRING dims: [ -1 ] }},
  {{ name: "cumulative_logprob" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "logprobs" data_type: TYPE_STRING dims: [ -1 ] }},
  {{ name: "num_input_tokens" data_type: TYPE_UINT32 dims: [ 1 ] }},
  {{ name: "num_output_tokens" data_type: TYPE_UINT32 dims: [ -1 ] }}
]
instance_group [ {{ count: 1 kind: KIND_MODEL }} ]
parameters {{ key: "REPORT_CUSTOM_METRICS" value: {{ string_value: "true" }} }}
"""
TEXT_TOKENS = 320
"""Room for a question with perception's findings, in tokens."""
SMALL = 256 << 20
"""Bytes of weights up to which a model is small: then the engine is kept small too."""


@dataclass(frozen=True)
class Known:
    """What the project's own tiers are made of, so that their command needs no options."""

    kind: Kind
    max_side: int
    weights: str


KNOWN = {
    "tiny_vlm_s": Known("scorer", 288, "tiny_vlm_s/1/weights"),
    "tiny_vlm_m": Known("scorer", 384, "tiny_vlm_m/1/weights"),
    "tiny_reasoner": Known("reasoner", 384, "tiny_vlm_m/1/weights"),
}
DEFAULT = Known("scorer", 448, "")


def image_tokens(weights: Path, max_side: int) -> int:
    """Most visual tokens of an image of at most `max_side` pixels a side; 0 where the processor is of another kind."""
    path = weights / "preprocessor_config.json"
    if not path.is_file():
        return 0
    settings = json.loads(path.read_text(encoding="utf-8"))
    if "merge_size" not in settings or settings.get("patch_size") != 16:
        return 0
    size = settings.get("size") or {}
    low = int(size.get("shortest_edge") or settings.get("min_pixels") or 0)
    high = int(size.get("longest_edge") or settings.get("max_pixels") or max_side**2)
    return max(r * c // 4 for r, c in (grid_for(max_side, side, (low, high)) for side in range(64, max_side + 1, 8)))


def engine_settings(weights: Path | None, model: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """The content of model.json: arguments of vLLM's AsyncEngineArgs that hold on a CPU and on a GPU."""
    tokens = image_tokens(weights, prompt["image"]["max_side"]) if weights is not None else 0
    length = (tokens or 2048) + TEXT_TOKENS + int(prompt["sampling"]["max_tokens"])
    settings: dict[str, Any] = {
        "model": model,
        "dtype": "auto",
        "max_model_len": -(-length // 128) * 128,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        # Every request has another image: keeping the last ones costs memory and hashing, and finds nothing.
        "mm_processor_cache_gb": 0,
        "enable_prefix_caching": False,
    }
    if weights is not None and sum(p.stat().st_size for p in weights.glob("*.safetensors")) < SMALL:
        settings |= {
            # Most CPUs have no bfloat16 arithmetic, and a small model costs a GPU nothing in float32.
            "dtype": "float32",
            "enforce_eager": True,
            "max_num_seqs": 32,
            "max_num_batched_tokens": 4096,
            "kv_cache_memory_bytes": 64 << 20,
        }
    return settings


def resolve(name: str, weights: str | None, repository: Path, copy: bool) -> tuple[str, Path | None, str]:
    """What model.json will name, the folder where that is now (None: a hub id), and what transformers reads it by.

    Raises TierError where there are no weights.
    """
    given = weights or KNOWN.get(name, DEFAULT).weights
    if not given:
        raise TierError(f"{name}: --weights is missing: a folder or a hub id")
    for folder in (Path(given), repository / given):
        if not folder.is_dir():
            continue
        target = repository / name / "1" / "weights"
        if copy and folder.resolve() != target.resolve():
            target.mkdir(parents=True, exist_ok=True)
            for pattern in COPIED:
                for path in folder.glob(pattern):
                    shutil.copyfile(path, target / path.name)
            folder = target
        try:
            return str(folder.resolve().relative_to(repository.resolve())), folder, str(folder)
        except ValueError:
            return str(folder.resolve()), folder, str(folder)
    if weights is None or given.startswith((".", "/")) or given.count("/") != 1:
        raise TierError(f"{given}: not there; train it with roadwork-export train-tier, or name a folder or a hub id")
    return given, None, given


def _entry(name: str, weights: str | None) -> Entry:
    """The catalogue's entry of a tier, by its name or else by the hub id of its weights. Raises CatalogueError."""
    catalogue = load_catalogue()
    if name not in catalogue:
        for entry in catalogue:
            if entry.serving is not None and weights in entry.serving.checkpoints.values():
                return entry
    return catalogue.get(name)


def write_tier(
    name: str, repository: Path, *, weights: str | None = None, kind: Kind | None = None, max_side: int | None = None,
    question: str | None = None, copy: bool = False, techniques: Sequence[str] = (),
) -> Path:  # fmt: skip
    """Write `<repository>/<name>` and return it. Parameters that are None come from `KNOWN`, else from `DEFAULT`.

    `weights` is a folder or a hub id; `copy` puts the folder's files into the repository; `techniques` are options of
    `techniques.yaml`, for tiers of the catalogue. Raises TierError or TechniqueError, having written no configuration,
    for a model that cannot be a tier or a technique that it cannot have.
    """
    known = KNOWN.get(name, DEFAULT)
    chosen = apply(techniques, _entry(name, weights)) if techniques else {}
    model, folder, source = resolve(name, weights, repository, copy)
    if folder is not None and not (folder / "config.json").is_file():
        raise TierError(f"{folder}: has no config.json")
    speech = read_speech(source)
    prompt = make_prompt(speech, kind or known.kind, model, question=question, max_side=max_side or known.max_side)
    target = repository / name
    (target / "1").mkdir(parents=True, exist_ok=True)
    (target / "config.pbtxt").write_text(CONFIG.format(name=name), encoding="utf-8")
    settings = merge(engine_settings(folder, model, prompt), chosen)
    (target / "1" / "model.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (target / "prompt.json").write_text(json.dumps(prompt, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target
