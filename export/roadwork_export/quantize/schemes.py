"""What the schemes compress to, and which layers of an architecture keep their precision."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import ExportError

GROUPS = (128, 64, 32)
"""Weights of a group, which have a scale in common: all of them are served by vLLM's 4-bit kernels, the largest is
smallest and fastest."""


@dataclass(frozen=True)
class Scheme:
    """A way to compress the linear layers of the text model.

    Attributes:
        preset: its name in compressed-tensors.
        method: `gptq` rounds each weight so that the errors of its neighbours are made good, by what the layers saw of
            the calibration images (Frantar et al. 2022, arXiv 2210.17323); `round` rounds to the nearest, without any.
        bits: of a weight.
        grouped: weights have scales by group of input features, else by output channel.
        multiple: input and output features of a layer must be multiples of this.
        what: it is, in words.
    """

    name: str
    preset: str
    method: Literal["gptq", "round"]
    bits: int
    grouped: bool
    multiple: int
    what: str


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "w8a8-int8", "W8A8", "gptq", 8, False, 8,
            "8-bit integers: weights by output channel (GPTQ), activations by token while it runs",
        ),
        Scheme(
            "fp8-dynamic", "FP8_DYNAMIC", "round", 8, False, 16,
            "8-bit floats (E4M3): weights by output channel, to the nearest, activations by token while it runs",
        ),
        Scheme(
            "w4a16", "W4A16", "gptq", 4, True, 32,
            "4-bit integers: weights by group (GPTQ), activations as they are",
        ),
    )
}  # fmt: skip

KEPT: dict[str, tuple[str, ...]] = {
    "Qwen3VLForConditionalGeneration": (r"re:.*visual\..*", "lm_head"),
    "Qwen2_5_VLForConditionalGeneration": (r"re:.*visual\..*", "lm_head"),
    "InternVLForConditionalGeneration": (r"re:.*vision_tower\..*", r"re:.*multi_modal_projector\..*", "re:.*lm_head"),
}
"""By architecture, what is not compressed, as llmcompressor's `ignore`: the vision tower with what joins it to the text
model, and the output layer. Embeddings are no linear layers and are never compressed."""
REFUSED = {
    "Qwen3VLMoeForConditionalGeneration": "a mixture of experts: take its publisher's FP8 weights, or vLLM's online "
    '"quantization": "fp8" in model.json',
    "Llama4ForConditionalGeneration": "a mixture of experts: take a published FP8 checkpoint",
}


def kept_by(architecture: str) -> tuple[str, ...]:
    """What llmcompressor leaves alone.

    Raises:
        ExportError: the architecture is not known, or cannot be compressed this way.
    """
    if architecture in REFUSED:
        raise ExportError(f"{architecture} is not compressed here: {REFUSED[architecture]}")
    if architecture not in KEPT:
        raise ExportError(
            f"{architecture}: which of its layers see the image is not known here; known are {', '.join(KEPT)}"
        )
    return KEPT[architecture]


def is_kept(name: str, kept: Sequence[str]) -> bool:
    """Whether a module is left alone. A pattern `re:...` matches from the start of the name, else the name is meant."""
    return any(re.match(p[3:], name) if p.startswith("re:") else name == p for p in kept)


def group_size(scheme: Scheme, shapes: Sequence[tuple[int, int]], wanted: int | None = None) -> int | None:
    """Weights of a group for layers of these shapes (output features, input features); None: the scheme has no groups.

    Raises:
        ExportError: a layer does not divide so.
    """
    for rows, columns in shapes:
        if rows % scheme.multiple or columns % scheme.multiple:
            raise ExportError(
                f"{scheme.name} needs layers whose sides are multiples of {scheme.multiple}, and one is "
                f"{rows} x {columns}; choose another --scheme"
            )
    if not scheme.grouped:
        if wanted is not None:
            raise ExportError(f"--group-size: {scheme.name} has no groups")
        return None
    sides = sorted({columns for _, columns in shapes})
    if wanted is not None and wanted not in GROUPS:
        raise ExportError(f"--group-size is {wanted}, must be one of {', '.join(map(str, GROUPS))}")
    for size in GROUPS if wanted is None else (wanted,):
        if not any(side % size for side in sides):
            return size
    bad = next(side for side in sides if side % (wanted or GROUPS[-1]))
    raise ExportError(f"--group-size: a layer has {bad} input features, which groups of {wanted} do not divide")
