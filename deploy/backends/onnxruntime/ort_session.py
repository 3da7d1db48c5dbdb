"""Finds the ONNX file of a model version and opens a session on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ort_providers import CPU, Provider
from ort_settings import ConfigError, Settings


def find_file(model: str, folder: Path, filename: str) -> Path:
    """Path of the model file; as in the C++ backend a folder of that name may hold `model.onnx`.

    Args:
        model: name for the message.
        folder: of the version, `<repository>/<model>/<version>`.
        filename: `default_model_filename`, or "" for `model.onnx`.

    Raises:
        ConfigError: there is no such file; the message names it and the command that builds it.
    """
    path = folder / (filename or "model.onnx")
    if path.is_dir():
        path = path / "model.onnx"
    if not path.is_file():
        raise ConfigError(f"{path} is missing; build it with: roadwork-export build {model}")
    return path


def open_session(path: Path, settings: Settings, providers: Sequence[Provider]) -> tuple[Any, Any]:
    """An `onnxruntime.InferenceSession` and the `RunOptions` to run it with (None where nothing is set).

    Raises:
        ConfigError: the file is no ONNX file that the installed ONNX Runtime can run.
    """
    import onnxruntime as ort  # here, so that a stub which only completes a configuration starts at once

    names = [name for name, _ in providers]
    if names != [CPU] and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that pip installed
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = settings.intra_op_threads
    options.inter_op_num_threads = settings.inter_op_threads
    if settings.parallel:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, settings.graph_level)
    if settings.memory_arena is not None:
        options.enable_cpu_mem_arena = settings.memory_arena
    if settings.memory_pattern is not None:
        options.enable_mem_pattern = settings.memory_pattern
    for key, value in settings.session_entries.items():
        options.add_session_config_entry(key, value)
    try:
        session = ort.InferenceSession(
            str(path), options, providers=names, provider_options=[values for _, values in providers]
        )
    except Exception as error:
        raise ConfigError(f"{path}: ONNX Runtime {ort.__version__} cannot open it: {error}") from error
    # ONNX Runtime drops a provider that fails to start and goes on with the next: that would be a slow surprise.
    dropped = [name for name in names if name not in session.get_providers()]
    if dropped:
        raise ConfigError(
            f"{path}: {', '.join(dropped)} could not start (see ONNX Runtime's lines above); install the CUDA and "
            "cuDNN libraries that it names, or set kind: KIND_CPU"
        )
    run_options = None
    if settings.run_entries:
        run_options = ort.RunOptions()
        for key, value in settings.run_entries.items():
            run_options.add_run_config_entry(key, value)
    return session, run_options
