"""How an engine setting of vLLM is said to another server: one table an engine.

Keys are names of vLLM's AsyncEngineArgs. A value turns the setting's value into arguments of that engine's command, or
raises `NoCounterpart`. Checked against the argument parsers of vLLM 0.32.0, SGLang 0.5.23 and LMDeploy 0.18.0
(`tests/unit/deploy/engine_parsers.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

Turn = Callable[[Any], list[str]]


class NoCounterpart(Exception):
    """The engine has no such setting; the message says what it has instead, or why it needs none."""


def flag(name: str) -> Turn:
    """The value behind a flag."""
    return lambda value: [name, str(value)]


def switch(on: str | None, off: str | None = None) -> Turn:
    """A flag where the setting is true, another (or none: that is how the engine is) where it is false."""

    def turn(value: Any) -> list[str]:
        chosen = on if _true(value) else off
        return [] if chosen is None else chosen.split()

    return turn


def choice(name: str, values: Mapping[str, str | None]) -> Turn:
    """A flag whose values have other names; None: that is how the engine is without the flag."""

    def turn(value: Any) -> list[str]:
        if str(value) not in values:
            raise NoCounterpart(f"its {name} has {', '.join(v for v in values.values() if v) or 'nothing like it'}")
        chosen = values[str(value)]
        return [] if chosen is None else [name, chosen]

    return turn


def lacks(instead: str) -> Turn:
    """The engine has nothing like it."""

    def turn(value: Any) -> list[str]:
        raise NoCounterpart(instead)

    return turn


def same(*values: str) -> dict[str, str | None]:
    return {value: value for value in values}


def _no_cache(value: Any) -> list[str]:
    if float(value) > 0:
        raise NoCounterpart("it keeps no cache of pixel values")
    return []


def _sglang_pixel_cache(value: Any) -> list[str]:
    return ["--mm-preprocess-cache-size-mb", str(int(float(value) * 1024))]


def _sglang_limits(value: Any) -> list[str]:
    limits = {kind: count for kind, count in dict(value).items() if isinstance(count, int)}
    if len(limits) != len(dict(value)):
        raise NoCounterpart("--limit-mm-data-per-request takes counts alone")
    return ["--limit-mm-data-per-request", json.dumps(limits)]


def _sglang_chunks(value: Any) -> list[str]:
    return [] if _true(value) else ["--chunked-prefill-size", "-1"]


def _sglang_encoder(value: Any) -> list[str]:
    return ["--mm-enable-dp-encoder"] if value == "data" else []


def _lmdeploy_chunks(value: Any) -> list[str]:
    if not _true(value):
        raise NoCounterpart("it always takes long prompts in chunks (--max-prefill-token-num)")
    return []


def _kept_by_tier(value: Any) -> list[str]:
    """The tier's backend sends one image a request whatever the server allows."""
    return []


def _true(value: Any) -> bool:
    return str(value).lower() == "true"


SGLANG_WEIGHTS: tuple[str, ...] = (
    "awq",
    "awq_marlin",
    "gptq",
    "gptq_marlin",
    "fp8",
    "mxfp8",
    "mxfp4",
    "gguf",
    "bitsandbytes",
)
SGLANG_WEIGHTS += ("modelopt", "modelopt_fp4", "compressed-tensors")
KV_SHARE = "it sizes its cache by a share of the GPU's memory, not by bytes"
SGLANG: Mapping[str, Turn] = {
    "tokenizer": flag("--tokenizer-path"),
    "revision": flag("--revision"),
    "trust_remote_code": switch("--trust-remote-code"),
    "dtype": choice("--dtype", same("auto", "half", "float16", "bfloat16", "float", "float32")),
    "load_format": choice("--load-format", same("auto", "pt", "safetensors", "dummy", "gguf", "bitsandbytes")),
    "quantization": choice("--quantization", same(*SGLANG_WEIGHTS)),
    "kv_cache_dtype": choice(
        "--kv-cache-dtype",
        {**same("auto", "bfloat16", "fp8_e5m2", "fp8_e4m3", "nvfp4"), "fp8": "fp8_e4m3"},
    ),
    "max_model_len": flag("--context-length"),
    "max_num_seqs": flag("--max-running-requests"),
    "max_num_batched_tokens": flag("--max-prefill-tokens"),
    "tensor_parallel_size": flag("--tp-size"),
    "pipeline_parallel_size": flag("--pp-size"),
    "data_parallel_size": flag("--dp-size"),
    "mm_encoder_tp_mode": _sglang_encoder,
    "gpu_memory_utilization": lacks(
        "its --mem-fraction-static, which --more takes, counts weights and cache without activations"
    ),
    "kv_cache_memory_bytes": lacks(f"{KV_SHARE}; --more takes --max-total-tokens or --mem-fraction-static"),
    "enable_prefix_caching": switch(None, "--disable-radix-cache"),
    "enable_chunked_prefill": _sglang_chunks,
    "enforce_eager": switch("--cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled"),
    "limit_mm_per_prompt": _sglang_limits,
    "mm_processor_cache_gb": _sglang_pixel_cache,
    "cpu_offload_gb": flag("--cpu-offload-gb"),
    "seed": flag("--random-seed"),
}
LMDEPLOY: Mapping[str, Turn] = {
    "revision": flag("--revision"),
    "trust_remote_code": switch("--trust-remote-code"),
    "dtype": choice("--dtype", same("auto", "float16", "bfloat16")),
    "quantization": choice("--model-format", same("awq", "gptq", "fp8", "mxfp4", "compressed-tensors")),
    "kv_cache_dtype": choice(
        "--quant-policy",
        {"auto": None, "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8_e5m2", "int8_per_token_head": "int8",
         "int4_per_token_head": "int4"},
    ),
    "max_model_len": flag("--session-len"),
    "max_num_seqs": flag("--max-batch-size"),
    "max_num_batched_tokens": flag("--max-prefill-token-num"),
    "tensor_parallel_size": flag("--tp"),
    "data_parallel_size": flag("--dp"),
    "gpu_memory_utilization": lacks(
        "its --cache-max-entry-count, which --more takes, is a share of the memory that weights leave free"
    ),
    "kv_cache_memory_bytes": lacks(f"{KV_SHARE}; --more takes --cache-max-entry-count"),
    "enable_prefix_caching": switch("--enable-prefix-caching"),
    "enable_chunked_prefill": _lmdeploy_chunks,
    "enforce_eager": lacks("TurboMind has no such switch"),
    "limit_mm_per_prompt": _kept_by_tier,
    "mm_processor_cache_gb": _no_cache,
}  # fmt: skip


def vllm_arguments(name: str, value: Any) -> list[str]:
    """vLLM's flags are its settings' names: false is `--no-name`, objects are JSON."""
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if isinstance(value, list):
        return [option, *(json.dumps(item) if isinstance(item, dict) else str(item) for item in value)]
    return [option, json.dumps(value) if isinstance(value, dict) else str(value)]
