"""What `roadwork-bench fit` adds to its accuracy: cost against MCC, and what the early exits are certified for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadwork_bench.page.blocks import Block, Plot, Table, Text, number, share, span, with_span
from roadwork_bench.page.drawing import plain_ticks
from roadwork_bench.page.results import Result

AXES = {
    "cost": ("cost_an_image", "cost of a million images, at the policy's prices", 1e6),
    "ms": ("ms_an_image", "ms an image", 1.0),
}
CHOSEN = "chosen policy"


def frontier(result: Result) -> list[Block]:
    """The plot, and a table of the chosen point, the other ways and the search's choices out of fold."""
    found = result.report["frontier"]
    named = [(CHOSEN, found["chosen"]), *found["ways"].items()]
    named += [(f"search, at most {number(point['bound'])}", point) for point in found["out_of_fold"]]
    rows = [
        [
            name,
            with_span(point["mcc"], point["mcc_jeffreys_95"]),
            span(point["mcc_by_drive_95"]),
            number(point["ms_an_image"]),
            number(point["cost_an_image"]),
        ]
        for name, point in named
    ]
    header = ["way, out of fold", "MCC (95% by image)", "95% by drive", "ms an image", "cost an image"]
    return [
        _plot(result),
        Table(header, rows, "Cost against MCC"),
        *(Text(f"Note: {note}.") for note in found["notes"]),
    ]


def _plot(result: Result) -> Plot:
    found = result.report["frontier"]
    key, label, scale = AXES[found["axis"]]

    def line(axes: Any, points: Sequence[Mapping[str, Any]], style: str, name: str) -> None:
        ordered = sorted(points, key=lambda point: point[key])
        axes.plot([scale * p[key] for p in ordered], [p["mcc"] for p in ordered], style, label=name, markersize=4)

    def draw(panels: Sequence[Any]) -> None:
        (axes,) = panels
        line(axes, found["validation"], "-", "search, validation folds")
        line(axes, found["out_of_fold"], "o--", "search, out of fold")
        for place, (name, point) in enumerate([(CHOSEN, found["chosen"]), *found["ways"].items()], 2):
            low, high = point["mcc_jeffreys_95"]
            axes.errorbar(
                [scale * point[key]], [point["mcc"]], yerr=[[point["mcc"] - low], [high - point["mcc"]]], capsize=3,
                fmt="*" if name == CHOSEN else "s", markersize=11 if name == CHOSEN else 5, color=f"C{place}",
                label=name,
            )  # fmt: skip
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
        axes.set_xlabel(label)
        axes.set_ylabel("MCC")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    title = f"Cost against MCC, with the chosen policy ({result.machine})"
    return Plot(f"{result.stem}-frontier", title, draw, (9.0, 4.2))


def certificates(found: Mapping[str, Any]) -> list[Block]:
    """A row an exit."""
    rows = [
        [
            f"{one['exit']} says {one['says']}",
            str(one["images"]),
            str(one["drives"]),
            f"{one['errors']} / {one['avoidable']}",
            share(one["upper"]),
            share(one["upper_by_drive"]),
            "yes" if one["certified"] else "no",
        ]
        for one in found["exits"]
    ]
    header = ["early exit", "images", "drives", "wrong / avoidably", "errs at most, by image", "of a new drive's",
              "certified"]  # fmt: skip
    limits = sorted({(one["target"], one["confidence"]) for one in found["exits"]})
    told = ", ".join(f"{share(target)} with {share(confidence)} confidence" for target, confidence in limits)
    title = f"Certified exits: wanted at most {told}" if told else "Certified exits"
    text = found.get("caveat") or ""
    caveat = [Text(f"{text[0].upper()}{text[1:].rstrip('.')}.")] if text else []
    return [Table(header, rows, title), *caveat]
