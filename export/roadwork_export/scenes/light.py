"""Light, weather and season of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork_export.scenes.brush import Colour
from roadwork_export.scenes.palette import pick, vary


@dataclass(frozen=True)
class Light:
    """sun: -1 left to 1 right, 0 overcast; night: 0 to 1; haze: distance in metres at which 63 % is lost."""

    kind: str
    sun: float
    night: float
    haze: float
    zenith: Colour
    horizon: Colour
    clouds: float
    wet: bool
    snow: bool
    autumn: bool

    @staticmethod
    def random(rng: np.random.Generator) -> Light:
        kind = str(
            rng.choice(
                ["sunny", "bright", "overcast", "fog", "dusk", "night", "rain", "snow"],
                p=[0.3, 0.15, 0.22, 0.04, 0.08, 0.09, 0.08, 0.04],
            )
        )
        sun = float(rng.uniform(0.4, 1) * rng.choice([-1, 1])) if kind in ("sunny", "bright", "dusk") else 0.0
        skies: dict[str, tuple[tuple[Colour, Colour], ...]] = {
            "sunny": (
                ((58, 110, 180), (176, 206, 230)),
                ((70, 130, 205), (200, 220, 235)),
                ((40, 90, 165), (150, 190, 225)),
            ),
            "bright": (((190, 205, 222), (236, 238, 240)), ((215, 220, 226), (248, 248, 246))),
            "overcast": (((168, 172, 178), (205, 207, 208)), ((140, 146, 154), (190, 194, 198))),
            "fog": (((196, 198, 200), (204, 205, 206)),),
            "dusk": (((84, 92, 130), (232, 176, 130)), ((70, 80, 120), (220, 150, 110))),
            "night": (((10, 12, 22), (34, 32, 40)), ((16, 18, 30), (56, 46, 44))),
            "rain": (((132, 138, 146), (176, 180, 184)),),
            "snow": (((188, 192, 198), (214, 216, 220)),),
        }
        zenith, low = pick(rng, skies[kind])
        night = {"dusk": float(rng.uniform(0.15, 0.45)), "night": float(rng.uniform(0.65, 0.95))}.get(kind, 0.0)
        haze = {"fog": rng.uniform(20, 60), "rain": rng.uniform(90, 250), "snow": rng.uniform(80, 250)}.get(
            kind, rng.uniform(200, 900)
        )
        return Light(
            kind, sun, night, float(haze), vary(rng, zenith, 5), vary(rng, low, 3), float(rng.uniform(0, 1)),
            kind == "rain" or bool(rng.random() < 0.05), kind == "snow", bool(rng.random() < 0.25),
        )  # fmt: skip

    def veil(self, distance: float) -> float:
        """Share of an object's light that haze replaces."""
        return 1 - float(np.exp(-distance / self.haze))
