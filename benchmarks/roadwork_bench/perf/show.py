"""A sweep for people."""

from __future__ import annotations

from typing import Any

FEW = 100
"""Requests: of fewer, the 99th percentile is the slowest of them."""


def show(report: dict[str, Any]) -> str:
    """Tables of a sweep: the points, and what the models of the last point did."""
    settings, images = report["settings"], report["images"]
    lines = [
        f"{report['model']}: {images['count']} images of {images['kilobytes_mean']} kB, "
        f"{settings['seconds']:g} s a point, "
        f"tensors by {settings['tensors']}{', streamed' if settings['streaming'] else ''}",
        f"{'load':>14} {'answers/s':>10} {'p50 ms':>9} {'p90':>9} {'p95':>9} {'p99':>9} {'requests':>9} {'failed':>7}",
    ]
    lines += [_line(point) for point in report["points"]]
    for kind, value in report.get("knees", {}).items():
        lines.append(f"knee (most throughput for its latency): {_load(kind, value)}")
    lines += _notes(report)
    lines += _models(report)
    return "\n".join(lines)


def _load(kind: str, value: float) -> str:
    return f"{value:g} in flight" if kind == "in_flight" else f"{value:g}/s"


def _line(point: dict[str, Any]) -> str:
    name = _load(point["kind"], point["value"])
    if "milliseconds" not in point:
        return f"{name:>14} broke off, {point['failed']} or more requests failed: {point['broke_off']}"
    ms = point["milliseconds"]
    shown = " ".join(f"{ms[f'p{q}']:>9.1f}" if f"p{q}" in ms else f"{'-':>9}" for q in (50, 90, 95, 99))
    return f"{name:>14} {point['throughput']:>10.2f} {shown} {point['requests']:>9} {point['failed']:>7}"


def _notes(report: dict[str, Any]) -> list[str]:
    lines = []
    for point in report["points"]:
        name = _load(point["kind"], point["value"])
        if point["failed"]:
            lines.append(f"FAILED at {name}: {point['failed']} requests")
        if point.get("fell_behind"):
            lines.append(
                f"{name} is more than the server answers: its queue grew, so the latencies are of this run's length"
            )
        if point.get("delayed_percent", 0) > 5:
            lines.append(f"{name}: perf_analyzer itself sent {point['delayed_percent']:g}% of the requests late")
        other = {status: count for status, count in point.get("statuses", {}).items() if status != "ok"}
        if other:
            lines.append(f"{name}: verdicts that are not ok: {', '.join(f'{n} {s}' for s, n in other.items())}")
        if point.get("left_out"):
            lines.append(
                f"{name}: {point['left_out']} of {point['requests']} verdicts left out a member that did not answer in "
                "time: these were less work"
            )
    few = [point for point in report["points"] if 0 < point["requests"] < FEW]
    if few:
        lines.append(f"p99 of fewer than {FEW} requests is the slowest of them: give more --seconds")
    machine = report["points"][-1].get("machine", {}) if report["points"] else {}
    if report.get("gpu"):
        lines.append(
            f"GPU at the last point: {machine.get('gpu_percent')}% busy, {machine.get('gpu_memory_gib')} GiB "
            f"({report['gpu']})"
        )
    else:
        lines.append("GPU: none")
    if "busy_cores" in machine:
        lines.append(f"cores busy at the last point: {machine['busy_cores']} of {report['about']['machine']['cores']}")
    return lines


def _models(report: dict[str, Any]) -> list[str]:
    """Queue and compute of every model at the last point: means of a request, of the model's own requests."""
    point = report["points"][-1] if report["points"] else {}
    rows = point.get("models", {})
    if not rows:
        return []
    lines = [
        f"models at {_load(point['kind'], point['value'])}, means of a request in ms:",
        f"{'model':>22} {'requests':>9} {'batch':>6} {'total':>9} {'queue':>9} {'compute':>9}",
    ]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["total_ms"]):
        compute = row["compute_input_ms"] + row["compute_infer_ms"] + row["compute_output_ms"]
        batch = "-" if row["batch"] is None else f"{row['batch']:.2f}"
        times = f"{row['total_ms']:>9.1f} {row['queue_ms']:>9.1f} {compute:>9.1f}"
        lines.append(f"{name:>22} {row['requests']:>9} {batch:>6} {times}")
    return lines
