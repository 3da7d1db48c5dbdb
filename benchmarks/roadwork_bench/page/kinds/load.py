"""Results of `roadwork-bench load`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadwork_bench.page.blocks import NONE, Block, Plot, Table, Text, number
from roadwork_bench.page.drawing import plain_ticks
from roadwork_bench.page.results import Result

TITLE = "Load: how many images, and how long they take"
FILES = ("load", "load_*")
COMMAND = "roadwork-bench load MODEL --rate 2,4,6,8 --out benchmarks/results/load_MODEL.json"
ORDER = 30
TOGETHER = True
QUANTILES = ("p50", "p90", "p95", "p99")
KINDS = {"in_flight": "in flight", "rate": "requests/s (Poisson)"}


def render(results: list[Result]) -> list[Block]:
    """Every sweep of one machine: a plot of all, then a table of points and one of models each."""
    blocks: list[Block] = [_plot(results)]
    for result in results:
        blocks += _sweep(result.report)
    return blocks


def _sweep(report: Mapping[str, Any]) -> list[Block]:
    settings, images = report["settings"], report["images"]
    options = ", ".join(f"{key} {value}" for key, value in (settings.get("options") or {}).items())
    knees = ", ".join(f"{value:g} {KINDS[kind]}" for kind, value in (report.get("knees") or {}).items())
    text = (
        f"`{report['model']}`: {images['count']} images of {number(images['kilobytes_mean'])} kB, "
        f"{settings['seconds']:g} s a point, tensors by {settings['tensors']}, "
        f"{'streamed, ' if settings['streaming'] else ''}{f'{options}, ' if options else ''}"
        f"perf_analyzer {settings['perf_analyzer']}."
    )
    if knees:
        text += f" Knee of the curve (most throughput for its latency): {knees}."
    header = ["load", "answers/s", *(f"ms, {name}" for name in QUANTILES), "requests", "failed", "busy cores", "GPU %",
              "GPU GiB"]  # fmt: skip
    points = Table(header, [_point(point) for point in report["points"]], f"{report['model']}: points")
    return [Text(text), points, *_models(report)]


def _point(point: Mapping[str, Any]) -> list[str]:
    milliseconds, machine = point.get("milliseconds") or {}, point.get("machine") or {}
    name = f"{point['value']:g} {KINDS[point['kind']]}"
    if point.get("fell_behind"):
        name += ", more than it answers"
    return [
        name,
        number(point.get("throughput")) if milliseconds else f"broke off: {point.get('broke_off', 'no reason told')}",
        *(number(milliseconds.get(quantile)) for quantile in QUANTILES),
        str(point["requests"]),
        str(point["failed"]),
        *(number(machine.get(key)) for key in ("busy_cores", "gpu_percent", "gpu_memory_gib")),
    ]


def _models(report: Mapping[str, Any]) -> list[Block]:
    """Queue and compute of every composing model at the last point that was measured."""
    measured = [point for point in report["points"] if point.get("models")]
    if not measured:
        return []
    last = measured[-1]
    rows = []
    for name, row in sorted(last["models"].items(), key=lambda item: -item[1]["total_ms"]):
        compute = row["compute_input_ms"] + row["compute_infer_ms"] + row["compute_output_ms"]
        batch = NONE if row["batch"] is None else number(row["batch"])
        times = [number(row["total_ms"]), number(row["queue_ms"]), number(compute)]
        rows.append([f"`{name}`", str(row["requests"]), batch, *times])
    title = f"{report['model']}: models at {last['value']:g} {KINDS[last['kind']]}, means of a request"
    return [Table(["model", "requests", "batch", "total, ms", "queue, ms", "compute, ms"], rows, title)]


def _plot(results: Sequence[Result]) -> Plot:
    def draw(panels: Sequence[Any]) -> None:
        (axes,) = panels
        for result in results:
            for kind in KINDS:
                points = [p for p in result.report["points"] if p["kind"] == kind and p.get("milliseconds")]
                if not points:
                    continue
                rates = [point["throughput"] for point in points]
                for quantile, style in (("p50", "o-"), ("p99", "^--")):
                    known = [(rate, p["milliseconds"][quantile]) for rate, p in zip(rates, points, strict=True)
                             if quantile in p["milliseconds"]]  # fmt: skip
                    label = f"{result.report['model']}, {KINDS[kind]}, {quantile}"
                    axes.plot([rate for rate, _ in known], [ms for _, ms in known], style, label=label)
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)
        axes.set_xlim(left=0)
        axes.set_xlabel("answers/s")
        axes.set_ylabel("ms")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    stems = "-".join(result.stem for result in results)
    return Plot(stems, f"Latency against rate ({results[0].machine})", draw, (9.6, 3.8))
