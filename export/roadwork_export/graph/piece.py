"""Torch modules as ONNX, and the pieces of a model joined into one file."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from onnx import compose
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ExportError, first_line
from ..family import SIDE

IR_VERSION = 10
"""Of the file; ONNX Runtime reads it from 1.18 on (Triton's images since 24.07)."""
OPSETS = (17, 20)
"""Lowest and highest opset that is written: TensorRT 10 and ONNX Runtime 1.18 read both."""
LARGEST = 2_000_000_000
"""Bytes of a single protobuf; larger models keep their weights in a file beside it."""


def tensors(value: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One tensor or several, as a tuple."""
    return (value,) if isinstance(value, Tensor) else tuple(value)


def write_piece(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path, opset: int, names: tuple[list[str], list[str]]
) -> None:
    """`module` as ONNX with a dynamic batch; `names` are those of its inputs and outputs.

    torch's newer exporter, by torch.export, fails on most detectors here; this one takes them all.

    Raises:
        ExportError: it cannot be expressed in this opset; the message has the exporter's reason.
    """
    try:
        with quiet():
            torch.onnx.export(
                module, inputs, str(path), input_names=names[0], output_names=names[1], opset_version=opset,
                dynamic_axes={name: {0: "batch"} for name in (*names[0], *names[1])}, dynamo=False,
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError) as error:
        raise ExportError(f"{type(module).__name__} cannot be written in opset {opset}: {first_line(error)}") from error


def join(paths: Sequence[Path], target: Path, opset: int, metadata: Mapping[str, str]) -> None:
    """One checked file of pieces that follow each other: the outputs of each are the inputs of the next, by name.

    Nodes are named for their piece (`pre/`, `core/`, `decode/`), so that a converter can tell them apart.
    """
    whole: onnx.ModelProto | None = None
    for path in paths:
        piece = onnx.load(str(path))
        piece.ir_version = IR_VERSION
        _one_opset(piece, opset, path)
        outside = {value.name for value in (*piece.graph.input, *piece.graph.output)}
        piece = compose.add_prefix(piece, f"{path.stem}/", rename_inputs=False, rename_outputs=False)
        if whole is None:
            whole = piece
            continue
        passed = [(output.name, output.name) for output in whole.graph.output]
        lacking = {name for name, _ in passed} - outside
        if lacking:
            raise ExportError(f"{path.stem} does not take {', '.join(sorted(lacking))}")
        # merge_models wants the names of the two sides apart.
        piece = compose.add_prefix(
            piece, "in:", rename_nodes=False, rename_edges=False, rename_outputs=False, rename_initializers=False,
            rename_value_infos=False, rename_functions=False,
        )  # fmt: skip
        whole = compose.merge_models(whole, piece, io_map=[(name, f"in:{name}") for name, _ in passed])
    assert whole is not None
    del whole.opset_import[1:]  # merging repeats it, and onnxruntime's quantizer refuses that
    whole.producer_name = "roadwork-export"
    onnx.helper.set_model_props(whole, dict(metadata))
    save(whole, target)


def save(model: onnx.ModelProto, target: Path) -> None:
    """Write and check it; weights of more than LARGEST bytes go to `<target>.data`."""
    large = model.ByteSize() > LARGEST if sum(len(t.raw_data) for t in model.graph.initializer) < LARGEST else True
    onnx.save_model(
        model, str(target), save_as_external_data=large, location=f"{target.name}.data", all_tensors_to_one_file=True
    )
    onnx.checker.check_model(str(target), full_check=not large)


def _one_opset(piece: onnx.ModelProto, opset: int, path: Path) -> None:
    have = next((o.version for o in piece.opset_import if o.domain in ("", "ai.onnx")), None)
    if have != opset:
        raise ExportError(f"{path.stem} was written in opset {have}, not {opset}; try another --opset")
    others = sorted({o.domain for o in piece.opset_import if o.domain not in ("", "ai.onnx")})
    used = {node.domain for node in piece.graph.node}
    strange = [domain for domain in others if domain in used]
    if strange:
        raise ExportError(f"{path.stem} uses operators of {', '.join(strange)}, which other runtimes do not know")
    kept = [o for o in piece.opset_import if o.domain in ("", "ai.onnx")]
    del piece.opset_import[:]
    piece.opset_import.extend(kept)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters say about themselves; what fails is raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def write_graph(
    pieces: tuple[nn.Module, nn.Module, nn.Module], outputs: tuple[str, ...], target: Path, opset: int,
    metadata: Mapping[str, str], scratch: Path,
) -> None:  # fmt: skip
    """`pre`, `core` and `decode` as one file with input `canvas` and these outputs.

    `gigaflops` joins the metadata: floating point operations of `core` for an image, products and sums, as torch counts
    them.
    """
    pre, core, decode = (piece.eval().requires_grad_(False) for piece in pieces)  # torch's counter fails on gradients
    canvas = torch.randint(0, 256, (2, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = tensors(pre(canvas))
        with FlopCounterMode(display=False) as counter:
            said = tensors(core(*seen))
        metadata = {**metadata, "gigaflops": f"{counter.get_total_flops() / len(canvas) / 1e9:.3f}"}
        x, y = [f"x{i}" for i in range(len(seen))], [f"y{i}" for i in range(len(said))]
        write_piece(pre, (canvas,), scratch / "pre.onnx", opset, (["canvas"], x))
        write_piece(core, seen, scratch / "core.onnx", opset, (x, y))
        write_piece(decode, said, scratch / "decode.onnx", opset, (y, list(outputs)))
    join([scratch / f"{name}.onnx" for name in ("pre", "core", "decode")], target, opset, metadata)
