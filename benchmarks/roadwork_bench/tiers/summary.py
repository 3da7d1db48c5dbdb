"""The report for people."""

from __future__ import annotations

from typing import Any

from roadwork_bench.medians import shown
from roadwork_bench.output import said

LATENCY_LIMIT_MS, THROUGHPUT_LIMIT, GPU_MULTIPLE = 10.0, 0.95, 1.5


def summary(report: dict[str, Any]) -> str:
    """A table of every block, what both sides answered, and whether the limits are kept."""
    lines = [f"{report['tier']}, weights {report['weights']}" + (f", {report['gpu']}" if report["gpu"] else "")]
    lines.append(
        f"{'variant':24} {'px':>4} {'fly':>4} {'req/s':>8} {'p50 ms':>8} {'p95 ms':>8} {'ratio':>7} {'+ms':>8}  gpu"
    )
    for part in report["comparisons"]:
        if "served" not in part or not report["gpu"]:
            lines.append(_line("bare", part, part["bare"], None))
        if "served" in part:
            lines.append(_line(part["variant"], part, part["served"], part))
    for found in report["agreement"]:
        verdict = "agree" if found["within_tolerance"] else "DO NOT AGREE: the comparison is void"
        lines.append(
            f"{found['variant']}, {found['side']} px: {verdict} (largest difference {found['largest_difference']}, "
            f"answers spread {found['spread']}, {found['images']} images, {found['prompt_tokens']['served']} tokens)"
        )
    lines += [f"{found['variant']}: FAILED: {found['why']}" for found in report["failures"]]
    return "\n".join(lines + _limits(report))


def _line(name: str, part: dict[str, Any], side: dict[str, Any], compared: dict[str, Any] | None) -> str:
    ratio = f"{compared['throughput_ratio']['median']:7.3f}" if compared else " " * 7
    added = f"{compared['latency_added_ms']['median']:8.2f}" if compared else " " * 8
    gpu = f"  {side['gpu_percent']:.0f}% {side['gpu_memory_gib']} GiB" if "gpu_percent" in side else ""
    cores = f"  {side['busy_cores']} cores" if "busy_cores" in side else ""
    cores += f"  {side['cpu_milliseconds_per_request']} CPU ms" if "cpu_milliseconds_per_request" in side else ""
    return (
        f"{name:24} {part['side']:4} {part['in_flight']:4} {side['requests_per_second']:8.1f} "
        f"{side['milliseconds_p50']:8.1f} {side['milliseconds_p95']:8.1f} {ratio} {added}{gpu}{cores}"
    )


def _limits(report: dict[str, Any]) -> list[str]:
    """Of each side: latency alone, and throughput at saturation."""
    if not all(found["within_tolerance"] for found in report["agreement"]):
        return []
    lines = []
    served = [part for part in report["comparisons"] if "served" in part]
    least = GPU_MULTIPLE if report["gpu"] else THROUGHPUT_LIMIT
    for side in sorted({part["side"] for part in served}):
        here = [part for part in served if part["side"] == side]
        alone = [part["latency_added_ms"] for part in here if part["in_flight"] == 1]
        most = max(part["in_flight"] for part in here)
        full = [part["throughput_ratio"] for part in here if part["in_flight"] == most]
        if alone:
            best = min(alone, key=lambda found: found["median"])
            lines.append(
                f"{side} px: latency added alone {shown(best)} ms ({said(best['median'] <= LATENCY_LIMIT_MS)})"
            )
        best = max(full, key=lambda found: found["median"])
        lines.append(
            f"{side} px: throughput at {most} in flight {shown(best)} times bare ({said(best['median'] >= least)})"
        )
    return lines
