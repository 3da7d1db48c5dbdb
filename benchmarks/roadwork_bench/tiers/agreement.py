"""Do both sides answer the same? If not, they did not do the same work, and their speeds must not be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Answer = Mapping[str, float]  # token id -> log-probability of the one token


def yes_share(answer: Answer, yes: Sequence[int], no: Sequence[int]) -> float | None:
    """Probability of yes among yes and no, None where no token of either is in the answer."""
    one, other = (math.fsum(math.exp(answer[str(i)]) for i in ids if str(i) in answer) for ids in (set(yes), set(no)))
    return one / (one + other) if one + other > 0 else None


def agree(
    bare: Sequence[Answer], served: Sequence[Answer], yes: Sequence[int], no: Sequence[int], tolerance: float
) -> dict[str, Any]:
    """Largest difference of the probability of yes on the same images, and whether it is within `tolerance`.

    `spread` is how far the bare answers differ among themselves: with next to none, agreement says little.
    """
    ours = [yes_share(answer, yes, no) for answer in served]
    theirs = [yes_share(answer, yes, no) for answer in bare]
    pairs = [(a, b) for a, b in zip(theirs, ours, strict=True) if a is not None and b is not None]
    whole = len(pairs) == len(bare) > 0
    differences = [abs(a - b) for a, b in pairs]
    largest = max(differences, default=1.0)
    return {
        "images": len(bare),
        "within_tolerance": whole and largest <= tolerance,
        "tolerance": tolerance,
        "largest_difference": round(largest, 6),
        "mean_difference": round(sum(differences) / max(1, len(differences)), 6),
        "spread": round(max(a for a, _ in pairs) - min(a for a, _ in pairs), 6) if pairs else 0.0,
        "without_yes_or_no": len(bare) - len(pairs),
    }
