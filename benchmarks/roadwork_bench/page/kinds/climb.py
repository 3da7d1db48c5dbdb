"""Results of `roadwork-bench climb`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadwork_bench.page.blocks import Block, Goal, Plot, Table, Text, number, share, span, with_span
from roadwork_bench.page.results import Result

TITLE = "What the tiers bring"
FILES = ("climb", "climb_*")
COMMAND = "roadwork-bench climb TABLE --out benchmarks/results/climb.json"
ORDER = 12


def render(results: list[Result]) -> list[Block]:
    """Every way to decide: how right, and at what cost."""
    (result,) = results
    report = result.report
    rows = [
        [
            name,
            with_span(way["mcc"], way["mcc_jeffreys_95"]),
            span(way["mcc_by_drive_95"]),
            number(way["precision"]),
            number(way["recall"]),
            number(way["seconds_an_image"]),
            number(way["cost_an_image"]),
        ]
        for name, way in report["ways"].items()
    ]
    header = ["way", "MCC (95% by image)", "95% by drive", "precision", "recall", "s an image", "cost an image"]
    asked = ", ".join(f"`{name}` {share(part)}" for name, part in report["asked"].items())
    text = (
        f"Policy `{report['policy']}`, fitted and tested on different groups. {share(report['escalated'])} of the "
        f"images climb to a tier; asked: {asked}. Only with tiers right: {report['only_with_tiers_right']} images, "
        f"only without: {report['only_without_right']} (exact McNemar p = {number(report['mcnemar_p'])}); gain in "
        f"MCC by drive {span(report['mcc_gain_by_drive_95'])}."
    )
    blocks: list[Block] = [Text(text), Table(header, rows), _plot(result)]
    if report.get("cascade_against"):
        blocks.append(
            _against([("the cascade", one) for one in report["cascade_against"]], "The cascade against each way")
        )
    curves = report.get("curves") or []
    if curves:
        quarters = [(_asked(curve), curve["at_most_a_quarter"]) for curve in curves if curve["at_most_a_quarter"]]
        blocks += [_shares_plot(result), _shares(curves)]
        blocks.append(_against(quarters, "Asking tiers of at most a quarter of the images, against all of them"))
    return [*blocks, *(Text(f"Note: {note}.") for note in report["notes"])]


def goals(result: Result) -> list[Goal]:
    """A tier asked of at most a quarter of the images against the same tier asked of all."""
    found = []
    for curve in result.report.get("curves") or []:
        one = curve["at_most_a_quarter"]
        if one:
            told = f"{share(one['asked'])} asked: {one['verdict']} (McNemar p = {number(one['mcnemar_p'])}), "
            told += f"cost {share(one['saving']['cost'])} less"
            what = f"asking {_asked(curve)} of at most 25% of the images, against all of them"
            found.append(Goal(what, told, "not worse", one["verdict"] in ("better", "not worse")))
    return found


def _asked(curve: Mapping[str, Any]) -> str:
    return " then ".join(f"`{name}`" for name in curve["climb"])


def _against(pairs: Sequence[tuple[str, Mapping[str, Any]]], title: str) -> Table:
    rows = [
        [
            f"{name} against {one['against']}",
            one["verdict"],
            f"{one['only_few_right']} / {one['only_always_right']}",
            number(one["mcnemar_p"]),
            with_span(one["mcc_gain"], one["mcc_gain_by_drive_95"]),
            share(one["saving"]["cost"]),
            share(one["saving"]["seconds"]),
        ]
        for name, one in pairs
    ]
    header = ["ways", "verdict", "only first / second right", "McNemar p", "gain in MCC (95% by drive)", "cost saved",
              "time saved"]  # fmt: skip
    return Table(header, rows, title)


def _shares(curves: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            f"{_asked(curve)}, {share(point['asked'])} asked",
            with_span(point["mcc"], point["mcc_jeffreys_95"]),
            span(point["mcc_by_drive_95"]),
            number(point["seconds_an_image"]),
            number(point["cost_an_image"]),
        ]
        for curve in curves
        for point in curve["points"]
    ]
    header = ["tiers and share of the images", "MCC (95% by image)", "95% by drive", "s an image", "cost an image"]
    return Table(header, rows, "A tier asked of a growing share of the images")


def _shares_plot(result: Result) -> Plot:
    curves = result.report["curves"]

    def draw(panels: Sequence[Any]) -> None:
        left, right = panels
        for curve in curves:
            points, label = curve["points"], " then ".join(curve["climb"])
            left.plot([100 * point["asked"] for point in points], [point["mcc"] for point in points], "o-", label=label)
            right.plot([1e6 * point["cost_an_image"] for point in points], [point["mcc"] for point in points], "o-")
        left.set_xlabel("% of the images that ask")
        left.set_ylabel("MCC")
        right.set_xlabel("cost of a million images")
        left.legend()

    title = f"MCC over the share that asks a tier, and over its cost ({result.machine})"
    return Plot(f"{result.stem}-shares", title, draw, (9.0, 3.6), 2)


def _plot(result: Result) -> Plot:
    ways = result.report["ways"]

    def draw(panels: Sequence[Any]) -> None:
        (axes,) = panels
        for place, (name, way) in enumerate(ways.items()):
            low, high = way["mcc_jeffreys_95"]
            cost = way["cost_an_image"] * 1e6
            axes.errorbar(
                [cost], [way["mcc"]], yerr=[[way["mcc"] - low], [high - way["mcc"]]], fmt="o", capsize=3,
                color=f"C{place}", label=name,
            )  # fmt: skip
        axes.set_xlabel("cost of a million images, at the policy's prices")
        axes.set_ylabel("MCC")
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return Plot(f"{result.stem}-cost", f"Cost against MCC, 95% by image ({result.machine})", draw, (7.8, 3.4))
