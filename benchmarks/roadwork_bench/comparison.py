"""Two ways to decide on the same images, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from roadwork_bench.statistics import cluster_bootstrap, figures, mcnemar_exact


def compare(labels: ArrayLike, first: ArrayLike, second: ArrayLike, groups: Sequence[str]) -> dict[str, Any]:
    """What `second` changes: images that only one of them gets right, the exact McNemar test, and the gain in MCC.

    Args:
        labels, first, second: [n] of 0 and 1.
        groups: [n] drives.

    Returns:
        `only_first_right`, `only_second_right`, `mcnemar_p` (two-sided), `mcc_gain` = MCC(second) - MCC(first) and
        `mcc_gain_by_drive_95`, both None where a class is absent.
    """
    only_first, only_second, p_value = mcnemar_exact(labels, first, second)
    by_drive = cluster_bootstrap(labels, second, groups, other=first)
    before, after = figures(labels, first, groups)["mcc"], figures(labels, second, groups)["mcc"]
    return {
        "only_first_right": only_first,
        "only_second_right": only_second,
        "mcnemar_p": float(f"{p_value:.3g}"),
        "mcc_gain": None if before is None or after is None else round(after - before, 4),
        "mcc_gain_by_drive_95": by_drive[0].rounded() if by_drive else None,
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjustment of several tests, in their order: each may then be read as if it were the only one."""
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[k]))
        adjusted[k] = float(f"{largest:.3g}")
    return adjusted
