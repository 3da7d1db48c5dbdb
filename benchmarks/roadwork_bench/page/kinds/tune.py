"""Results of `roadwork-bench tune`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from roadwork_bench.page.blocks import Block, Table, Text, number
from roadwork_bench.page.results import Result
from roadwork_bench.perf.search import Candidate

TITLE = "Settings that hold a latency"
FILES = ("tune", "tune_*")
COMMAND = "roadwork-bench tune MODEL --p99-ms MS --out benchmarks/results/tune_MODEL.json"
ORDER = 32
SETTINGS = ("instances", "batch", "delay_ms")


def render(results: list[Result]) -> list[Block]:
    """Every candidate, and what the best one holds."""
    (result,) = results
    report = result.report
    best = report["best"]
    rows = []
    for found in report["candidates"]:
        chosen = best is not None and all(found[key] == best[key] for key in SETTINGS)
        throughput = number(found["throughput"]) if found["throughput"] else "does not hold"
        rows.append([_name(found) + (" (chosen)" if chosen else ""), throughput, number(found["milliseconds_p99"])])
    text = (
        f"`{report['model']}` served {report['served']}, profile `{report['profile']}`, p99 of at most "
        f"{report['p99_ms']:g} ms: " + (f"best is {_name(best)}." if best else "**no candidate holds it**.")
    )
    if not report["search_finished"]:
        text += " The search was cut short."
    blocks: list[Block] = [Text(text), Table(["candidate", "answers/s that hold", "ms, p99"], rows)]
    arrivals = report.get("poisson") or []
    if arrivals:
        cells = [
            [
                f"{number(point['value'])}/s",
                number((point.get("milliseconds") or {}).get("p99")),
                "yes" if _holds(point, report["p99_ms"]) else "no",
            ]
            for point in arrivals
        ]
        blocks.append(Table(["Poisson arrivals", "ms, p99", "holds"], cells))
    return blocks


def _name(candidate: Mapping[str, Any]) -> str:
    return str(Candidate(**{key: candidate[key] for key in SETTINGS}))


def _holds(point: Mapping[str, Any], target: float) -> bool:
    return not point["failed"] and not point["fell_behind"] and point["milliseconds"]["p99"] <= target
