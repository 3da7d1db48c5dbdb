"""Results of `roadwork-bench fit --accuracy-json` and `accuracy --out`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadwork_bench.page.blocks import Block, Plot, Table, Text, number, share, span, with_span, words
from roadwork_bench.page.fitting import certificates, frontier
from roadwork_bench.page.results import Result

TITLE = "How right the cascade is"
FILES = ("accuracy", "accuracy_*")
COMMAND = "roadwork-bench fit TABLE --accuracy-json benchmarks/results/accuracy.json"
ORDER = 10
HEADER = ["what", "images", "drives", "MCC (95% by image)", "95% by drive", "balanced accuracy", "precision", "recall",
          "AUROC", "Brier", "ECE"]  # fmt: skip
SOURCE_HEADER = ["source", "images", "drives", "with roadwork", "false alarms", "missed", "Brier", "ECE"]


def render(results: list[Result]) -> list[Block]:
    """The cascade, what it is compared with, and each source by itself."""
    (result,) = results
    report = result.report
    rows = [_row("the cascade", report["overall"])]
    rows += [_row(f"within {name} alone", part) for name, part in (report.get("within") or {}).items()]
    for key, name in (("stacking", "stacking"), ("baseline", "blobs, no learning")):
        if report.get(key):
            rows.append(_row(name, report[key]["overall"]))
    blocks: list[Block] = [Text(f"{_capital(report['method'])}."), Table(HEADER, rows)]
    if report.get("baseline"):
        other = report["baseline"]
        right = f"{other['only_cascade_right']} images, only the blobs on {other['only_blobs_right']}"
        test = f"exact McNemar p = {number(other['mcnemar_p'])}"
        gain = f"gain in MCC by drive {span(other['mcc_gain_by_drive_95'])}"
        blocks.append(Text(f"Against {other['what']}: only the cascade right on {right}, {test}; {gain}."))
    if report.get("by_source"):
        cells = [
            [name, *(str(part[key]) for key in ("images", "groups", "roadwork", "fp", "fn")), number(part.get("brier")),
             number(part.get("ece"))]
            for name, part in report["by_source"].items()
        ]  # fmt: skip
        blocks.append(Table(SOURCE_HEADER, cells, "By source"))
    for key, title in (("by_light", "By light"), ("by_size", "By size")):
        if report.get(key):
            blocks.append(Table(HEADER, [_row(words(name), part) for name, part in report[key].items()], title))
    if report.get("reward"):
        reward = report["reward"]
        blocks.append(
            Text(
                f"The miners' reward, {reward['formula']}: {with_span(reward['mean'], reward['replays_95'])} over "
                f"{reward['replays']} replays of {reward['challenges']} challenges; by drive "
                f"{span(reward['by_drive_95'])}."
            )
        )
    if report.get("frontier"):
        blocks += frontier(result)
    if report.get("certificates"):
        blocks += certificates(report["certificates"])
    curve = _curve(report)
    if curve:
        blocks += [_reliability(result, curve), _bins(curve)]
    stages = report.get("stages")
    if stages:
        asked = ", ".join(f"`{name}` {share(part)}" for name, part in stages["asked"].items())
        blocks.append(Text(f"Asked: {asked}."))
    return [*blocks, *(Text(f"**Mind:** {warning}.") for warning in report.get("warnings", []))]


def _row(name: str, part: Mapping[str, Any]) -> list[str]:
    return [
        name,
        str(part["images"]),
        str(part["groups"]),
        with_span(part["mcc"], part["mcc_jeffreys_95"]),
        span(part["mcc_by_drive_95"]),
        number(part.get("balanced_accuracy")),
        number(part.get("precision")),
        number(part.get("recall")),
        number(part.get("auroc")),
        number(part.get("brier")),
        number(part.get("ece")),
    ]


def _curve(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Bins of the reliability diagram, where the file has them."""
    found = report.get("reliability") or report["overall"].get("reliability") or []
    bins = found.get("bins", []) if isinstance(found, Mapping) else found
    return [part for part in bins if part.get("images")]


def _bins(curve: Sequence[Mapping[str, Any]]) -> Table:
    rows = [[span(_edges(part)), str(part["images"]), number(_said(part)), number(_true(part)), span(_interval(part))]
            for part in curve]  # fmt: skip
    return Table(["probability", "images", "mean probability", "share with roadwork", "95%"], rows, "Reliability")


def _reliability(result: Result, curve: Sequence[Mapping[str, Any]]) -> Plot:
    def draw(panels: Sequence[Any]) -> None:
        (axes,) = panels
        axes.plot([0, 1], [0, 1], linestyle="--", color="C7", linewidth=1)
        for part in curve:
            interval = _interval(part)
            if interval:
                axes.plot([_said(part)] * 2, interval, color="C0", linewidth=1.5)
        axes.plot([_said(part) for part in curve], [_true(part) for part in curve], "o", color="C0")
        axes.set_xlabel("mean probability that the cascade says")
        axes.set_ylabel("share of images with roadwork")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)

    return Plot(
        f"{result.stem}-reliability", f"Reliability, {result.report['overall']['images']} images", draw, (4.6, 4.0)
    )


def _edges(part: Mapping[str, Any]) -> list[float]:
    return [part["lowest"], part["highest"]]


def _said(part: Mapping[str, Any]) -> float:
    return float(part["said"])


def _true(part: Mapping[str, Any]) -> float:
    return float(part["share"])


def _interval(part: Mapping[str, Any]) -> list[float] | None:
    return part.get("share_95")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
