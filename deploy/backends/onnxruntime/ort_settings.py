"""Reads, from a model configuration, what NVIDIA's C++ ONNX Runtime backend would read from it.

The same `config.pbtxt` has to mean the same here and there, so keys, values and defaults are that backend's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Session entries that the C++ backend copies from `parameters`; any other `session.` key is handed on as well.
SESSION_ENTRIES = ("optimization.enable_gelu_approximation", "optimization.disable_specified_optimizers")
RUN_ENTRIES = ("memory.enable_memory_arena_shrinkage",)
SPINNING = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning")
GRAPH_LEVELS = {0: "ORT_ENABLE_ALL", -1: "ORT_ENABLE_BASIC", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
# What a configuration may carry that only the C++ backends can do.
UNSUPPORTED = {
    "sequence_batching": "stateful sequences",
    "batch_input": "ragged batches",
    "batch_output": "ragged batches",
}


class ConfigError(ValueError):
    """A model configuration that cannot be served; the message says which key and what to do."""


@dataclass(frozen=True)
class Accelerator:
    """One entry of `optimization.execution_accelerators`; `where` is "gpu" or "cpu"."""

    where: str
    name: str
    options: dict[str, str]


@dataclass(frozen=True)
class Settings:
    """How the session of one model is built. Thread counts of 0 leave the choice to ONNX Runtime.

    `batch_sizes`, ascending, is this backend's own: with the parameter `batch_sizes: "1,8"` only batches of these sizes
    are run, on a GPU each in a session of its own. Each is timed at load, and a batch of another size is cut and filled
    up to those that take least time together. NVIDIA's backend does not know it and runs batches as they come.

    `request_threads` is too: so many requests run at the same time in one process, each on a thread of its own and by
    itself, and each answered when it is ready. On CPU cores that beats a batch of small networks, which fall out of the
    cache, and a second process, which would have its own weights there. Triton's statistics then hold as the time of
    computing what passes until the process can take another request; and of requests that are under way when the
    process dies all but one are never answered, so callers need deadlines.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    parallel: bool = False
    graph_level: str = "ORT_ENABLE_ALL"
    memory_arena: bool | None = None
    memory_pattern: bool | None = None
    session_entries: dict[str, str] = field(default_factory=dict)
    run_entries: dict[str, str] = field(default_factory=dict)
    cuda_options: dict[str, str] = field(default_factory=dict)
    batch_sizes: tuple[int, ...] = ()
    request_threads: int = 1
    accelerators: tuple[Accelerator, ...] = ()


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Settings out of a parsed `args["model_config"]`.

    Raises:
        ConfigError: for a value that is none of the documented ones, or a feature that only the C++ backend has.
    """
    name = config.get("name", "?")
    for key, what in UNSUPPORTED.items():
        if config.get(key):
            raise ConfigError(
                f"{name}: {key} ({what}) needs NVIDIA's C++ ONNX Runtime backend; remove it to serve here"
            )
    parameters = {key: str(value.get("string_value", "")) for key, value in (config.get("parameters") or {}).items()}

    entries = dict.fromkeys(SPINNING, "0")  # several sessions share few cores: a spinning pool starves the others
    entries.update(
        {key: value for key, value in parameters.items() if key.startswith("session.") or key in SESSION_ENTRIES}
    )
    level = int(((config.get("optimization") or {}).get("graph") or {}).get("level", 0))
    if level not in GRAPH_LEVELS:
        raise ConfigError(f"{name}: optimization.graph.level is {level}; it can be -1, 0, 1 or 2")
    mode = _integer(name, parameters, "execution_mode", 0)
    if mode not in (0, 1):
        raise ConfigError(f"{name}: parameter execution_mode is {mode}; it can be 0 (sequential) or 1 (parallel)")
    return Settings(
        intra_op_threads=_integer(name, parameters, "intra_op_thread_count", 0),
        inter_op_threads=_integer(name, parameters, "inter_op_thread_count", 0),
        parallel=mode == 1,
        graph_level=GRAPH_LEVELS[level],
        memory_arena=_boolean(name, parameters, "enable_mem_arena"),
        memory_pattern=_boolean(name, parameters, "enable_mem_pattern"),
        session_entries=entries,
        run_entries={key: parameters[key] for key in RUN_ENTRIES if key in parameters},
        cuda_options=_cuda_options(name, parameters),
        batch_sizes=_batch_sizes(name, parameters, config),
        request_threads=max(1, _integer(name, parameters, "request_threads", 1)),
        accelerators=_accelerators(config),
    )


def _integer(model: str, parameters: Mapping[str, str], key: str, default: int) -> int:
    text = parameters.get(key)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        raise ConfigError(f"{model}: parameter {key} is {text!r}; it has to be a whole number") from None
    if value < 0:
        raise ConfigError(f"{model}: parameter {key} is {value}; it cannot be negative")
    return value


def _boolean(model: str, parameters: Mapping[str, str], key: str) -> bool | None:
    text = parameters.get(key)
    if text is None:
        return None
    if text.lower() in ("1", "true"):
        return True
    if text.lower() in ("0", "false"):
        return False
    raise ConfigError(f"{model}: parameter {key} is {text!r}; it can be 1, true, 0 or false")


def _cuda_options(model: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """The C++ backend's older way of setting its CUDA provider, as provider options."""
    options = {}
    if "cudnn_conv_algo_search" in parameters:
        choice = _integer(model, parameters, "cudnn_conv_algo_search", 0)
        names = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")
        if choice >= len(names):
            raise ConfigError(f"{model}: parameter cudnn_conv_algo_search is {choice}; it can be 0, 1 or 2")
        options["cudnn_conv_algo_search"] = names[choice]
    if "gpu_mem_limit" in parameters:
        options["gpu_mem_limit"] = parameters["gpu_mem_limit"]
    if "arena_extend_strategy" in parameters:
        same = _integer(model, parameters, "arena_extend_strategy", 0) == 1
        options["arena_extend_strategy"] = "kSameAsRequested" if same else "kNextPowerOfTwo"
    if "do_copy_in_default_stream" in parameters:
        options["do_copy_in_default_stream"] = parameters["do_copy_in_default_stream"]
    return options


def _batch_sizes(model: str, parameters: Mapping[str, str], config: Mapping[str, Any]) -> tuple[int, ...]:
    text = parameters.get("batch_sizes", "")
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(word.isdigit() and int(word) > 0 for word in words):
        raise ConfigError(f"{model}: parameter batch_sizes is {text!r}; it is a list such as 1,2,4,8")
    # One list suits all models of a profile: where it goes over a model's own limit, that limit is the largest.
    preferred = (config.get("dynamic_batching") or {}).get("preferred_batch_size") or ()
    limit = max((int(size) for size in preferred), default=int(config.get("max_batch_size", 0)))
    return tuple(sorted({min(int(word), limit) for word in words})) if limit else ()


def _accelerators(config: Mapping[str, Any]) -> tuple[Accelerator, ...]:
    wanted = (config.get("optimization") or {}).get("execution_accelerators") or {}
    return tuple(
        Accelerator(where, str(entry.get("name", "")), {k: str(v) for k, v in (entry.get("parameters") or {}).items()})
        for where in ("gpu", "cpu")
        for entry in wanted.get(f"{where}_execution_accelerator") or ()
    )
