"""A network that takes its canvas as float32 instead of uint8: the cast at its beginning is left out."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from roadwork_bench.errors import BenchError


def takes_floats(source: Path, target: Path) -> None:
    """Write `source` with a float32 `canvas`. Its answers stay as they are.

    Raises:
        BenchError: the graph does something else with its uint8 canvas than to cast it to float32.
    """
    model = onnx.load(str(source))
    graph = model.graph
    canvas = next((value for value in graph.input if value.name == "canvas"), None)
    users = [node for node in graph.node if "canvas" in node.input]
    casts = [node for node in users if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT]
    if canvas is None or not users or len(casts) != len(users):
        raise BenchError(f"{source}: its canvas is not only cast to float32, so there is no float variant of it")
    canvas.type.tensor_type.elem_type = TensorProto.FLOAT
    renamed = {cast.output[0]: "canvas" for cast in casts}
    for cast in casts:
        graph.node.remove(cast)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    onnx.checker.check_model(model)
    onnx.save(model, str(target))
