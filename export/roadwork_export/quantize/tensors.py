"""What lies in a folder of safetensors files: names, shapes and bytes, read from the headers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import WeightsError
from .schemes import is_kept

LARGEST_HEADER = 100 << 20
LAYER = ".layers."
SCALE = ".weight_scale"
CHUNK = 16 << 20


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file; `begin` and `end` are offsets in the file, in bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Every tensor by its name.

    Raises:
        WeightsError: there are no safetensors files, or one is damaged.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > LARGEST_HEADER:
                    raise ValueError("its header is too long")
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = (8 + length + int(offset) for offset in entry["data_offsets"])
                found[name] = Tensor(path, entry["dtype"], tuple(entry["shape"]), begin, end)
            if max((tensor.end for tensor in found.values() if tensor.file == path), default=0) > path.stat().st_size:
                raise ValueError("it ends too early")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise WeightsError(f"{path}: not a safetensors file: {error}") from None
    if not found:
        raise WeightsError(f"{folder}: holds no weights (*.safetensors)")
    return found


def linear_layers(tensors: dict[str, Tensor], kept: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The layers that will be compressed: module's name -> (output features, input features)."""
    return {
        name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for name, tensor in tensors.items()
        if name.endswith(".weight") and LAYER in name and len(tensor.shape) == 2 and not is_kept(name, kept)
    }


def compressed_layers(tensors: Iterable[str]) -> set[str]:
    """Names of the modules whose weights have a scale."""
    return {name.removesuffix(SCALE) for name in tensors if name.endswith(SCALE)}


def total(tensors: dict[str, Tensor]) -> int:
    """Bytes of all tensors: what the weights take in memory, where the engine does not convert them."""
    return sum(tensor.size for tensor in tensors.values())


def layers_total(tensors: dict[str, Tensor], layers: Iterable[str]) -> int:
    """Bytes of these modules, scales and whatever else they have among them."""
    wanted = set(layers)
    return sum(tensor.size for name, tensor in tensors.items() if name.rpartition(".")[0] in wanted)


def changed(before: dict[str, Tensor], after: dict[str, Tensor], layers: Iterable[str]) -> list[str]:
    """Names of the tensors outside of `layers` that are gone, or not the same byte for byte."""
    wanted = set(layers)
    rest = [name for name in before if name.rpartition(".")[0] not in wanted]
    return [name for name in rest if name not in after or not _same(before[name], after[name])]


def _same(a: Tensor, b: Tensor) -> bool:
    if (a.dtype, a.shape, a.size) != (b.dtype, b.shape, b.size):
        return False
    with a.file.open("rb") as one, b.file.open("rb") as other:
        one.seek(a.begin)
        other.seek(b.begin)
        left = a.size
        while left:
            step = min(left, CHUNK)
            if one.read(step) != other.read(step):
                return False
            left -= step
    return True
