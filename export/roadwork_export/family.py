"""What a family of models offers so that it can be exported, checked and served.

A family is one file in `families/` with one class. It opens a model in its own library and hands over three pieces,
which become one graph: `pre` (canvas to the network's input), `core` (the network) and `decode` (its answers to the
contract's tensors). Their nodes keep their piece's name, so that only `core` is ever converted to a lower precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from .catalogue import Entry
    from .classes import ClassMap

Kind = Literal["boxes", "scene", "distance"]
SIDE = 640
"""Pixels of a canvas's side."""


@dataclass(frozen=True)
class Weights:
    """Where a model's numbers come from: a path or a hub id, else `seed` for random ones."""

    source: str | None = None
    seed: int = 0

    @property
    def random(self) -> bool:
        return self.source is None

    def __str__(self) -> str:
        return f"random weights, seed {self.seed}" if self.source is None else self.source


@dataclass(frozen=True)
class Found:
    """What a model's own pipeline found on one canvas: boxes float [N, 4] as x1 y1 x2 y2 in canvas pixels, scores
    float [N] in [0, 1], labels int [N] as positions in the model's `labels`."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Source(ABC):
    """A model in its own library, in evaluation mode on the CPU.

    Attributes:
        labels: names of its classes; empty for scene and distance models.
        table: label -> class of the taxonomy, where the labels were made from such a table (prompts).
        pre: module, canvas uint8 [B, 640, 640, 3] RGB -> the inputs of `core`, a tensor or a tuple.
        core: module, those inputs -> a tensor or a tuple of tensors.
        opset: lowest ONNX opset that `core` can be written in.
    """

    labels: tuple[str, ...] = ()
    table: dict[str, str] | None = None
    pre: nn.Module
    core: nn.Module
    opset: int = 17

    @abstractmethod
    def decode(self, classes: ClassMap) -> nn.Module:
        """Module, outputs of `core` -> boxes float [B, 100, 4] in canvas pixels, scores float [B, 100] descending,
        classes int32 [B, 100]; of a scene model presence float [B, 1]; of a distance model nearness [B, 80, 80]."""

    @abstractmethod
    def look(self, canvas: np.ndarray) -> Found | np.ndarray:
        """What the library's own pipeline says of a canvas uint8 [640, 640, 3]: its own resizing, its own decoding.

        Boxes down to a score of 0.01. A scene model returns presence [1], a distance model nearness [80, 80].
        """


class Family(ABC):
    """Models that are opened alike; `name` is what the catalogue calls it."""

    name: ClassVar[str]
    kind: ClassVar[Kind]
    packages: ClassVar[tuple[str, ...]] = ()
    """Modules to import, with the extra that brings them: see `registry.need`."""
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    """Those that its answers survive."""
    keep: ClassVar[tuple[str, ...]] = ()
    """Parts of names of nodes of `core` that stay in float32 at lower precisions."""

    @abstractmethod
    def open(self, entry: Entry, weights: Weights) -> Source:
        """The model of a catalogue entry with these weights.

        Raises:
            WeightsError: they are not there or belong to another model.
        """
