"""Results of `roadwork-bench overhead`."""

from __future__ import annotations

from roadwork_bench.overhead import LATENCY_LIMIT, THROUGHPUT_LIMIT
from roadwork_bench.page.blocks import Block, Goal, Table, Text, number, share, spanned
from roadwork_bench.page.forest import forest
from roadwork_bench.page.results import Result

TITLE = "What the server costs"
FILES = ("overhead", "overhead_*")
COMMAND = "roadwork-bench overhead --table TABLE --out benchmarks/results/overhead.json"
ORDER = 20


def render(results: list[Result]) -> list[Block]:
    """Whole requests against a bare loop of the same decoder and sessions."""
    (result,) = results
    report = result.report
    rows = []
    for part in report["comparisons"]:
        one, two = part["first"], part["second"]
        rows.append(
            [
                f"{part['in_flight']} in flight ({part['bare_workers']} bare workers)",
                f"{number(one['milliseconds_p50'])} / {number(one['milliseconds_p95'])}",
                f"{number(two['milliseconds_p50'])} / {number(two['milliseconds_p95'])}",
                spanned(part["latency_ratio"]),
                number(one["images_per_second"]),
                number(two["images_per_second"]),
                spanned(part["throughput_ratio"]),
            ]
        )
    header = ["all stages always", "served ms, p50 / p95", "bare ms, p50 / p95", "latency ratio", "served images/s",
              "bare images/s", "throughput ratio"]  # fmt: skip
    images = report["images"]
    staged = report["stages_on"]
    speeds = [number(staged[f"{side}_images_per_second"]) for side in ("staged", "all_stages")]
    text = (
        "A whole request (gRPC, decode, ensembles, BLS, pool) against a bare loop of the same decoder and sessions in "
        f"one process, on {images['count']} images of {number(images['kilobytes_mean'])} kB; profile "
        f"`{report['profile']}`. With stages on, the server has {spanned(staged['throughput_multiple'])} times the "
        f"throughput of all stages always ({' and '.join(speeds)} images/s)."
    )
    ratios = [
        (f"{key.partition('_')[0]}, {part['in_flight']} in flight", part[key])
        for part in report["comparisons"]
        for key in ("latency_ratio", "throughput_ratio")
    ]
    ratios.append(("throughput, stages on over all stages", staged["throughput_multiple"]))
    title = f"What the server costs ({result.machine})"
    plot = forest(f"{result.stem}-ratios", title, ratios, "served over bare")
    blocks: list[Block] = [Text(text), Table(header, rows), plot]
    if "mcc_cost" in report:
        cost = report["mcc_cost"]
        asked = ", ".join(f"`{name}` {share(part)}" for name, part in cost["asked"].items())
        blocks.append(
            Text(
                f"What stages cost in MCC on {cost['images']} recorded images ({cost['method']}): "
                f"{number(cost['staged_mcc'])} instead of {number(cost['all_stages_mcc'])}; asked: {asked}."
            )
        )
    return blocks


def goals(result: Result) -> list[Goal]:
    """Latency of one request, and throughput at saturation."""
    first, last = result.report["comparisons"][0], result.report["comparisons"][-1]
    latency, throughput = first["latency_ratio"], last["throughput_ratio"]
    return [
        Goal("latency of one request, times bare", spanned(latency), f"at most {LATENCY_LIMIT}",
             latency["median"] <= LATENCY_LIMIT),
        Goal("saturated throughput, times bare", spanned(throughput), f"at least {THROUGHPUT_LIMIT:.2f}",
             throughput["median"] >= THROUGHPUT_LIMIT),
    ]  # fmt: skip
