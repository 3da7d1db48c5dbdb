"""A model's folder in the model repository, written in one step or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from .errors import ExportError
from .family import Kind

if TYPE_CHECKING:
    from .catalogue import Entry

OUTPUTS: dict[Kind, tuple[tuple[str, str, str], ...]] = {
    "boxes": (("boxes", "TYPE_FP32", "100, 4"), ("scores", "TYPE_FP32", "100"), ("classes", "TYPE_INT32", "100")),
    "scene": (("presence", "TYPE_FP32", "1"),),
    "distance": (("nearness", "TYPE_FP32", "80, 80"),),
}
"""Outputs by kind: name, type and shape without the batch. docs/contracts.md says what they mean."""


def output_names(kind: Kind) -> tuple[str, ...]:
    return tuple(name for name, _, _ in OUTPUTS[kind])


def config_facts(entry: Entry, source: str) -> dict[str, str]:
    """What a network's `config.pbtxt` tells of it: licence, where its weights are from, and its weight if it votes."""
    facts = {"licence": entry.licence, "source": source}
    return facts if entry.weight is None else {**facts, "pool_weight": f"{entry.weight:g}"}


def config(name: str, kind: Kind, facts: dict[str, str], *, backend: str = "onnxruntime", batch: int = 32,
           file: str | None = None) -> str:  # fmt: skip
    """Text of `config.pbtxt`. `facts` are kept as parameters, where the server's operators and `wire` read them."""
    platform = 'platform: "tensorrt_plan"' if backend == "tensorrt" else f'backend: "{backend}"'
    lines = [
        f'name: "{name}"',
        platform,
        *([f'default_model_filename: "{file}"'] if file else []),
        f"max_batch_size: {batch}",
        "input [",
        '  { name: "canvas" data_type: TYPE_UINT8 dims: [ 640, 640, 3 ] }',
        "]",
        "output [",
        ",\n".join(f'  {{ name: "{n}" data_type: {kind_} dims: [ {dims} ] }}' for n, kind_, dims in OUTPUTS[kind]),
        "]",
        "instance_group [ { count: 1 } ]",
        "dynamic_batching { }",
        *(f'parameters {{ key: "{k}" value: {{ string_value: {quoted(v)} }} }}' for k, v in sorted(facts.items())),
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """`text` as `config.pbtxt` has it, quotes included."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'


@contextlib.contextmanager
def draft(target: Path, room: int = 0) -> Iterator[Path]:
    """A new folder that takes the place of `target` when the block ends well, and is gone otherwise, also on Ctrl-C.

    Args:
        room: bytes that will be written; refused at once where the disk has less.

    Raises:
        ExportError: no room, or the place cannot be written to.
    """
    parent = target.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        if free < room:
            raise ExportError(f"{parent}: {free / 1e9:.1f} GB free, {room / 1e9:.1f} GB are needed")
        new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=parent))
    except OSError as error:
        raise ExportError(f"{parent}: cannot be written to: {error.strerror or error}") from None
    try:
        with terminated():
            yield new
            os.chmod(new, 0o755)
            _replace(new, target)
    except OSError as error:
        raise ExportError(f"{target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _replace(new: Path, target: Path) -> None:
    """Rename `new` to `target`; what was there is removed afterwards, and comes back where the rename fails."""
    if not target.exists():
        new.rename(target)
        return
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def terminated() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that nothing half made is left."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: the main thread decides
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
