"""Environment of the engine's processes: nothing is reported or fetched, and no thread spins or is pinned.

Imported before torch or vLLM, which read these once. What is set from outside (a profile, the caller) is left alone.
"""

from __future__ import annotations

import locale
import os
from collections.abc import Mapping, MutableMapping
from typing import Any

DEFAULTS: Mapping[str, str] = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Weights that are not here are a load error with the command that brings them, not a download within a load.
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
    # A forked engine would inherit the threads and the shared memory of Triton's stub half alive.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
# On a CPU the machine is shared with detectors: threads that wait must sleep, and none may own a core.
CPU_DEFAULTS: Mapping[str, str] = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_WAIT_POLICY": "PASSIVE",
    # With binding off there is nothing that needs an executor process of its own: the worker runs in the engine's
    # process, which saves an interpreter that has imported torch (time to start and memory).
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # An engine's processes are all on this machine: neither a network card's address nor the machine's own name, which
    # may be looked up in a network that does not answer, has to do with them.
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
}

NICENESS = 5
"""A process of niceness 5 gets a third of the share of one of niceness 0 where both want the same core."""


def prepare_environment(variables: MutableMapping[str, str] = os.environ) -> None:
    """Set what is not set. Triton's stub runs in the ASCII locale, in which vLLM cannot read its own files."""
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    for name, value in DEFAULTS.items():
        variables.setdefault(name, value)


def prepare_cpu(engine: dict[str, Any], threads: int, variables: MutableMapping[str, str] = os.environ) -> None:
    """The same for a host without GPU; fills in engine settings that model.json leaves open, and steps back behind the
    detectors: an engine that starts keeps every core busy for half a minute, in which perception must go on serving.

    Args:
        engine: settings of model.json; `distributed_executor_backend` and the size of the key-value cache are added.
        threads: of OpenMP; 0 takes half of the cores.
        variables: to set them in.
    """
    for name, value in CPU_DEFAULTS.items():
        variables.setdefault(name, value)
    if os.nice(0) < NICENESS:
        os.nice(NICENESS - os.nice(0))
    cores = len(os.sched_getaffinity(0))
    _set_threads(threads, max(1, cores // 2), variables)
    if engine.get("enforce_eager"):
        # vLLM compiles a helper of its sampler all the same, at the first request that asks for log-probabilities:
        # 15 s and a C++ compiler for nothing.
        variables.setdefault("TORCH_COMPILE_DISABLE", "1")
    if "VLLM_CPU_KVCACHE_SPACE" not in variables:
        # vLLM would take a share of the whole machine's memory.
        engine.setdefault("kv_cache_memory_bytes", 1 << 30)
    ranks = int(engine.get("tensor_parallel_size", 1)) * int(engine.get("pipeline_parallel_size", 1))
    if ranks == 1:
        engine.setdefault("distributed_executor_backend", "uni")


def prepare_gpu(threads: int, variables: MutableMapping[str, str] = os.environ) -> None:
    """The same for a host with a GPU: what is left to the processor are single images, over which a team of threads in
    each process only fights for the cores. `threads` of OpenMP; 0: one."""
    import torch

    _set_threads(threads, 1, variables)  # of the engine's processes
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))  # of this one, where torch has been imported


def _set_threads(threads: int, default: int, variables: MutableMapping[str, str]) -> None:
    """config.pbtxt has the last word; where it is silent, what is set from outside stays."""
    if threads:
        variables["OMP_NUM_THREADS"] = str(threads)
    else:
        variables.setdefault("OMP_NUM_THREADS", str(default))
