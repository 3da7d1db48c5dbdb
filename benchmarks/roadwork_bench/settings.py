"""How a policy is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from roadwork_cascade import pool

GRID = pool.sigmoid(np.linspace(-7, 7, 281))
"""Candidates of thresholds and bounds: evenly spaced in the logit, as most decisions are made near 0 and 1."""
TOLERANCE = 0.01
"""Thresholds whose MCC is this close to the best count as equals: so few drives cannot tell them apart."""


@dataclass(frozen=True)
class Settings:
    """exit_error: most images among those that leave at a stage whose answer the whole cascade would have got right
    and the exit gets wrong, as an upper 95% bound that takes images as independent. (What no later stage would have
    mended is no reason to ask it.) exit_groups: fewest drives among them. folds: of the inner and the outer partition
    alike. max_cost, max_ms: most that an image may cost or take on average; where one is given, the bounds are not
    those of exit_error but those of the best MCC under it (`search`).
    """

    exit_error: float = 0.02
    exit_groups: int = 5
    folds: int = 5
    seed: int = 0
    max_cost: float | None = None
    max_ms: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether the bounds are searched under a bound on what is spent."""
        return self.max_cost is not None or self.max_ms is not None


def rounded(value: float) -> float:
    """Six significant digits: more would pretend, and the file is read by people."""
    return float(f"{value:.6g}")
