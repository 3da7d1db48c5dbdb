"""The report for people, and which goals it reaches."""

from __future__ import annotations

from typing import Any

from roadwork_bench.medians import shown
from roadwork_bench.output import said
from roadwork_bench.peering.sides import BARE, OURS

BARE_LIMIT, PEER_LIMIT, STAGED_LIMIT = 0.92, 0.97, 1.5
TAIL_RATE = "0.7 of bare"


def goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What is wanted, what was found, and whether it is reached; without a peer only what needs none."""
    saturated, staged = report["saturated"], report["stages_on"]
    found = [_goal("saturated, times bare", saturated["to_bare"][OURS]["median"], BARE_LIMIT)]
    best = saturated["best_peer"]
    if best is None:
        return found
    ours = saturated["ours_to_each_peer"][best]["median"]
    found.append(_goal(f"saturated, times the best peer ({best})", ours, PEER_LIMIT))
    for part in report["rates"]:
        if part["rate"] == TAIL_RATE:
            worst = max(part["ours_to_each_peer_p99"].items(), key=lambda item: item[1]["median"])
            text, value = f"p99 at {TAIL_RATE}, times the quickest peer's ({worst[0]})", worst[1]["median"]
            found.append({"what": text, "found": value, "wanted": "under 1", "reached": value < 1})
    found.append(_goal(f"stages on, times the best peer ({best})", staged["to_best_peer"]["median"], STAGED_LIMIT))
    for name, judged in staged.get("accuracy", {}).items():
        p, text = judged["mcnemar"]["p"], f"stages on, accuracy not worse ({name.replace('_', ' ')}), p of McNemar"
        found.append({"what": text, "found": p, "wanted": "not worse", "reached": judged["not_worse"]})
    return found


def summary(report: dict[str, Any]) -> str:
    """Tables of throughput and latency, then the goals."""
    saturated = report["saturated"]
    lines = [f"Saturated, {saturated['in_flight']} in flight, {report['rounds']} rounds:"]
    for name, side in saturated["sides"].items():
        to_bare = "" if name == BARE else f", {shown(saturated['to_bare'][name])} times bare"
        settings = report["sides"].get(name, {}).get("settings", {})
        chosen = f" ({' '.join(f'{key}={value}' for key, value in settings.items())})" if settings else ""
        lines.append(
            f"  {name}{chosen}: {side['images_per_second']} images/s{to_bare}; "
            f"processor {side['cpu_milliseconds_per_image']} + client {side['client_cpu_milliseconds_per_image']} ms"
        )
    for part in report["rates"]:
        lines.append(f"Poisson arrivals, {part['rate']}:")
        for name, side in part["sides"].items():
            low, high = side["milliseconds_p99_interval_95"]
            lines.append(
                f"  {name} at {part['images_per_second'][name]}/s: p50 {side['milliseconds_p50']} ms, "
                f"p99 {side['milliseconds_p99']} ms ({low:.0f} to {high:.0f})"
            )
    staged = report["stages_on"]
    lines.append(
        f"Stages on: {staged['images_per_second']} images/s, {shown(staged['to_all_stages'])} times all stages"
    )
    for name, judged in staged.get("accuracy", {}).items():
        mcc = judged["mcc"]
        lines.append(f"  {name.replace('_', ' ')}: MCC {mcc['staged']} instead of {mcc['all_stages']}")
    for goal in report["goals"]:
        lines.append(f"{goal['what']}: {goal['found']} (wanted: {goal['wanted']}): {said(goal['reached'])}")
    for name, why in report["failures"].items():
        lines.append(f"{name} was not measured: {why}")
    return "\n".join(lines)


def _goal(what: str, found: float, least: float) -> dict[str, Any]:
    return {"what": what, "found": found, "wanted": f"at least {least}", "reached": found >= least}
