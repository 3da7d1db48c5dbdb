"""Results of `roadwork-bench peers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roadwork_bench.page.blocks import NONE, Block, Goal, Plot, Table, Text, number, span, spanned, words
from roadwork_bench.page.results import Result

TITLE = "Beside what a user would pick instead"
FILES = ("peers", "peers_*")
COMMAND = "roadwork-bench peers --table TABLE --out benchmarks/results/peers.json"
ORDER = 35


def render(results: list[Result]) -> list[Block]:
    """Throughput at saturation, latencies at fixed rates, and stages on."""
    (result,) = results
    report = result.report
    saturated = report["saturated"]
    rows = []
    for name, side in saturated["sides"].items():
        settings = report["sides"].get(name, {}).get("settings") or {}
        chosen = ", ".join(f"{key} {value}" for key, value in settings.items())
        rows.append(
            [
                f"{name} ({chosen})" if chosen else name,
                number(side["images_per_second"]),
                spanned(saturated["to_bare"].get(name)),
                f"{number(side['milliseconds_p50'])} / {number(side['milliseconds_p99'])}",
                number(side.get("cpu_milliseconds_per_image")),
            ]
        )
    header = ["side", "images/s", "times bare", "ms, p50 / p99", "CPU ms an image"]
    title = f"Saturated, {saturated['in_flight']} in flight, {report['rounds']} rounds"
    text = (
        "The same decoder, ONNX sessions and consensus behind each framework, as its documentation recommends, in one "
        f"interleaved run with the same clients and images on the same cores; profile `{report['profile']}`."
    )
    blocks: list[Block] = [Text(text), Table(header, rows, title), _plot(result)]
    blocks += [_rate(part) for part in report["rates"]]
    staged = report["stages_on"]
    told = f"With stages on, ours reaches {number(staged['images_per_second'])} images/s, "
    told += f"{spanned(staged['to_all_stages'])} times all stages always"
    best = staged.get("to_best_peer")
    told += f" and {spanned(best)} times the best peer ({saturated['best_peer']})." if best else "."
    blocks.append(Text(told))
    return blocks + [Text(f"`{name}` was not measured: {why}") for name, why in report["failures"].items()]


def goals(result: Result) -> list[Goal]:
    """As the command itself judges them."""
    return [
        Goal(goal["what"], number(goal["found"]), goal["wanted"], goal["reached"]) for goal in result.report["goals"]
    ]


def _rate(part: dict[str, Any]) -> Table:
    rows = []
    for name, side in part["sides"].items():
        against = part["ours_to_each_peer_p99"].get(name)
        rows.append(
            [
                name,
                number(part["images_per_second"][name]),
                number(side["milliseconds_p50"]),
                f"{number(side['milliseconds_p99'])} ({span(side['milliseconds_p99_interval_95'])})",
                spanned(against) if against else NONE,
            ]
        )
    header = ["side", "images/s", "ms, p50", "ms, p99 (95%)", "p99, ours over this one's"]
    return Table(header, rows, f"Poisson arrivals at {words(part['rate'])}")


def _plot(result: Result) -> Plot:
    report = result.report
    saturated = report["saturated"]
    rated = next((part for part in report["rates"] if part["rate"] == "0.7 of bare"), report["rates"][-1])

    def draw(panels: Sequence[Any]) -> None:
        left, right = panels
        sides = list(saturated["sides"])
        left.barh(sides, [saturated["sides"][name]["images_per_second"] for name in sides], color="C0", height=0.6)
        left.invert_yaxis()
        left.set_xlabel("images/s, saturated")
        names = list(rated["sides"])
        for place, name in enumerate(names):
            low, high = rated["sides"][name]["milliseconds_p99_interval_95"]
            right.plot([low, high], [place, place], color="C1", linewidth=2)
            right.plot(rated["sides"][name]["milliseconds_p99"], place, "o", color="C1")
        right.set_yticks(range(len(names)), names)
        right.set_ylim(len(names) - 0.5, -0.5)
        right.set_xlim(left=0)
        right.set_xlabel(f"ms, p99 at {rated['rate']}")

    height = 1.0 + 0.34 * len(saturated["sides"])
    return Plot(f"{result.stem}-sides", f"Throughput and p99 of each side ({result.machine})", draw, (9.0, height), 2)
