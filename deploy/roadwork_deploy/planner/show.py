"""A plan for people (tables of at most 100 columns) and for programs (plain data)."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from roadwork_deploy.planner import measured
from roadwork_deploy.planner.hardware import GB
from roadwork_deploy.planner.place import Placed, Plan, headroom, room
from roadwork_deploy.planner.plan import Cheapest

WIDTH = 100
BAR = 24


def show_plan(plan: Plan, cheapest: Cheapest | None, console: Console | None = None) -> None:
    """Print a table for each GPU, then what was left out and why, then the cheapest hardware."""
    console = console or Console(width=WIDTH)
    for index in range(len(plan.gpus)):
        console.print(_table(plan, index))
    for placed in plan.placed:
        for note in placed.need.notes:
            console.print(f"{placed.need.name}: {note}", highlight=False)
    for left in plan.left_out:
        console.print(f"left out: {left.name}: {left.reason}", highlight=False)
    console.print(cheapest_line(cheapest), highlight=False)
    console.print("GB are 1e9 bytes, once everything has been busy.", highlight=False)


def cheapest_line(cheapest: Cheapest | None) -> str:
    if cheapest is None:
        return "no common hardware of up to eight GPUs has room for all of it"
    what = f"{cheapest.count}x{cheapest.gpu.name}"
    return f"cheapest for all of it: {what} (about ${cheapest.dollars:.2f} an hour; a guess, good for ordering)"


def _table(plan: Plan, index: int) -> Table:
    gpu = plan.gpus[index]
    table = Table(title=f"GPU {index}: {gpu.name}, {gpu.bytes / GB:.1f} GB", title_justify="left", width=WIDTH)
    for heading, side in (("what", "left"), ("as", "left"), ("GB", "right"), ("share", "right"), ("", "left")):
        table.add_column(heading, justify="right" if side == "right" else "left", no_wrap=heading != "what")
    rows = [(placed.need.name, how(placed), placed.need.bytes) for placed in plan.on(index)]
    used = sum(size for _, _, size in rows)
    for what, described, size in rows:
        table.add_row(what, described, f"{size / GB:.1f}", f"{size / gpu.bytes:.0%}", bar(size, gpu.bytes))
    table.add_section()
    for what, size in (
        ("tritonserver", measured.SERVER_CONTEXT),
        ("head room", headroom(gpu)),
        ("free", room(gpu) - used),
    ):
        table.add_row(what, "", f"{size / GB:.1f}", f"{size / gpu.bytes:.0%}", bar(size, gpu.bytes))
    return table


def how(placed: Placed) -> str:
    """Precision, GPUs it is shared by, batch."""
    need = placed.need
    if need.kind == "detector":
        return f"{need.precision}, batch {need.batch}"
    return need.precision + (f", {need.gpus} GPUs" if need.gpus > 1 else "")


def bar(size: int, whole: int) -> str:
    """A bar of `BAR` columns for the whole; something is always to be seen of what there is."""
    return "█" * max(1 if size > 0 else 0, round(BAR * size / whole))


def plan_json(plan: Plan, cheapest: Cheapest | None) -> dict[str, Any]:
    """The same as plain data; sizes in bytes."""
    return {
        "gpus": [
            {
                "name": gpu.name,
                "bytes": gpu.bytes,
                "server": measured.SERVER_CONTEXT,
                "headroom": headroom(gpu),
                "free": plan.free[index],
                "models": [placed.need.name for placed in plan.on(index)],
            }
            for index, gpu in enumerate(plan.gpus)
        ],
        "models": [
            {
                "name": placed.need.name,
                "kind": placed.need.kind,
                "gpus": list(placed.gpus),
                "precision": placed.need.precision,
                "bytes": placed.need.bytes,
                "bytes_at_start": placed.need.at_start,
                "parts": dict(placed.need.parts),
                "batch": placed.need.batch,
                "checkpoint": placed.need.checkpoint,
                "engine": dict(placed.need.engine),
                "notes": list(placed.need.notes),
            }
            for placed in plan.placed
        ],
        "left_out": [{"name": left.name, "reason": left.reason, "bytes": left.lacking} for left in plan.left_out],
        "cheapest": None
        if cheapest is None
        else {"count": cheapest.count, "gpu": cheapest.gpu.name, "dollars_an_hour": cheapest.dollars},
    }
