"""Results of `roadwork-bench memory`."""

from __future__ import annotations

from roadwork_bench.page.blocks import NONE, Block, Table, Text, number
from roadwork_bench.page.kinds.escalation import points_table
from roadwork_bench.page.results import Result

TITLE = "Memory of a planned profile"
FILES = ("memory", "memory_*")
COMMAND = "roadwork-bench memory PROFILE --out benchmarks/results/memory.json"
ORDER = 68


def render(results: list[Result]) -> list[Block]:
    """What each model holds of its GPU, against its plan."""
    (result,) = results
    report = result.report
    rows = []
    for row in report["models"]:
        planned = row["planned_gb"]
        verdict = NONE if planned is None else "right" if row["right"] else f"off by {number(row['off_gb'])}"
        figures = [number(planned), number(row["at_start_gb"]), number(row["busy_gb"])]
        rows.append([f"`{row['model']}` on GPU {row['gpu']}", *figures, verdict])
    totals = [
        [f"GPU {gpu['gpu']}", number(gpu["planned_gb"]), number(gpu["busy_gb"]), "yes" if gpu["within"] else "NO"]
        for gpu in report["gpu_totals"]
    ]
    blocks: list[Block] = [
        Text(
            f"Profile `{report['profile']}` on {', '.join(report['gpus'])}; in GB of 10^9 bytes, the most under load."
        ),
        Table(["model", "planned", "after the start", "busy", "plan"], rows),
        Table(["all models", "planned", "busy", "within the GPU"], totals),
    ]
    blocks += [Text(f"`{name}` did not join: {why}") for name, why in report["not_joined"].items()]
    points = (report.get("escalation") or {}).get("points")
    return [*blocks, points_table(points)] if points else blocks
