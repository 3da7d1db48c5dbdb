"""How large the numbers in a network get, for precisions that cannot hold all of them.

A check on a CPU cannot find out: ONNX Runtime computes float16 there in float32, where nothing overflows, and the same
file answers with infinities on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

LARGEST_HALF = float(np.finfo(np.float16).max)
HEADROOM = 4.0
"""What other images may bring beyond those that were looked at."""
SEEN = "ranges/"


def over(source: Path, canvases: Sequence[np.ndarray], prefix: str, limit: float = LARGEST_HALF / HEADROOM) -> set[str]:
    """Names of nodes under `prefix` of a float32 file that take or give a float over `limit`, on canvases uint8
    [640, 640, 3]; constants are no such nodes, and who takes one is. Infinities count, as masks of attention have them.
    """
    model = onnx.load(str(source), load_external_data=False)
    nodes = [node for node in model.graph.node if node.name.startswith(prefix)]
    largest = _constants(model, source.parent) | _seen(model, nodes, source, canvases)
    large = {name for name, value in largest.items() if not value <= limit}
    steps = (node for node in nodes if node.op_type != "Constant")
    return {node.name for node in steps if large.intersection((*node.input, *node.output))}


def _constants(model: onnx.ModelProto, folder: Path) -> dict[str, float]:
    """Largest magnitude in each float initializer."""
    return {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor, str(folder))).max(initial=0.0))
        for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT
    }  # fmt: skip


def _seen(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], source: Path, canvases: Sequence[np.ndarray]
) -> dict[str, float]:
    """Largest magnitude of each float output of `nodes`, which the graph itself computes: scalars leave it, and no more
    of its tensors are in memory than else.
    """
    typed = onnx.shape_inference.infer_shapes(model).graph
    floats = {v.name for v in (*typed.value_info, *typed.output) if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    names = [name for node in nodes for name in node.output if name in floats]
    graph = model.graph
    for name in names:
        size, most = f"{SEEN}{name}/size", f"{SEEN}{name}"
        graph.node.append(helper.make_node("Abs", [name], [size]))
        graph.node.append(helper.make_node("ReduceMax", [size], [most], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(most, TensorProto.FLOAT, []))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Weights outside the file are named relative to it.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(source.parent))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = [f"{SEEN}{name}" for name in names]
    found = [[float(value) for value in session.run(wanted, {"canvas": canvas[None]})] for canvas in canvases]
    # np.max hands on what is not a number, and that is over any limit.
    return dict(zip(names, np.max(found, axis=0).tolist(), strict=True)) if names else {}
