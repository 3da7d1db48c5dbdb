"""What the image models of transformers have in common: how their processors resize, what depends on the size alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from .errors import WeightsError
from .family import SIDE
from .graph.piece import tensors
from .graph.resize import RGB_ONE, Filter, Normalise

FILTERS: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


def normalise_like(processor: Any, *, rounded: bool = True) -> Normalise:
    """What an image processor of transformers does to a square canvas, as nodes of the graph.

    Args:
        rounded: it resizes whole levels and not values in [0, 1].

    Raises:
        WeightsError: its settings ask for something that the graph does not do.
    """
    side, filter = SIDE, FILTERS.get(int(processor.resample or 2))
    if processor.do_resize:
        side = _square(processor.size, "size")
    if filter is None or not processor.do_rescale:
        raise WeightsError(
            f"{type(processor).__name__}: resizes by a filter, or scales to a range, that is not exported"
        )
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else RGB_ONE
    found = Normalise(side, mean, std, filter=filter, rounded=rounded)
    if processor.do_center_crop:
        crop = _square(processor.crop_size, "crop_size")
        if crop > side or not found.resized:
            raise WeightsError(f"{type(processor).__name__}: cannot crop {crop} pixels out of {side}")
        # The rows that are kept, so that the rest is never computed.
        start = (side - crop) // 2
        found.matrix = found.matrix[start : start + crop].contiguous()
    return found


def side_of(processor: Any) -> int:
    """Pixels of a side of what a network sees of a square canvas.

    Raises:
        WeightsError: not a square.
    """
    if processor.do_center_crop:
        return _square(processor.crop_size, "crop_size")
    return _square(processor.size, "size") if processor.do_resize else SIDE


def _square(size: Any, field: str) -> int:
    """Side in pixels that a square image gets."""
    sides = {size[key] for key in ("height", "width", "shortest_edge") if size is not None and size.get(key)}
    if len(sides) != 1:
        raise WeightsError(f"{field} of the image processor is {size}, must give a square")
    return int(sides.pop())


class Fixed(nn.Module):
    """What a part of a network answers where that depends on the size of the input alone, computed once.

    Written into a graph as it is, it would be a subgraph of shapes that other runtimes fold badly or not at all.

    Args:
        part, method: while `in_place`, `part.method(...)` gives `answer` whatever it is asked.
    """

    def __init__(self, part: nn.Module, method: str, answer: Tensor | tuple[Tensor, ...]) -> None:
        super().__init__()
        self.part, self.method = [part], method  # in a list: the network owns it
        self.single = isinstance(answer, Tensor)
        for i, tensor in enumerate(tensors(answer)):
            self.register_buffer(f"answer{i}", tensor.detach().clone())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        answer = tuple(self.buffers())
        setattr(self.part[0], self.method, lambda *_, **__: answer[0] if self.single else answer)
        try:
            yield
        finally:
            delattr(self.part[0], self.method)
