"""Results of `roadwork-bench escalation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadwork_bench.page.blocks import Block, Plot, Table, Text, number, share
from roadwork_bench.page.results import Result

TITLE = "The whole cascade while images escalate"
FILES = ("escalation", "escalation_*")
COMMAND = "roadwork-bench escalation --share 0,0.1,0.5 --out benchmarks/results/escalation.json"
ORDER = 67


def render(results: list[Result]) -> list[Block]:
    """A row for each share and number in flight."""
    (result,) = results
    report = result.report
    text = f"All stages on {report['images']} images, profile `{report['profile']}`; a share of them asks every tier."
    return [Text(text), points_table(report["points"]), _plot(result)]


def points_table(points: Sequence[Mapping[str, Any]]) -> Table:
    """For `memory` too, which measures the same at its end."""
    rows = [
        [
            f"{share(point['share'])} asked, {point['in_flight']} in flight",
            share(point["escalated"]),
            number(point["verdicts_per_second"]),
            number(point["ms_p50"]),
            number(point["ms_p95"]),
            number(point["ms_p99"]),
            _verdicts(point),
        ]
        for point in points
    ]
    return Table(["escalation", "had a tier's answer", "verdicts/s", "ms, p50", "p95", "p99", "verdicts"], rows)


def _verdicts(point: Mapping[str, Any]) -> str:
    """By status, and whose answers they lacked; results from before that was counted do not say."""
    found = ", ".join(f"{count} {status}" for status, count in point["statuses"].items())
    without = ", ".join(point.get("missing", {}))
    return f"{found} (without {without})" if without else found


def _plot(result: Result) -> Plot:
    points = result.report["points"]

    def draw(panels: Sequence[Any]) -> None:
        left, right = panels
        for number_in_flight in dict.fromkeys(point["in_flight"] for point in points):
            mine = [point for point in points if point["in_flight"] == number_in_flight]
            shares, label = [100 * point["share"] for point in mine], f"{number_in_flight} in flight"
            left.plot(shares, [point["verdicts_per_second"] for point in mine], "o-", label=label)
            right.plot(shares, [point["ms_p99"] for point in mine], "o-", label=label)
        for axes, name in ((left, "verdicts/s"), (right, "ms, p99")):
            axes.set_xlabel("% of the images that ask the tiers")
            axes.set_ylabel(name)
            axes.set_ylim(bottom=0)
        left.legend()

    return Plot(f"{result.stem}-share", f"What escalation costs ({result.machine})", draw, (8.4, 3.2), 2)
