"""Results of `roadwork-bench networks`."""

from __future__ import annotations

from roadwork_bench.page.blocks import Block, Table, Text, number, share, spanned
from roadwork_bench.page.forest import forest
from roadwork_bench.page.results import Result

TITLE = "Detectors through the server and bare"
FILES = ("networks", "networks_*")
COMMAND = "roadwork-bench networks NAME... --out benchmarks/results/networks.json"
ORDER = 60


def render(results: list[Result]) -> list[Block]:
    """Every network at every batch."""
    (result,) = results
    report = result.report
    rows = []
    for name, network in report["networks"].items():
        for batch, part in network["batches"].items():
            rows.append(
                [
                    f"`{name}`, batch {batch}",
                    f"{number(part['served_ms_p50'])} / {number(part['served_ms_p95'])}",
                    f"{number(part['bare_ms_p50'])} / {number(part['bare_ms_p95'])}",
                    number(part["served_images_per_second"]),
                    number(part["bare_images_per_second"]),
                    spanned(part["throughput_ratio"]),
                ]
            )
    header = ["network", "served ms, p50 / p95", "bare ms, p50 / p95", "served images/s", "bare images/s",
              "throughput ratio"]  # fmt: skip
    limits = [
        f"`{name}` {number(network['limit_images_per_second'])}"
        for name, network in report["networks"].items()
        if network.get("limit_images_per_second")
    ]
    text = (
        f"Each network by itself against its own session called bare ({report['device']}, profile "
        f"`{report['profile']}`). Matrix products run at {number(report['matrix_product_tflops'])} TFLOP/s"
    )
    text += f", so no server can pass, in images/s: {', '.join(limits)}." if limits else "."
    blocks: list[Block] = [Text(text), Table(header, rows)]
    ratios = [
        (f"{name}, batch {batch}", part["throughput_ratio"])
        for name, network in report["networks"].items()
        for batch, part in network["batches"].items()
    ]
    if ratios:
        title = f"Throughput of each network ({result.machine})"
        blocks.append(forest(f"{result.stem}-throughput", title, ratios, "throughput, served over bare"))
    together = report.get("together") or {}
    if together:
        cells = [
            [batch, number(part["images_per_second"]), number(part["bare_combined"]), share(part["share"])]
            for batch, part in together.items()
        ]
        blocks.append(Table(["batch", "images/s", "bare, one after the other", "share"], cells, "All at once"))
    blocks += [Text(f"`{name}` was not measured: {why}") for name, why in report["failed"].items()]
    return blocks
