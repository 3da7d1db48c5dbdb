"""The committed networks compute on CUDA what they compute on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from roadwork_export.scenes import render_scene

REPOSITORY = Path(__file__).parents[2] / "model_repository"
CUDA = "CUDAExecutionProvider"


@pytest.mark.gpu
@pytest.mark.skipif(CUDA not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu and an NVIDIA GPU")
@pytest.mark.parametrize("name", ["scene", "yolox_nano", "centernet_nano"])
def test_cuda_agrees_with_the_cpu(name: str) -> None:
    path = str(REPOSITORY / name / "1" / "model.onnx")
    canvas = np.full((2, 640, 640, 3), 114, np.uint8)
    for index in range(2):
        canvas[index, 120:520] = render_scene(9_100_000 + index, roadwork=True, width=640, height=400).image
    output = "presence" if name == "scene" else "scores"
    cuda = onnxruntime.InferenceSession(path, providers=[CUDA])
    assert cuda.get_providers()[0] == CUDA
    cpu = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got, expected = (session.run([output], {"canvas": canvas})[0] for session in (cuda, cpu))
    # TF32 convolutions keep about three digits.
    np.testing.assert_allclose(got, expected, atol=0.02)
