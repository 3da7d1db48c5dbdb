"""Is there a GPU, and can ONNX Runtime use it?"""

from __future__ import annotations

import ctypes

from roadwork_deploy.errors import PlatformError


def count_gpus() -> int:
    """GPUs that the NVIDIA driver shows to this process; 0 without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


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
