"""Results of `roadwork-bench techniques`."""

from __future__ import annotations

from roadwork_bench.page.blocks import Block, Table, Text, number
from roadwork_bench.page.results import Result

TITLE = "Serving techniques of a tier"
FILES = ("techniques", "techniques_*")
COMMAND = "roadwork-bench techniques TIER --out benchmarks/results/techniques_cpu.json"
ORDER = 75


def render(results: list[Result]) -> list[Block]:
    """One row a technique; what could not run says why."""
    (result,) = results
    rows, refused = [], []
    for found in result.report["rows"]:
        if "milliseconds" not in found:
            why = next(
                (str(found[key]) for key in ("why", "refused", "error", "failed") if found.get(key)), "no figures"
            )
            refused.append([f"`{found['name']}`", why])
            continue
        rows.append(
            [
                f"`{found['name']}`",
                number(found["milliseconds"]),
                number(found["milliseconds_again"]),
                number(found.get("resident_mib")),
                number(found.get("cache_tokens")),
                number(found.get("largest_difference")),
                number(found.get("mean_difference")),
                number(found.get("start_seconds")),
            ]
        )
    header = ["technique", "ms an image", "ms, seen before", "resident MiB", "cache tokens", "largest difference",
              "mean difference", "start, s"]  # fmt: skip
    images = result.report["images"]
    text = f"`{result.report['tier']}` on {images} images; differences are those of its answers from plain."
    blocks: list[Block] = [Text(text), Table(header, rows)]
    return [*blocks, Table(["technique", "why it does not run here"], refused)] if refused else blocks
