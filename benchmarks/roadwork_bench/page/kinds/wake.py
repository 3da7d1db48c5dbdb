"""Results of `roadwork-bench wake`."""

from __future__ import annotations

from roadwork_bench.page.blocks import NONE, Block, Table, Text, number
from roadwork_bench.page.results import Result

TITLE = "A tier that sleeps"
FILES = ("wake", "wake_*")
COMMAND = "roadwork-bench wake TIER --out benchmarks/results/wake.json"
ORDER = 70
GIB = 2**30


def render(results: list[Result]) -> list[Block]:
    """Each round of leaving and coming back."""
    (result,) = results
    report = result.report
    steps = [name for name in report["rounds"][0] if name.endswith("_seconds")]
    kinds = [kind for kind in ("gpu", "host") if kind in report["bytes"]["awake"]]
    rows = []
    for turn, found in enumerate(report["rounds"], 1):
        memory = [_gib(found["bytes"].get(kind)) for kind in kinds] + [
            _gib(found["awake_again"].get(kind)) for kind in kinds
        ]
        rows.append([str(turn), *(number(found[step]) for step in steps), *memory])
    header = ["round", *(f"{step.removesuffix('_seconds').replace('_', ' ')}, s" for step in steps)]
    header += [f"{kind} GiB while away" for kind in kinds] + [f"{kind} GiB back again" for kind in kinds]
    held = ", ".join(f"{_gib(report['bytes']['awake'].get(kind))} GiB of {kind} memory" for kind in kinds)
    text = (
        f"`{report['tier']}`, weights {report['weights']}, how it leaves: {report['how']}. Awake it holds {held}; a "
        f"request takes {number(report['request_seconds'])} s then. Its answers afterwards are those from before."
        if all(found["answers"]["within_tolerance"] for found in report["rounds"])
        else f"`{report['tier']}`: its answers after coming back are NOT those from before."
    )
    return [Text(text), Table(header, rows)]


def _gib(count: int | None) -> str:
    return NONE if count is None else number(count / GIB)
