"""Results of `roadwork-export evaluate`."""

from __future__ import annotations

from roadwork_bench.page.blocks import Block, Table, Text, number, words
from roadwork_bench.page.results import Result

TITLE = "What the detectors find"
FILES = ("average_precision", "average_precision_*")
COMMAND = "roadwork-export evaluate --data DATA --folds FOLDS --out benchmarks/results/average_precision.json"
ORDER = 15


def render(results: list[Result]) -> list[Block]:
    """Average precision by class on drives that the networks have not seen."""
    (result,) = results
    report = result.report
    detectors = report["detectors"]
    header = ["class", "boxes"] + [f"`{name}`, {what}" for name in detectors for what in ("AP50", "AP", "recall50")]
    rows = []
    for name in ["all", *report["boxes"]]:
        counts = report["boxes"]
        cells = [words(name), str(sum(counts.values()) if name == "all" else counts[name])]
        for found in detectors.values():
            part = found["all"] if name == "all" else found["by_class"].get(name, {})
            cells += [number(part.get(key)) for key in ("ap50", "ap", "recall50")]
        rows.append(cells)
    seen = f"{report['photographs']} photographs of {report['groups']} drives"
    return [Text(f"{seen}, each scored by networks that never saw its drive."), Table(header, rows)]
