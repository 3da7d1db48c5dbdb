"""Colours (RGB) as cameras record them, and helpers that vary them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from roadwork_export.scenes.brush import Colour

T = TypeVar("T")
BLACK: Colour = (26, 26, 28)
RUBBER: Colour = (38, 38, 40)
WHITE: Colour = (228, 228, 224)
GLASS: Colour = (42, 52, 62)
STEEL: Colour = (142, 146, 150)
CONCRETE: Colour = (178, 172, 160)
AMBER: Colour = (255, 176, 40)
RED: Colour = (200, 28, 34)
ORANGES: tuple[Colour, ...] = (
    (242, 92, 28),
    (232, 78, 30),
    (250, 112, 40),
    (222, 84, 44),
    (255, 98, 60),
    (208, 92, 54),
)
SIGN_ORANGES: tuple[Colour, ...] = ((246, 120, 24), (255, 108, 34), (236, 96, 30), (250, 138, 30), (255, 92, 52))
LIME: Colour = (196, 226, 40)
YELLOW: Colour = (246, 200, 30)
PAINTS: tuple[Colour, ...] = (
    *((228, 230, 232), (206, 208, 210), (160, 164, 168), (104, 108, 114), (36, 38, 42), (24, 26, 30), (58, 66, 80)),
    *((130, 24, 28), (172, 30, 34), (30, 54, 110), (54, 92, 150), (40, 72, 56), (132, 112, 84), (86, 60, 46)),
)
SKINS: tuple[Colour, ...] = ((232, 190, 160), (204, 154, 120), (150, 104, 76), (98, 66, 48))


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def vary(rng: np.random.Generator, colour: Colour, amount: float = 10.0) -> Colour:
    shift = rng.normal(0, amount, 3) * 0.5 + rng.normal(0, amount)
    return tuple(float(min(255, max(0, c + s))) for c, s in zip(colour, shift, strict=True))  # type: ignore[return-value]


def chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def orange(rng: np.random.Generator) -> Colour:
    return vary(rng, pick(rng, ORANGES), 8)


def white(rng: np.random.Generator) -> Colour:
    level = float(rng.uniform(190, 245))
    return (level, level, level * float(rng.uniform(0.93, 1.0)))
