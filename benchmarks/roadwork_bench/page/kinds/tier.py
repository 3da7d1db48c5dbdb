"""Results of `roadwork-bench tier`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roadwork_bench.page.blocks import NONE, Block, Plot, Table, Text, number, spanned
from roadwork_bench.page.results import Result

TITLE = "Vision-language tiers through Triton and bare"
FILES = ("tier", "tier_*")
COMMAND = "roadwork-bench tier NAME --out benchmarks/results/tier.json"
ORDER = 65
BARE = "bare engine"


def render(results: list[Result]) -> list[Block]:
    """Every side at every size of image and number in flight."""
    (result,) = results
    report = result.report
    runs = list(sides(report))
    rows = []
    for side, part, run in runs:
        rows.append(
            [
                f"{part['side']} px, {part['in_flight']} in flight, {side}",
                f"{number(run['milliseconds_p50'])} / {number(run['milliseconds_p95'])}",
                number(run["requests_per_second"]),
                spanned(part.get("throughput_ratio")) if side != BARE else NONE,
                number(run.get("cpu_milliseconds_per_request")),
                number(run.get("busy_cores")),
                number(run.get("gpu_percent")),
                number(run.get("gpu_memory_gib")),
            ]
        )
    header = ["images and requests", "ms, p50 / p95", "requests/s", "throughput over bare", "CPU ms a request",
              "busy cores", "GPU %", "GPU GiB"]  # fmt: skip
    text = f"`{report['tier']}`, weights {report['weights']}, {report['question']['max_tokens']} token an answer."
    agreements = [
        f"Answers of `{found['variant']}` at {found['side']} px differ by at most "
        f"{number(found['largest_difference'])} on {found['images']} images "
        f"(tolerance {found['tolerance']}, their spread {number(found['spread'])})."
        for found in report["agreement"]
    ]
    failures = [Text(f"`{failure['variant']}`: {failure['why']}.") for failure in report.get("failures") or []]
    return [Text(" ".join([text, *agreements])), Table(header, rows), _plot(result), *failures]


def sides(report: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(side, comparison, its figures), the bare engine's before those that are compared with it."""
    found = []
    for part in report["comparisons"]:
        variant = part.get("variant")
        for key, run in part.items():
            if isinstance(run, dict) and "requests_per_second" in run:
                found.append((BARE if key == "bare" else variant or key, part, run))
    order = {BARE: 0}
    return sorted(found, key=lambda entry: (entry[1]["side"], entry[1]["in_flight"], order.get(entry[0], 1), entry[0]))


def _plot(result: Result) -> Plot:
    runs = sides(result.report)
    widths = sorted({part["side"] for _, part, _ in runs})

    def draw(panels: Sequence[Any]) -> None:
        for axes, width in zip(panels, widths, strict=True):
            for side in dict.fromkeys(side for side, _, _ in runs):
                points = {
                    part["in_flight"]: run["requests_per_second"]
                    for name, part, run in runs
                    if name == side and part["side"] == width
                }
                axes.plot(list(points), list(points.values()), "o-", label=side)
            ticks = sorted({part["in_flight"] for _, part, _ in runs})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.set_ylim(bottom=0)
            axes.set_xlabel("requests in flight")
            axes.set_title(f"{width} px")
        panels[0].set_ylabel("requests/s")
        panels[0].legend()

    title = f"Throughput of `{result.report['tier']}` ({result.machine})"
    return Plot(f"{result.stem}-throughput", title, draw, (4.2 * max(len(widths), 1.4), 3.2), len(widths))
