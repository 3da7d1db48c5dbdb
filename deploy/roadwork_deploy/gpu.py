"""Is there a GPU, and can ONNX Runtime use it?"""

from __future__ import annotations

import ctypes
import uuid
from dataclasses import dataclass

from roadwork_deploy.errors import PlatformError


@dataclass(frozen=True)
class Device:
    """A GPU of this machine: its identity and its memory in bytes, as CUDA shows it."""

    uuid: str
    bytes: int


def count_gpus() -> int:
    """GPUs that the NVIDIA driver shows to this process; 0 without a driver."""
    return len(list_gpus())


def list_gpus() -> list[Device]:
    """GPUs that the NVIDIA driver shows to this process, in CUDA's order; none without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    found = []
    for index in range(count.value):
        device, size, identity = ctypes.c_int(0), ctypes.c_size_t(0), (ctypes.c_char * 16)()
        if (
            cuda.cuDeviceGet(ctypes.byref(device), index) == 0
            and cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device) == 0
            and cuda.cuDeviceGetUuid(ctypes.byref(identity), device) == 0
        ):
            found.append(Device(f"GPU-{uuid.UUID(bytes=identity.raw)}", size.value))
    return found


def check_gpu(profile: str) -> None:
    """Raises PlatformError, saying what to do, where a GPU profile could not serve."""
    if count_gpus() == 0:
        raise PlatformError(f"profile {profile} needs an NVIDIA GPU, and the driver shows none; use --profile cpu")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise PlatformError(
            f"profile {profile} needs ONNX Runtime with CUDA, and the one installed has none; run: "
            "pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )
