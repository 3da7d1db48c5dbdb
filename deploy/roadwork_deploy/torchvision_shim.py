"""Lets the published torchvision be imported beside a torch that was built for CPUs alone.

torchvision's wheel on the package index is built for CUDA. Its compiled part does not load beside torch's CPU build,
and then importing it fails, because it wants to describe operators that nobody has registered. This module registers
them, without implementations, when torchvision is first imported, and only where its compiled part does not load.
What image processors use of torchvision (resizing, normalising) is plain torch.

`install_vllm` copies this file into site-packages and has a .pth file import it, so that it reaches every process of
the environment: Triton's stub and the engine's own. It imports nothing heavy by itself.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's costs time, and this runs at the start of every Python
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _Finder:
    """Finds nothing; being asked for torchvision is its signal."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            register()
        return None


def register() -> bool:
    """Register the operators if torchvision's own library cannot; whether that was needed."""
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    import torch

    folder = os.path.dirname(spec.origin)
    for name in os.listdir(folder):
        if not (name.startswith("_C") and name.endswith(".so")):
            continue
        try:
            torch.ops.load_library(os.path.join(folder, name))
            return False
        except (OSError, RuntimeError):
            continue
    global _library
    _library = torch.library.Library("torchvision", "DEF")  # operators live as long as this object
    for operator in OPERATORS:
        _library.define(operator)
    return True


_library: object = None

if "torchvision" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())
