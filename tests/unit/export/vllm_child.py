"""Child process: builds vLLM's own objects from settings, and says of each what was built or why not.

    python vllm_child.py CASES.json RESULTS.json

A case: `name`, `settings` of a model.json, and `config`, a folder with the config.json of the model, or null: then its
arguments alone are built. A result: `arguments` and `config`, each null or one line of why not, and what was found in
the configuration. vLLM is imported here once, and not in the tests' own process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def main() -> None:
    from vllm.model_executor.models.interfaces import (
        supports_eagle3,
        supports_lora,
        supports_multimodal_encoder_tp_data,
    )
    from vllm.model_executor.models.registry import ModelRegistry

    cases = json.loads(Path(sys.argv[1]).read_text())
    results: dict[str, Any] = {"cases": {}, "abilities": {}}
    for architecture in cases["architectures"]:
        try:
            known = ModelRegistry.models[architecture].load_model_cls()
        except ModuleNotFoundError as error:
            results["abilities"][architecture] = str(error)
            continue
        # The class itself, so that vLLM does not start a process to look at each.
        ModelRegistry.register_model(architecture, known)
        results["abilities"][architecture] = {
            "eagle3": bool(supports_eagle3(known)),
            "lora": bool(supports_lora(known)),
            "batch_dp": bool(supports_multimodal_encoder_tp_data(known)),
        }
    for case in cases["cases"]:
        results["cases"][case["name"]] = build(case)
    Path(sys.argv[2]).write_text(json.dumps(results))


def build(case: dict[str, Any]) -> dict[str, Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs

    try:
        arguments = AsyncEngineArgs(**case["settings"])
    except Exception as error:
        return {"arguments": line(error), "config": "the arguments were refused"}
    result: dict[str, Any] = {"arguments": None, "config": "not asked for", "parts": parts(arguments)}
    if case["config"] is None:
        return result
    arguments = dataclasses.replace(arguments, model=case["config"], tokenizer=case["config"])
    try:
        config = arguments.create_engine_config()
    except Exception as error:
        return {**result, "config": line(error)}
    found = {
        "cache_dtype": config.cache_config.cache_dtype,
        "prefix_caching": config.cache_config.enable_prefix_caching,
        "chunked": config.scheduler_config.enable_chunked_prefill,
        "batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "sequences": config.scheduler_config.max_num_seqs,
        "length": config.model_config.max_model_len,
        "quantization": config.model_config.quantization,
        "drafting": config.speculative_config.method if config.speculative_config else None,
        "transfer": config.kv_transfer_config.kv_connector if config.kv_transfer_config else None,
        "lora_rank": config.lora_config.max_lora_rank if config.lora_config else None,
        "ranks": config.parallel_config.tensor_parallel_size,
        "encoder": config.model_config.multimodal_config.mm_encoder_tp_mode,
        "processor": config.model_config.multimodal_config.mm_processor_kwargs,
        "traces": config.observability_config.otlp_traces_endpoint,
        "structured": config.structured_outputs_config.backend,
        "kv_heads": config.model_config.get_total_num_kv_heads(),
        "head_size": config.model_config.get_head_size(),
        "layers": config.model_config.get_total_num_hidden_layers(),
        "experts": config.model_config.get_num_experts(),
    }
    return {**result, "config": None, "found": found}


def parts(arguments: Any) -> dict[str, Any]:
    """Configuration objects that need no model and no platform; an error that they raise is the result."""
    from vllm.config import CacheConfig, KVTransferConfig
    from vllm.config.quantization import ONLINE_QUANT_SHORTHAND_NAMES, resolve_quantization_config
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    found: dict[str, Any] = {}
    try:
        cache = CacheConfig(
            cache_dtype=arguments.kv_cache_dtype,
            kv_offloading_size=arguments.kv_offloading_size,
            kv_offloading_backend=arguments.kv_offloading_backend,
        )
        found["cache_dtype"] = cache.cache_dtype
        found["offloading"] = cache.kv_offloading_size
        given = arguments.kv_transfer_config
        if given is not None:
            found["transfer"] = (
                given if isinstance(given, KVTransferConfig) else KVTransferConfig(**given)
            ).kv_connector
        method = arguments.quantization
        if method is not None:
            found["known_quantization"] = method in QUANTIZATION_METHODS
            if method in ONLINE_QUANT_SHORTHAND_NAMES:
                resolved = resolve_quantization_config(method, None)
                found["linear"] = resolved is None or resolved.linear is not None
    except Exception as error:
        found["error"] = line(error)
    return found


def line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


if __name__ == "__main__":
    main()
