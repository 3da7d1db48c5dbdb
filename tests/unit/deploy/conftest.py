"""Small repositories of configurations alone: what is checked here never starts a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from roadwork_deploy.embedded import BACKENDS

# A backend's modules are found as tritonserver's stub finds them: beside its model.py.
sys.path += [str(BACKENDS / "onnxruntime"), str(BACKENDS / "vllm"), str(BACKENDS / "openai")]
sys.path.append(str(Path(__file__).parent))

DECODE = """
backend: "python" max_batch_size: 16
input [{ name: "image" data_type: TYPE_STRING dims: [1] }]
output [
  { name: "canvas" data_type: TYPE_UINT8 dims: [640, 640, 3] },
  { name: "geometry" data_type: TYPE_FP32 dims: [5] }
]
parameters { key: "max_mebibytes" value { string_value: "7" } }
parameters { key: "max_megapixels" value { string_value: "9" } }
"""
DETECTOR = """
backend: "onnxruntime" max_batch_size: 8
input [{ name: "canvas" data_type: TYPE_UINT8 dims: [640, 640, 3] }]
output [
  { name: "boxes" data_type: TYPE_FP32 dims: [100, 4] },
  { name: "scores" data_type: TYPE_FP32 dims: [100] },
  { name: "classes" data_type: TYPE_INT32 dims: [100] }
]
dynamic_batching { }
"""
NETWORKS = """
backend: "python" max_batch_size: 1
input [{ name: "image" data_type: TYPE_STRING dims: [1] }]
"""
SCENE = """
platform: "onnxruntime_onnx" max_batch_size: 4
input [{ name: "canvas" data_type: TYPE_UINT8 dims: [640, 640, 3] }]
output [{ name: "presence" data_type: TYPE_FP32 dims: [1] }]
"""
OTHER = """
backend: "python"
input [{ name: "image" data_type: TYPE_STRING dims: [1] }]
output [{ name: "presence" data_type: TYPE_FP32 dims: [1] }]
"""


def add(repository: Path, name: str, config: str, filename: str = "model.onnx") -> None:
    """A model folder with an empty model file."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    (repository / name / "1" / filename).touch()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """decode, two detectors, a scene model, all three in one process, sign_text, roadwork and its streaming twin."""
    path = tmp_path / "models"
    add(path, "decode", DECODE, "model.py")
    add(path, "first", DETECTOR)
    add(path, "second", DETECTOR)
    add(path, "sight", SCENE)
    add(path, "networks", NETWORKS, "model.py")
    add(path, "sign_text", OTHER, "model.py")
    add(path, "roadwork", OTHER, "model.py")
    add(path, "roadwork_stream", OTHER, "model.py")
    return path
