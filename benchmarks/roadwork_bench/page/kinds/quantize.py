"""Results of `roadwork-export quantize`."""

from __future__ import annotations

from roadwork_bench.page.blocks import Block, Table, number
from roadwork_bench.page.results import Result

TITLE = "Compressed weights of a tier"
FILES = ("quantize", "quantize_*")
COMMAND = "roadwork-export quantize TIER --scheme SCHEME --images DIR --json benchmarks/results/quantize_cpu.json"
ORDER = 80
MIB = 2**20


def render(results: list[Result]) -> list[Block]:
    """One row a run."""
    (result,) = results
    rows = []
    for name, run in result.report["runs"].items():
        check, weights = run["check"], run["weights"]
        mcc = check.get("mcc_at_half") or {}
        rows.append(
            [
                f"`{name}`",
                f"{number(weights['before'] / MIB)} to {number(weights['after'] / MIB)}",
                f"{number(check['mean_difference'])} / {number(check['largest_difference'])}",
                number(check["agreement_at_half"]),
                f"{number(mcc.get('before'))} to {number(mcc.get('after'))}" if mcc else "–",
                str(check["images"]),
                run["compared_by"],
                number(run["compressing_seconds"]),
            ]
        )
    header = ["run", "weights, MiB", "difference of answers, mean / largest", "share of equal decisions", "MCC at 0.5",
              "images", "compared", "seconds"]  # fmt: skip
    return [Table(header, rows)]
