"""Reads a tier's folder, and makes the settings and the repositories that are compared."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadwork_cascade.prompts import Prompt, PromptError, load_prompt

from roadwork_bench.errors import BenchError

# Settings that say what is computed, or that an engine cannot run without on this host. All others are left at vLLM's
# defaults for the bare engine.
KEPT = frozenset(
    {
        "attention_backend",
        "config_format",
        "distributed_executor_backend",
        "dtype",
        "enable_lora",
        "enforce_eager",
        "generation_config",
        "hf_config_path",
        "hf_overrides",
        "kernel_config",
        "kv_cache_dtype",
        "limit_mm_per_prompt",
        "load_format",
        "logprobs_mode",
        "max_logprobs",
        "max_lora_rank",
        "max_loras",
        "max_model_len",
        "model",
        "override_generation_config",
        "quantization",
        "revision",
        "seed",
        "structured_outputs_config",
        "tensor_parallel_size",
        "tokenizer",
        "tokenizer_mode",
        "trust_remote_code",
    }
)
# A CPU's engine would otherwise take a share of the whole machine's memory: a size, not a speed.
KEPT_ON_CPU = frozenset({"kv_cache_memory_bytes"})
# Where the image processing runs is tuning; how large the pictures get is the question itself.
TUNED_PROCESSOR = frozenset({"device"})
VARIANT_KEYS = frozenset({"instances", "engine", "in_flight", "environment"})
PATHS = ("model", "tokenizer", "hf_config_path", "generation_config")


@dataclass(frozen=True)
class Subject:
    """A tier as its folder has it; `engine` with paths made absolute."""

    name: str
    folder: Path
    prompt: Prompt
    engine: Mapping[str, Any]

    @property
    def random_weights(self) -> bool:
        return self.engine.get("load_format") == "dummy"


@dataclass(frozen=True)
class Variant:
    """How the tier is served: instances in the server, and engine settings that differ from model.json.

    `environment` is the server's on top of the present one; `in_flight` are the loads that it is measured at, empty for
    all.
    """

    name: str
    instances: int = 1
    engine: Mapping[str, Any] = field(default_factory=dict)
    in_flight: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def read_tier(repository: Path, name: str) -> Subject:
    """Raises BenchError naming what is missing."""
    folder = repository / name
    if not (folder / "config.pbtxt").is_file():
        raise BenchError(f"{folder} is no tier: it has no config.pbtxt")
    try:
        engine = json.loads((folder / "1" / "model.json").read_text(encoding="utf-8"))
        prompt = load_prompt(folder / "prompt.json")
    except (OSError, ValueError, PromptError) as error:
        raise BenchError(f"{name}: {error}") from None
    if prompt.kind != "scorer":
        raise BenchError(f"{name} is a {prompt.kind}; only scorers are measured, which answer in one token")
    for key in PATHS:
        found = repository / str(engine.get(key, ""))
        if engine.get(key) and found.exists():
            engine[key] = str(found.resolve())
    return Subject(name, folder, prompt, engine)


def read_variant(text: str) -> Variant:
    """`NAME={"instances": 4, "engine": {...}}`. Raises BenchError."""
    name, equals, value = text.partition("=")
    try:
        data = json.loads(value) if equals else {}
        if not name or not isinstance(data, dict) or set(data) - VARIANT_KEYS:
            raise ValueError(f"known are {', '.join(sorted(VARIANT_KEYS))}")
        instances, engine = int(data.get("instances", 1)), dict(data.get("engine", {}))
        in_flight = tuple(int(number) for number in data.get("in_flight", ()))
        environment = {str(key): str(value) for key, value in dict(data.get("environment", {})).items()}
    except (TypeError, ValueError) as error:
        raise BenchError(f'--variant is NAME={{"instances": 2, "engine": {{...}}}}, got {text!r} ({error})') from None
    return Variant(name, instances, engine, in_flight, environment)


def bare_settings(engine: Mapping[str, Any], on_cpu: bool, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the bare engine: what is computed, and vLLM's defaults for all else; `changes` come last."""
    kept = KEPT | KEPT_ON_CPU if on_cpu else KEPT
    settings = {key: value for key, value in engine.items() if key in kept}
    processor = {k: v for k, v in (engine.get("mm_processor_kwargs") or {}).items() if k not in TUNED_PROCESSOR}
    if processor:
        settings["mm_processor_kwargs"] = processor
    return {key: value for key, value in {**settings, **changes}.items() if value is not None}


def served_settings(engine: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """Settings of a variant; null leaves one at vLLM's default."""
    return {key: value for key, value in {**engine, **variant.engine}.items() if value is not None}


def write_repository(folder: Path, subject: Subject, variant: Variant) -> None:
    """A repository of this tier alone, as the variant has it; weights stay where they are."""
    version = folder / subject.name / "1"
    version.mkdir(parents=True)
    config = (subject.folder / "config.pbtxt").read_text(encoding="utf-8")
    (folder / subject.name / "config.pbtxt").write_text(with_instances(config, variant.instances), encoding="utf-8")
    (version / "model.json").write_text(json.dumps(served_settings(subject.engine, variant), indent=1))


def with_instances(config: str, count: int) -> str:
    """config.pbtxt with so many instances. Raises BenchError where it names none that could be counted."""
    changed, found = re.subn(r"(instance_group\b.*?\bcount\s*:\s*)\d+", rf"\g<1>{count}", config, count=1, flags=re.S)
    if not found:
        raise BenchError("config.pbtxt has no instance_group with a count")
    return changed
