"""Plots of MCC against what an image costs, and against the share of images that a tier is asked of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOTS_PER_INCH = 120
CHOSEN, FRONTIER, HELD_OUT = "#c45500", "#999999", "#1f6fb2"
MARKS = "sDv^P*Xh"


def plot_frontier(report: dict[str, Any], path: Path) -> None:
    """`frontier.frontier_report` as a PNG: the frontier on validation folds, the same bounds on groups that were not
    seen, every other way, and the chosen policy with its 95% interval by image."""
    from matplotlib.figure import Figure

    axis = report["axis"]
    key, scale, label = (
        ("ms_an_image", 1.0, "milliseconds an image, mean")
        if axis == "ms"
        else ("cost_an_image", 1e6, "cost of a million images, mean, in the policy's currency")
    )
    figure = Figure(figsize=(8, 6.6), layout="constrained")
    plot = figure.add_subplot()

    def line(points: Sequence[dict[str, Any]], **style: Any) -> None:
        plot.plot([one[key] * scale for one in points], [one["mcc"] for one in points], **style)

    line(
        report["validation"],
        color=FRONTIER,
        drawstyle="steps-post",
        label="frontier on validation folds (chosen on them: optimistic)",
    )
    line(report["out_of_fold"], color=HELD_OUT, marker="o", markersize=4, label="searched under a bound, out of fold")
    for mark, (name, way) in zip(MARKS * 9, report["ways"].items(), strict=False):
        line([way], marker=mark, linestyle="", color="#444444", markersize=7, markerfacecolor="white", label=name)
    chosen = report["chosen"]
    low, high = chosen["mcc_jeffreys_95"] or (chosen["mcc"], chosen["mcc"])
    plot.errorbar(
        chosen[key] * scale,
        chosen["mcc"],
        yerr=[[max(0.0, chosen["mcc"] - low)], [max(0.0, high - chosen["mcc"])]],
        fmt="o",
        color=CHOSEN,
        markersize=9,
        capsize=4,
        zorder=5,
        label="the policy written, out of fold, 95% by image",
    )
    if report["bound"] is not None:
        plot.axvline(report["bound"] * scale, color=CHOSEN, linestyle=":", linewidth=1, label="bound")
    plot.set(xlabel=label, ylabel="MCC")
    plot.set_xscale("log")
    plot.grid(alpha=0.25, which="both")
    title = f"{chosen['images']} images, {chosen['groups']} drives, fitted and tested on different drives"
    plot.set_title(title, fontsize=10)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    _save(figure, path)


def plot_shares(report: dict[str, Any], path: Path) -> None:
    """The curves of `climb` as a PNG: MCC over the share of images asked, and over cost, with each tier alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for number, one in enumerate(report["curves"]):
        points, name = one["points"], " then ".join(one["climb"])
        mcc = [point["mcc"] for point in points]
        asked = [point["asked"] * 100 for point in points]
        ends = [point["mcc_jeffreys_95"] for point in points]
        color = f"C{number}"
        left.plot(asked, mcc, marker="o", color=color, label=name)
        left.fill_between(asked, [end[0] for end in ends], [end[1] for end in ends], color=color, alpha=0.06)
        right.plot([point["cost_an_image"] * 1e6 for point in points], mcc, marker="o", color=color, label=name)
    for mark, (name, way) in zip(MARKS * 9, report["ways"].items(), strict=False):
        style = {"marker": mark, "linestyle": "", "color": "#444444", "markersize": 7, "markerfacecolor": "white"}
        right.plot([way["cost_an_image"] * 1e6], [way["mcc"]], label=name, **style)
    left.axvline(25, color="#999999", linestyle=":", linewidth=1)
    left.set(xlabel="share of the images that ask a tier, % (really asked)", ylabel="MCC, out of fold")
    right.set(xlabel="cost of a million images, mean, in the policy's currency")
    left.set_title("perception always whole; shaded: 95% by image", fontsize=10)
    for plot in (left, right):
        plot.grid(alpha=0.25)
    handles, names = right.get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, loc="outside lower center", ncols=3)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
