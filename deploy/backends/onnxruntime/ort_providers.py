"""Chooses ONNX Runtime's execution providers for one instance: by its device and by the accelerators asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ort_settings import Accelerator, ConfigError, Settings

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
PROVIDERS = {
    "tensorrt": TENSORRT,
    "cuda": CUDA,
    "openvino": "OpenVINOExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
}
# Triton's parameter names of the TensorRT accelerator that are not ONNX Runtime's own.
TENSORRT_KEYS = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
PRECISIONS: dict[str, dict[str, str]] = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "BF16": {"trt_bf16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}

Provider = tuple[str, dict[str, str]]


def choose_providers(
    model: str, settings: Settings, kind: str, device_id: int, available: Sequence[str]
) -> tuple[list[Provider], list[str]]:
    """Providers in order of preference, and one sentence for each accelerator that is not installed.

    Args:
        model: name for messages.
        settings: of the model.
        kind: `model_instance_kind` of the instance, "CPU", "GPU" or "MODEL".
        device_id: of the GPU; without meaning for "CPU".
        available: what the installed ONNX Runtime has.

    Raises:
        ConfigError: the instance is on a GPU and the installed ONNX Runtime cannot use one.
    """
    on_gpu = kind == "GPU"
    if on_gpu and CUDA not in available:
        raise ConfigError(
            f"{model}: its instance group is on GPU {device_id}, but the installed ONNX Runtime has no {CUDA}; "
            "install onnxruntime-gpu in place of onnxruntime, or set kind: KIND_CPU"
        )
    device = {"device_id": str(device_id)}
    chosen: list[Provider] = []
    missing: list[str] = []
    cuda = dict(settings.cuda_options)
    for accelerator in settings.accelerators:
        if (accelerator.where == "gpu") != on_gpu:
            continue  # the C++ backend looks at the list of the instance's own device only
        provider = PROVIDERS.get(accelerator.name)
        if provider is None or provider not in available:
            missing.append(
                f"{model}: accelerator {accelerator.name!r} is not in the installed ONNX Runtime "
                f"(it has {', '.join(available)}); running without it"
            )
        elif provider == CUDA:
            cuda.update(accelerator.options)
        else:
            chosen.append((provider, _options(model, accelerator, provider, device)))
    if on_gpu:
        chosen.append((CUDA, {**cuda, **device}))
    return [*chosen, (CPU, {})], missing


def _options(model: str, accelerator: Accelerator, provider: str, device: dict[str, str]) -> dict[str, str]:
    if provider != TENSORRT:
        return dict(accelerator.options)
    options = dict(device)
    for key, value in accelerator.options.items():
        if key == "precision_mode":
            if value not in PRECISIONS:
                raise ConfigError(f"{model}: precision_mode {value!r} is not one of {', '.join(PRECISIONS)}")
            options.update(PRECISIONS[value])
        else:
            options[TENSORRT_KEYS.get(key, key)] = value
    return options


def describe(providers: Sequence[Provider]) -> str:
    """Short text for the log: "TensorRT, CUDA 0, CPU"."""
    names = []
    for name, options in providers:
        device: Any = options.get("device_id")
        short = name.removesuffix("ExecutionProvider")
        names.append(f"{short} {device}" if device is not None else short)
    return ", ".join(names)
