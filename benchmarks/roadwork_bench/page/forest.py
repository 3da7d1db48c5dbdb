"""Ratios with their intervals under each other, beside the line at 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadwork_bench.page.blocks import Plot

WIDEST = 4.0
"""Ratios further apart than this, over or under 1, are drawn on a logarithmic axis."""


def forest(name: str, title: str, ratios: Sequence[tuple[str, Mapping[str, Any]]], label: str) -> Plot:
    """`ratios`: name and `{"median", "interval_95"}` of each, drawn from top to bottom; `label` is the axis'."""
    ends = [end for _, found in ratios for end in found["interval_95"]]
    wide = min(ends) > 0 and (max(ends) > WIDEST or min(ends) < 1 / WIDEST)

    def draw(panels: Sequence[Any]) -> None:
        from roadwork_bench.page.drawing import plain_ticks

        (axes,) = panels
        if wide:
            axes.set_xscale("log")
        axes.axvline(1, linewidth=1, linestyle="--", color="C1")
        for place, (_, found) in enumerate(ratios):
            axes.plot(found["interval_95"], [place, place], color="C0", linewidth=2.5)
            axes.plot([found["median"]], [place], "o", color="C0")
        axes.set_yticks(range(len(ratios)), [told for told, _ in ratios])
        axes.set_ylim(len(ratios) - 0.5, -0.5)
        axes.set_xlabel(label)
        if wide:
            plain_ticks(axes.xaxis)

    return Plot(name, title, draw, (8.0, 0.9 + 0.3 * len(ratios)))
