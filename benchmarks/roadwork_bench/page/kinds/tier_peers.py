"""Results of `roadwork-bench tier_peers`."""

from __future__ import annotations

from roadwork_bench.page.blocks import NONE, Block, Table, Text, number, spanned
from roadwork_bench.page.kinds.tier import sides
from roadwork_bench.page.results import Result

TITLE = "A tier beside vLLM's own server"
FILES = ("tier_peers", "tier_peers_*")
COMMAND = "roadwork-bench tier_peers NAME --out benchmarks/results/tier_peers.json"
ORDER = 66
OURS = "served"


def render(results: list[Result]) -> list[Block]:
    """The same engine behind Triton and behind `vllm serve`."""
    (result,) = results
    report = result.report
    rows = []
    for side, part, run in sides(report):
        ours = side in (OURS, part.get("variant"))
        rows.append(
            [
                f"{part['side']} px, {part['in_flight']} in flight, {'ours' if ours else side}",
                f"{number(run['milliseconds_p50'])} / {number(run.get('milliseconds_p99'))}",
                number(run["requests_per_second"]),
                spanned(part.get("throughput_ratio")) if ours else NONE,
                spanned(part.get("latency_added_ms")) if ours else NONE,
                number(run.get("cpu_milliseconds_per_request")),
            ]
        )
    header = ["side", "ms, p50 / p99", "requests/s", "throughput, ours over theirs", "ms more", "CPU ms a request"]
    notes = [
        f"At {found['side']} px the answers {'agree' if found['within_tolerance'] else 'DO NOT agree'} (largest "
        f"difference {number(found['largest_difference'])} on {found['images']} images)."
        for found in report["agreement"]
    ]
    text = f"`{report['tier']}`, weights {report['weights']}, the same engine and settings on both sides."
    return [Text(" ".join([text, *notes])), Table(header, rows)]
