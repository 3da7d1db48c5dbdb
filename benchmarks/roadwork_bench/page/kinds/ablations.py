"""Results of `roadwork-bench ablate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadwork_bench.ablations.settings import SCHEMA
from roadwork_bench.page.blocks import Block, Goal, Plot, Table, Text, number, share, span, spanned, words
from roadwork_bench.page.drawing import error_bars
from roadwork_bench.page.forest import forest
from roadwork_bench.page.results import Result

TITLE = "Ablations: one design choice at a time"
FILES = ("ablations_*",)
COMMAND = "roadwork-bench ablate all --out benchmarks/results"
ORDER = 40
LABELS = ("what", "where", "prompt", "fault", "in_flight", "detectors")


def render(results: list[Result]) -> list[Block]:
    """The question, the answer, both sides and their ratios."""
    (result,) = results
    report = result.report
    if report["schema"] != SCHEMA:
        raise ValueError(f"schema is {report['schema']!r}, not {SCHEMA!r}")
    blocks: list[Block] = [Text(f"**{report['question']}** {report['answer']}")]
    if report["rows"]:
        blocks.append(_rows(report["rows"]))
    if report["ratios"]:
        blocks += [_ratios(report["ratios"]), _forest(result)]
    if "added" in report:
        blocks += [_growth(report), _growth_plot(result)]
    if "changes" in report:
        blocks.append(_changes(report["changes"]))
    return [*blocks, *(Text(f"Note: {note}.") for note in report["notes"])]


def goals(result: Result) -> list[Goal]:
    """Only `detectors` has one."""
    report = result.report
    if "added" not in report:
        return []
    last = list(report["added"])[-1]
    found = report["added"][last]["server"]
    text = f"{spanned(found)} ms"
    what = f"a detector more costs beyond its own inference (1 to {last} copies of `{report['network']}`)"
    return [Goal(what, text, f"at most {report['limit_ms']:g} ms", found["median"] <= report["limit_ms"])]


def _rows(rows: Sequence[dict[str, Any]]) -> Table:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    labels = [key for key in LABELS if key in keys]
    figures = [key for key in keys if key not in labels]
    cells = []
    for row in rows:
        told = ", ".join(_label(key, row[key]) for key in labels if key in row)
        cells.append([told, *(_cell(key, row.get(key)) for key in figures)])
    return Table(["side", *(_heading(key) for key in figures)], cells)


def _ratios(ratios: Sequence[dict[str, Any]]) -> Table:
    """A row for each pair of sides and number in flight, a column for each measure."""
    measures = list(dict.fromkeys(one["measure"] for one in ratios))
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for one in ratios:
        rows.setdefault(_pair(one), {})[one["measure"]] = one
    cells = [
        [name, *(spanned(found.get(measure)) for measure in measures), str(len(next(iter(found.values()))["pairs"]))]
        for name, found in rows.items()
    ]  # fmt: skip
    return Table(["ratios, median (95%)", *measures, "pairs"], cells)


def _forest(result: Result) -> Plot:
    ratios = [(f"{one['measure']}, {_pair(one)}", one) for one in result.report["ratios"]]
    return forest(f"{result.stem}-ratios", f"Ratios of `{result.report['name']}` ({result.machine})", ratios, "ratio")


def _pair(one: Mapping[str, Any]) -> str:
    told = [_label(key, one[key]) for key in ("where", "in_flight") if key in one]
    return ", ".join([f"{one['first']} over {one['second']}", *told]).replace("`", "")


def _growth(report: dict[str, Any]) -> Table:
    rows = []
    for count, found in report["added"].items():
        cells = [
            f"{number(found[side]['median'])} ({span(found[side]['interval_95'])})"
            for side in ("bare", "served", "server")
        ]
        rows.append([f"1 to {count}", *cells])
    header = ["copies", "bare, ms", "served, ms", "the server's part, ms"]
    return Table(header, rows, "What each detector after the first adds to the latency")


def _growth_plot(result: Result) -> Plot:
    rows, added = result.report["rows"], result.report["added"]

    def draw(panels: Sequence[Any]) -> None:
        left, right = panels
        for side in dict.fromkeys(row["what"] for row in rows):
            mine = [row for row in rows if row["what"] == side]
            left.plot([row["detectors"] for row in mine], [row["milliseconds_p50"] for row in mine], "o-", label=side)
        left.set_xlabel("detectors")
        left.set_ylabel("ms, median")
        left.set_xlim(left=0)
        left.set_ylim(bottom=0)
        left.legend()
        error_bars(right, [int(count) for count in added], [found["server"] for found in added.values()], color="C0")
        right.axhline(result.report["limit_ms"], linestyle="--", color="C1", linewidth=1)
        right.set_xlabel("detectors")
        right.set_ylabel("ms that the server adds to each")
        right.set_xlim(left=0)

    return Plot(f"{result.stem}-growth", f"How latency grows with detectors ({result.machine})", draw, (8.4, 3.2), 2)


def _changes(changes: dict[str, dict[str, Any]]) -> Table:
    rows = []
    for way, one in changes.items():
        counts = [str(one["only_first_right"]), str(one["only_second_right"])]
        gain = [number(one["mcnemar_p"]), number(one["mcc_gain"]), span(one["mcc_gain_by_drive_95"])]
        rows.append([way, *counts, *gain])
    header = ["way", "only without right", "only with right", "exact McNemar p", "gain in MCC", "95% by drive"]
    return Table(header, rows, "What findings change")


HEADINGS = {
    "milliseconds_p50": "ms, p50",
    "milliseconds_p95": "p95",
    "milliseconds_p99": "p99",
    "images_per_second": "images/s",
    "cpu_milliseconds_an_image": "CPU ms an image",
    "mcc": "MCC",
    "mcc_jeffreys_95": "95% by image",
    "mcc_by_drive_95": "95% by drive",
    "recovery_seconds": "s until whole again",
}


def _heading(key: str) -> str:
    return HEADINGS.get(key) or words(key.removeprefix("share_"))


def _label(key: str, value: Any) -> str:
    if key == "detectors":
        return f"{value} detector{'s' if value != 1 else ''}"
    return f"{value} in flight" if key == "in_flight" else str(value)


def _cell(key: str, value: Any) -> str:
    if isinstance(value, list):
        return span(value)
    return share(value) if key.startswith("share_") else number(value)
