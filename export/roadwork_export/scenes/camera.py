"""A dashboard camera over a flat road."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """Metres: x to the right, z ahead. Pixels: as in images."""

    width: int
    height: int
    focal: float
    horizon: float
    centre: float
    eye: float

    @staticmethod
    def random(rng: np.random.Generator, width: int, height: int) -> Camera:
        return Camera(
            width,
            height,
            width * float(rng.uniform(0.72, 1.15)),
            height * float(rng.uniform(0.44, 0.62)),
            width * float(rng.uniform(0.42, 0.58)),
            float(rng.uniform(1.25, 2.1)),
        )

    def ground(self, x: float, z: float) -> tuple[float, float]:
        return self.at(x, 0.0, z)

    def at(self, x: float, y: float, z: float) -> tuple[float, float]:
        return self.centre + self.focal * x / z, self.horizon + self.focal * (self.eye - y) / z
