"""Two sides measured in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_pairs(first: Callable[[int], T], second: Callable[[int], T], pairs: int) -> list[tuple[T, T]]:
    """(first, second) of neighbouring blocks, each told its pair's number; who begins changes from pair to pair, so
    that drift cancels.
    """
    blocks = []
    for number in range(pairs):
        if number % 2 == 0:
            one, two = first(number), second(number)
        else:
            two, one = second(number), first(number)
        blocks.append((one, two))
    return blocks
