"""A sweep over points: kept one by one in the result file, and gone on with after an interruption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roadwork_bench.errors import BenchError
from roadwork_bench.output import save_report, saying
from roadwork_bench.perf.knee import knee
from roadwork_bench.perf.points import Measure, ServerAway
from roadwork_bench.perf.run import Point

SAME = ("about.machine", "about.versions", "about.commit", "model", "server", "images", "settings")
"""What must be equal for points to stand in one file."""


def begin(report: dict[str, Any], out: Path | None, resume: bool) -> dict[str, Any]:
    """The report to add points to: a new one, or the one in `out` where that is to be gone on with.

    Raises:
        BenchError: `out` holds another machine's results, or with `resume` a sweep of something else.
    """
    if resume and out is None:
        raise BenchError("--resume needs --out, the file to go on with")
    if out is None or not out.exists():
        return {**report, "points": []}
    try:
        old = json.loads(out.read_text(encoding="utf-8"))
        points, machine = list(old["points"]), old["about"]["machine"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BenchError(f"{out} is no result of roadwork-bench load; give another --out") from None
    if machine != report["about"]["machine"]:
        raise BenchError(
            f"{out}: about.machine is {_short(machine)}, this machine is {_short(report['about']['machine'])}; "
            "results of two machines are not mixed: give another --out"
        )
    if not resume:
        return {**report, "points": []}
    for field in SAME:
        have, want = _at(old, field), _at(report, field)
        if have != want:
            raise BenchError(
                f"{out}: {field} is {_short(have)}, this sweep's is {_short(want)}; "
                "leave --resume out to begin anew, or give another --out"
            )
    return {**report, "points": points}


def _at(report: dict[str, Any], field: str) -> Any:
    found: Any = report
    for name in field.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."


def sweep(report: dict[str, Any], points: Sequence[Point], measure: Measure, out: Path | None) -> dict[str, Any]:
    """Measure those points that the report lacks, in order; it is saved after each.

    Raises:
        ServerAway: with the number of points that are kept in its message.
    """
    have = {(point["kind"], point["value"]) for point in report["points"] if "milliseconds" in point}
    report["points"] = [point for point in report["points"] if "milliseconds" in point]
    for point in points:
        if (point.kind, point.value) in have:
            saying(f"{point.name}: measured before")
            continue
        saying(point.name)
        try:
            found = measure(point)
        except ServerAway as error:
            kept = f"{len(report['points'])} points are kept in {out}; --resume goes on" if out else "nothing is kept"
            raise ServerAway(f"{error} ({kept})") from None
        report["points"].append(found)
        finish(report)
        if out is not None:
            save_report(report, out)
    return finish(report)


def finish(report: dict[str, Any]) -> dict[str, Any]:
    """Points in order, and the knee of each kind of load: of those points that nothing failed at."""
    report["points"].sort(key=lambda point: (point["kind"], point["value"]))
    report["knees"] = {}
    for kind in ("in_flight", "rate"):
        good = [point for point in report["points"] if point["kind"] == kind and "milliseconds" in point]
        good = [point for point in good if not point["failed"]]
        delays = [point["milliseconds"].get("mean", point["milliseconds"].get("p50")) for point in good]
        index = knee([point["throughput"] for point in good], delays)
        if index is not None:
            report["knees"][kind] = good[index]["value"]
    return report
