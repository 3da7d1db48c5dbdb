"""Results of `roadwork-bench warmup`."""

from __future__ import annotations

import statistics

from roadwork_bench.page.blocks import Block, Goal, Table, Text, number
from roadwork_bench.page.results import Result

TITLE = "The first request after a start"
FILES = ("warmup", "warmup_*")
COMMAND = "roadwork-bench warmup --out benchmarks/results/warmup.json"
ORDER = 25


def render(results: list[Result]) -> list[Block]:
    """Each start's first ten requests."""
    (result,) = results
    starts, ratio = result.report["milliseconds"], result.report["first_to_tenth"]
    rows = [
        [str(k + 1), number(each[0]), number(statistics.median(each)), number(each[-1]), number(ratio["each"][k])]
        for k, each in enumerate(starts)
    ]
    text = f"All stages, one request after the other. Median of {len(starts)} starts: {number(ratio['median'])}."
    header = ["start", "first request, ms", "median, ms", "last request, ms", "first over tenth"]
    return [Text(text), Table(header, rows)]


def goals(result: Result) -> list[Goal]:
    """The first request against the tenth."""
    each, limit = result.report["first_to_tenth"]["each"], result.report["limit"]
    median = result.report["first_to_tenth"]["median"]
    found = f"{number(median)} (of {len(each)} starts: {number(min(each))} to {number(max(each))})"
    return [Goal("first request over the tenth", found, f"at most {limit}", median <= limit)]
