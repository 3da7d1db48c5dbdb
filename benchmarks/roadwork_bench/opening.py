"""Opens what the model repository holds, without Triton: the peers' own environment has it not."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

import onnxruntime as ort
from roadwork_cascade.engine import ModelUnavailable

_LOADING = threading.RLock()


def load_module(path: Path, name: str) -> ModuleType:
    """A Python file of the model repository, under the plain name that its neighbours import it by."""
    with _LOADING:  # a module is known before it is whole
        known = sys.modules.get(name)
        if known is not None and Path(known.__file__ or "") == path:
            return known
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ModelUnavailable(f"{path} is not there")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


def onnx_session(path: Path, threads: int) -> ort.InferenceSession:
    """A CPU session with `threads` threads inside an operator, 0 for ONNX Runtime's own choice."""
    if not path.is_file():
        raise ModelUnavailable(f"{path} is missing; build it with: roadwork-export build {path.parents[1].name}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # As the server's backend has it: sessions that spin starve each other on few cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
