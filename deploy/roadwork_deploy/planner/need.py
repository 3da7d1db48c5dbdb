"""What a model needs of the GPUs that it is put on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Need:
    """One way of serving a model.

    Attributes:
        name: of the catalogue and of the folder.
        kind: a tier is one engine over `gpus` GPUs; a detector is one process on one GPU.
        precision: of the weights.
        gpus: that share it (tensor parallelism).
        parts: what -> bytes on each of its GPUs, once it has been busy.
        at_start: bytes on each before its first request.
        on: name of the GPU that it was reckoned for; empty: any.
        engine: of a tier, settings for model.json.
        checkpoint: hub id of a tier's published weights in this precision; None: those that the folder names.
        batch: of a detector, images that are computed together at most.
        notes: what is to be known about it.
    """

    name: str
    kind: Literal["tier", "detector"]
    precision: str
    gpus: int
    parts: Mapping[str, int]
    at_start: int
    on: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    batch: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """On each of its GPUs, once it has been busy."""
        return sum(self.parts.values())
