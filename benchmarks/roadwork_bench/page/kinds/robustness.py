"""Results of `roadwork-bench robustness`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roadwork_bench.page.blocks import NONE, Block, Plot, Table, Text, number, span, with_span
from roadwork_bench.page.results import Result

TITLE = "Changed pictures"
FILES = ("robustness", "robustness_*")
COMMAND = "roadwork-bench robustness DIR --table TABLE --out benchmarks/results/robustness.json"
ORDER = 14


def render(results: list[Result]) -> list[Block]:
    """The same figures under each change."""
    (result,) = results
    report = result.report
    rows = []
    for name, part in report["corruptions"].items():
        other = part.get("against_clean")
        lost = [NONE] * 3
        if other:
            counts = [str(other[f"only_{side}_right"]) for side in ("first", "second")]
            lost = [*counts, number(other["mcnemar_p_holm"])]
        rows.append(
            [
                f"{name}: {part['what']}" if part["what"] != name else name,
                with_span(part["mcc"], part["mcc_jeffreys_95"]),
                span(part["mcc_by_drive_95"]),
                number(part["recall"]),
                number(part["false_alarm_rate"]),
                *lost,
            ]
        )
    header = ["change", "MCC (95% by image)", "95% by drive", "recall", "false alarms", "lost", "won", "p (Holm)"]
    text = (
        f"Perception, {report['method']}. Lost, won: images that only the clean, only the changed picture is right on."
    )
    blocks: list[Block] = [Text(text), Table(header, rows), _plot(result)]
    return [*blocks, *(Text(f"**Mind:** {warning}.") for warning in report.get("warnings", []))]


def _plot(result: Result) -> Plot:
    parts = {name: part for name, part in result.report["corruptions"].items() if part["mcc"] is not None}

    def draw(panels: Sequence[Any]) -> None:
        (axes,) = panels
        for place, part in enumerate(parts.values()):
            axes.plot(part["mcc_jeffreys_95"], [place, place], color="C0", linewidth=2)
            axes.plot([part["mcc"]], [place], "o", color="C0")
        axes.set_yticks(range(len(parts)), list(parts))
        axes.set_ylim(len(parts) - 0.5, -0.5)
        axes.set_xlabel("MCC, 95% by image")

    return Plot(f"{result.stem}-mcc", "MCC under each change", draw, (7.0, 1.0 + 0.3 * len(parts)))
