"""Plots as SVG that takes the page's colours, so that it can be read by day and by night.

The same figures give the same bytes with the same matplotlib.
"""

from __future__ import annotations

import io
import re
from typing import Any

from roadwork_bench.page.blocks import Plot

SERIES = ("#3b7dd8", "#d8682f", "#2f9e6e", "#a259c4", "#c2992b", "#cf4d6f", "#4aa3a8", "#8a7f76", "#6f7de0", "#9aa83a")
"""Readable on white and on black."""
INK, GRID = "#010203", "#040506"
"""Stand for the page's own colours, which are put in their place."""
SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
}


def svg(plot: Plot) -> str:
    """The plot as an `<svg>` element, its ids its own."""
    import matplotlib
    from cycler import cycler

    matplotlib.use("Agg")
    from matplotlib import pyplot

    salt = re.sub(r"[^a-z0-9]+", "-", plot.name.lower())
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": salt, "axes.prop_cycle": cycler(color=SERIES)}):
        figure, axes = pyplot.subplots(1, plot.panels, figsize=plot.inches, squeeze=False)
        try:
            plot.draw(list(axes[0]))
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        finally:
            pyplot.close(figure)
    return _embedded(buffer.getvalue(), salt, plot.title)


def _embedded(text: str, salt: str, title: str) -> str:
    import html

    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    for pattern in (r'(\bid=")', r"(url\(#)", r'(href="#)'):
        text = re.sub(pattern, rf"\g<1>{salt}-", text)
    # Text takes the page's font, whatever it was measured with.
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = text.replace(INK, "var(--ink)").replace(GRID, "var(--line)")
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    label = html.escape(title, quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def error_bars(axes: Any, x: list[float], points: list[dict[str, Any]], **style: Any) -> None:
    """Medians with their intervals (`median`, `interval_95`) at x."""
    middle = [point["median"] for point in points]
    low = [point["median"] - point["interval_95"][0] for point in points]
    high = [point["interval_95"][1] - point["median"] for point in points]
    axes.errorbar(x, middle, yerr=[low, high], fmt="o", capsize=3, **style)


def plain_ticks(axis: Any) -> None:
    """Numbers instead of powers of ten on a logarithmic axis, also between the powers where these are few."""
    from matplotlib.ticker import LogFormatter, NullFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain(labelOnlyBase=False))
    low, high = axis.get_view_interval()
    axis.set_minor_formatter(Plain(minor_thresholds=(2, 0.8)) if high / max(low, 1e-12) < 300 else NullFormatter())
