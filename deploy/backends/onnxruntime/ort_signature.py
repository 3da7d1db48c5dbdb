"""Compares a model configuration with the ONNX file beside it, before the first request meets the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from ort_settings import ConfigError

# ONNX Runtime's type name -> Triton's.
TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


class Node(Protocol):
    """What `onnxruntime.InferenceSession` tells of an input or output (its NodeArg)."""

    name: str
    type: str
    shape: Sequence[int | str | None]


@dataclass(frozen=True)
class Tensor:
    """One input or output: its name, and how a request's shape becomes the file's.

    `reshape` is the shape that the file wants (without batch), or None where both are the same;
    `shape` is the one that Triton wants back.
    """

    name: str
    strings: bool
    optional: bool
    shape: tuple[int, ...]
    reshape: tuple[int, ...] | None

    def to_model(self, array: np.ndarray, batched: bool) -> np.ndarray:
        """A request's array as the ONNX file takes it; no copy unless it holds strings."""
        if self.strings:
            array = np.array([_text(value) for value in array.reshape(-1)], dtype=object).reshape(array.shape)
        if self.reshape is None:
            return array
        return array.reshape(_filled(self.reshape, array, batched))

    def to_triton(self, array: np.ndarray, batched: bool) -> np.ndarray:
        """An array of the ONNX file as Triton hands it out; strings become bytes."""
        if self.strings:
            array = np.array([_bytes(value) for value in array.reshape(-1)], dtype=object).reshape(array.shape)
        if self.reshape is None:
            return array
        return array.reshape(_filled(self.shape, array, batched))


def _filled(shape: tuple[int, ...], array: np.ndarray, batched: bool) -> tuple[int, ...]:
    return (array.shape[0], *shape) if batched else shape


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8")


def check_signature(
    path: str, config: Mapping[str, Any], inputs: Sequence[Node], outputs: Sequence[Node], overridable: Sequence[Node]
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of the configuration, checked against those of the file.

    Args:
        path: of the ONNX file, for messages.
        config: the model configuration.
        inputs: of the file.
        outputs: of the file.
        overridable: initialisers of the file that a request may replace, its optional inputs.

    Raises:
        ConfigError: for the first difference; the message names tensor and file and says what to do.
    """
    batched = int(config.get("max_batch_size", 0)) > 0
    required = {node.name: node for node in inputs}
    replaceable = {node.name: node for node in overridable}
    declared = list(config.get("input") or ())
    for name in required.keys() - {entry["name"] for entry in declared}:
        raise ConfigError(f"{path}: its input '{name}' is not in config.pbtxt; add it ({_as_config(required[name])})")
    read = [_check(path, "input", entry, {**replaceable, **required}, batched) for entry in declared]
    for tensor in read:
        if tensor.optional and tensor.name in required:
            raise ConfigError(
                f"{path}: input '{tensor.name}' is optional in config.pbtxt, but the file gives it no default; "
                "remove optional: true, or export the file with an initialiser of that name"
            )
    wanted = [
        _check(path, "output", entry, {n.name: n for n in outputs}, batched) for entry in config.get("output") or ()
    ]
    return read, wanted


def _check(path: str, kind: str, entry: Mapping[str, Any], nodes: Mapping[str, Node], batched: bool) -> Tensor:
    name = entry["name"]
    node = nodes.get(name)
    if node is None:
        raise ConfigError(
            f"{path}: there is no {kind} '{name}', which config.pbtxt has; the file has {', '.join(nodes) or 'none'}"
        )
    stored = TYPES.get(node.type)
    if stored is None:
        raise ConfigError(
            f"{path}: {kind} '{name}' is {node.type}, which this backend cannot serve; export another type"
        )
    if stored != entry["data_type"]:
        raise ConfigError(
            f"{path}: {kind} '{name}' is {stored} in the file and {entry['data_type']} in config.pbtxt; "
            f"set data_type: {stored} or export the model again"
        )
    if entry.get("allow_ragged_batch"):
        raise ConfigError(
            f"{path}: {kind} '{name}' has allow_ragged_batch, which needs NVIDIA's C++ backend; remove it"
        )
    outside = tuple(int(value) for value in entry["dims"])
    reshape = entry.get("reshape")
    inside = tuple(int(value) for value in reshape.get("shape") or ()) if reshape else outside
    _check_shape(path, kind, name, node, inside, batched)
    return Tensor(
        name=name,
        strings=stored == "TYPE_STRING",
        optional=bool(entry.get("optional")),
        shape=outside,
        reshape=inside if reshape else None,
    )


def _check_shape(path: str, kind: str, name: str, node: Node, dims: tuple[int, ...], batched: bool) -> None:
    stored = tuple(value if isinstance(value, int) and value >= 0 else -1 for value in node.shape)
    shown = "[" + ", ".join(str(value) for value in stored) + "]"
    if batched:
        if not stored or stored[0] != -1:
            raise ConfigError(
                f"{path}: {kind} '{name}' has shape {shown}, whose first dimension is not variable, so requests cannot "
                "be batched; export it with a dynamic batch dimension or set max_batch_size: 0"
            )
        stored = stored[1:]
    fits = len(stored) == len(dims) and all(a in (-1, b) or b == -1 for a, b in zip(stored, dims, strict=True))
    if not fits:
        rest = list(stored)
        raise ConfigError(
            f"{path}: {kind} '{name}' has shape {shown} in the file and dims {list(dims)} in config.pbtxt"
            f"{' (after the batch dimension)' if batched else ''}; set dims: {rest} or export the model again"
        )


def _as_config(node: Node) -> str:
    dims = [value if isinstance(value, int) else -1 for value in node.shape]
    return f"data_type {TYPES.get(node.type, node.type)}, dims {dims} with the batch dimension"


def complete(config: Mapping[str, Any], inputs: Sequence[Node], outputs: Sequence[Node]) -> dict[str, Any]:
    """The `input`, `output` and `max_batch_size` that a configuration leaves out, read from the file.

    As the C++ backend does: a model whose every first dimension is variable is batched, at most 4 requests.
    """
    found: dict[str, Any] = {}
    nodes = [*inputs, *outputs]
    dynamic = all(len(node.shape) > 0 and not isinstance(node.shape[0], int) for node in nodes)
    batch = int(config.get("max_batch_size", 0))
    if not batch and not config.get("input") and not config.get("output") and dynamic:
        batch = found["max_batch_size"] = 4
    for key, side in (("input", inputs), ("output", outputs)):
        if not config.get(key):
            found[key] = [
                {
                    "name": node.name,
                    "data_type": TYPES.get(node.type, node.type),
                    "dims": [v if isinstance(v, int) else -1 for v in (node.shape[1:] if batch else node.shape)],
                }
                for node in side
            ]
    return found


NUMPY = {"tensor(float)": "float32", "tensor(double)": "float64"}


def blank(inputs: Sequence[Node], size: int) -> dict[str, np.ndarray] | None:
    """A batch of zeros for a session; None where a shape behind the batch is not fixed, or holds strings."""
    made = {}
    for node in inputs:
        shape = list(node.shape)[1:]
        if node.type == "tensor(string)" or not all(isinstance(side, int) for side in shape):
            return None
        kind = NUMPY.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
        made[node.name] = np.zeros((size, *(int(side or 0) for side in shape)), kind)
    return made
