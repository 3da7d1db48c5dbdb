"""Lower precisions of a joined graph. Only nodes of `core/` are converted: what surrounds the network is cheap, and
box arithmetic in half precision has steps of half a pixel at 640.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from .piece import save
from .ranges import over

CORE = "core/"
HEAVY = ("Conv", "MatMul", "Gemm")
"""Operators that int8 is worth its loss for."""
SINGLE = (
    "ConvTranspose", "Conv", "MatMul", "Gemm", "Einsum", "LayerNormalization", "InstanceNormalization",
    "GroupNormalization", "Softmax", "Resize", "GridSample",
)  # fmt: skip
"""Operators that end the tail of a network, the steps between the last of these and an output."""
WIDE = (
    "TopK", "Range", "CumSum", "NonMaxSuppression", "RoiAlign", "Min", "Max",  # onnxruntime's own list
    "GridSample",  # ONNX Runtime's CUDA has it in float32 alone, and places are finer so
    "Pow", "Sqrt", "Reciprocal", "Log", "Exp", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2",  # squares and
    # sums pass 65504, and the small numbers that keep roots and logarithms finite are 0 in half precision
)  # fmt: skip
"""Operators that stay in float32."""
BETWEEN = ("Add", "Sub", "Mul", "Div", "Clip", "Max")
"""They do too where they stand between two of those: a mean square, its small addend, its root."""


def to_half(source: Path, target: Path, canvases: Sequence[np.ndarray], keep: Sequence[str] = ()) -> int:
    """Write `source` with its core in float16; inputs, outputs and metadata stay as they are.

    In float32 stay operators in WIDE, the tail of the core (steps after its last products, where coordinates and
    scores are made), nodes whose name contains one of `keep`, and those whose numbers come near what float16 holds on
    one of `canvases`, uint8 [640, 640, 3]: how many steps more these are is returned.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = onnx.load(str(source), load_external_data=False).graph
    alone, large = wide_of(graph, keep), over(source, canvases, CORE)
    wide = wide_of(graph, keep, large)
    # By its path: shapes of a model over 2 GB are inferred from the file alone.
    half = convert_float_to_float16(str(source), keep_io_types=True, op_block_list=[], node_block_list=sorted(wide))
    _without_detours(half)
    _finished(half, source, target)
    return len(large - alone)


def to_int8(source: Path, target: Path, canvases: Sequence[np.ndarray], keep: Sequence[str] = ()) -> None:
    """Write `source` with the heavy operators of its core in int8, by ranges seen on `canvases` uint8 [640, 640, 3].

    QuantizeLinear and DequantizeLinear nodes with zero points of 0 stand before each, which TensorRT and ONNX Runtime
    both read; weights are scaled by output channel; biases and all else stay in float32. Nodes whose name contains
    one of `keep` are left out.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    whole = onnx.load(str(source), load_external_data=False)
    weights = {tensor.name for tensor in whole.graph.initializer}
    chosen = [
        node.name for node in whole.graph.node
        if node.name.startswith(CORE) and node.op_type in HEAVY and node.input[1] in weights
        and not any(part in node.name for part in keep)
    ]  # fmt: skip
    large = any(tensor.external_data for tensor in whole.graph.initializer)
    with tempfile.TemporaryDirectory(prefix="int8-", dir=target.parent) as scratch, _quiet():
        draft = Path(scratch) / "int8.onnx"
        quantize_static(
            str(source), str(draft), _Canvases(canvases), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=list(HEAVY), nodes_to_quantize=chosen, activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8, use_external_data_format=large, calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(HEAVY),
            },
        )  # fmt: skip
        _finished(onnx.load(str(draft)), source, target)


def wide_of(graph: onnx.GraphProto, keep: Sequence[str] = (), large: Iterable[str] = ()) -> set[str]:
    """Names of the nodes that stay in float32; `large` among them."""
    nodes = list(graph.node)
    found = tail_of(graph).union(large)
    for node in nodes:
        if not node.name.startswith(CORE) or node.op_type in WIDE or any(part in node.name for part in keep):
            found.add(node.name)
    takers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    made = {name for node in nodes if node.op_type in WIDE for name in node.output}
    for node in nodes:
        after = [taker for name in node.output for taker in takers.get(name, ())]
        if node.op_type in BETWEEN and made.intersection(node.input) and any(t.op_type in WIDE for t in after):
            found.add(node.name)
    # Last, as they follow those that take them.
    for node in nodes:
        if node.op_type == "Constant" and all(t.name in found for t in takers.get(node.output[0], ())):
            found.add(node.name)
    return found


def tail_of(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes of the core between its last products and its outputs, with what they alone are made of."""
    nodes = {output: node for node in graph.node for output in node.output}
    inside = [node for node in graph.node if node.name.startswith(CORE)]
    outward = {name for node in graph.node if not node.name.startswith(CORE) for name in node.input}
    outward |= {value.name for value in graph.output}
    todo = [name for node in inside for name in node.output if name in outward]
    found: set[str] = set()
    while todo:
        node = nodes.get(todo.pop())
        if node is None or node.op_type in SINGLE or not node.name.startswith(CORE) or node.name in found:
            continue
        found.add(node.name)
        todo += node.input
    return found


def _without_detours(model: ModelProto) -> None:
    """Let float32 nodes that follow each other pass float32: the converter rounds to half and back between them."""
    graph = model.graph
    nodes = list({node.output[0]: node for node in graph.node}.values())  # some of its casts are there twice
    rounded = {node.output[0]: node.input[0] for node in nodes if node.name.endswith("_cast_to_fp16_node")}
    back = {node.output[0]: rounded[node.input[0]] for node in nodes if _widens(node, rounded)}
    outputs = {value.name for value in graph.output}
    taken = {back.get(name, name) for node in nodes if node.output[0] not in back for name in node.input}
    idle = (rounded.keys() - taken - outputs) | back.keys()
    # Tensors get back the names that they had before the casts that are gone.
    names = {rounded[name]: name for name in rounded.keys() & idle}
    names |= {back[name]: name for name in back.keys() & outputs}
    kept = [node for node in nodes if node.output[0] not in idle]
    for node in kept:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(back.get(name, name), back.get(name, name))
        for i, name in enumerate(node.output):
            node.output[i] = names.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)
    # Types of tensors that are gone or changed; the checker infers them anew.
    del graph.value_info[:]
    _sorted(graph)


def _widens(node: NodeProto, rounded: dict[str, str]) -> bool:
    """Whether it casts to float32 what was float32 before."""
    if node.op_type != "Cast" or node.input[0] not in rounded:
        return False
    return any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute)


def _sorted(graph: onnx.GraphProto) -> None:
    """Put nodes after those that they take from: the converter appends its casts at the end."""
    nodes = list(graph.node)
    made = {output for node in nodes for output in node.output}
    waiting: dict[str, list[int]] = {}
    lacks = []
    for i, node in enumerate(nodes):
        needs = {name for name in _reads(node) if name in made}
        lacks.append(len(needs))
        for name in needs:
            waiting.setdefault(name, []).append(i)
    ready = [i for i, count in enumerate(lacks) if count == 0]
    order = []
    for i in ready:  # grows while it is walked
        order.append(nodes[i])
        for output in nodes[i].output:
            for j in waiting.get(output, ()):
                lacks[j] -= 1
                if lacks[j] == 0:
                    ready.append(j)
    assert len(order) == len(nodes), "a graph has no circles"
    del graph.node[:]
    graph.node.extend(order)


def _reads(node: NodeProto) -> Iterable[str]:
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)


def _finished(model: ModelProto, source: Path, target: Path) -> None:
    """Save it with the metadata and version of `source`."""
    like = onnx.load(str(source), load_external_data=False)
    del model.metadata_props[:]
    model.metadata_props.extend(like.metadata_props)
    model.ir_version = like.ir_version
    model.producer_name = like.producer_name
    save(model, target)


class _Canvases:
    """What the quantizer of ONNX Runtime calibrates on, one canvas at a time."""

    def __init__(self, canvases: Sequence[np.ndarray]) -> None:
        self.left = iter(canvases)

    def get_next(self) -> dict[str, Any] | None:
        canvas = next(self.left, None)
        return None if canvas is None else {"canvas": canvas[None]}


class _quiet:
    """Without the quantizer's advice on models that it did not prepare itself."""

    def __enter__(self) -> None:
        self.level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().setLevel(self.level)
