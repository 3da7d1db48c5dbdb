"""`roadwork-bench climb`: the cascade with its tiers, without them, and each tier alone, on recorded scores.

And a tier asked of a growing share of the images, against asking it of all of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from roadwork_cascade.policy import Policy, load_policy

from roadwork_bench.about import about
from roadwork_bench.accuracy import POLICY
from roadwork_bench.comparison import compare
from roadwork_bench.cost_plot import plot_shares
from roadwork_bench.errors import BenchError
from roadwork_bench.fitting import cross_validate
from roadwork_bench.judging import recordable
from roadwork_bench.output import save_report, saying
from roadwork_bench.replay import steps
from roadwork_bench.settings import Settings
from roadwork_bench.shares import MOST, SHARES, climbs_to_try, curve, curve_report, versus
from roadwork_bench.spending import give_milliseconds, spending_of
from roadwork_bench.table import Table, load_table
from roadwork_bench.ways import ALWAYS, PERCEPTION, always_way, asked_way, perception_ways, tier_ways

WITHOUT, WITH = PERCEPTION, "cascade with tiers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="table that `record` wrote, with --tier scores")
    parser.add_argument("--policy", type=Path, default=POLICY)
    parser.add_argument("--cv-folds", type=int, default=Settings.folds)
    parser.add_argument("--seed", type=int, default=Settings.seed, help="of the partition into folds")
    parser.add_argument(
        "--milliseconds",
        action="append",
        default=[],
        metavar="MEMBER=MS",
        help="what a tier takes alone (`roadwork-bench tier` measures it), where the table does not say",
    )
    parser.add_argument(
        "--shares",
        default=",".join(f"{share:g}" for share in SHARES),
        help="shares of the images that ask a tier, 0 to 1, with commas between them (default %(default)s)",
    )
    parser.add_argument("--plot", type=Path, help="MCC over share and cost, a PNG file")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--out", type=Path, help="write that object to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    table, policy = load_table(arguments.table), load_policy(arguments.policy)
    shares = parse_shares(arguments.shares)
    give_milliseconds(table, arguments.milliseconds)
    settings = Settings(folds=arguments.cv_folds, seed=arguments.seed)
    report = {"about": about(command), "policy": policy.identity, **compare_tiers(table, policy, settings)}
    report["curves"] = share_curves(table, policy, shares, settings)
    print(summary(report))
    if arguments.plot:
        plot_shares(report, arguments.plot)
        print(f"drawn in {arguments.plot}")
    if arguments.out:
        save_report(report, arguments.out)
    if arguments.json:
        print(json.dumps(report))
    return 0


def parse_shares(text: str) -> list[float]:
    """Rising shares from 0 to 1. Raises BenchError naming the option."""
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or found != sorted(set(found)) or not 0 <= found[0] <= found[-1] <= 1:
        raise BenchError(f"--shares is {text!r}, must be rising numbers from 0 to 1 with commas between them")
    return found


def compare_tiers(table: Table, policy: Policy, settings: Settings) -> dict[str, Any]:
    """Every way's figures, and what the tiers change. Raises BenchError where the table knows no tier."""
    policy, notes = recordable(policy, table)
    if not policy.tiers:
        raise BenchError("the table has no scores of a tier of the policy: record them with --tier MEMBER=FILE")
    sample, rows = table.sample(policy.fusion), table.usable
    spending = spending_of(rows, policy)
    tested = cross_validate(sample, policy, settings)
    without, always_perception = perception_ways(sample, policy, settings, rows)
    cascade, always = asked_way(WITH, tested.decision, tested.asked, spending), always_way(ALWAYS, tested, spending)
    alone, lacking = tier_ways(sample, policy, settings, spending)
    notes += lacking
    found = compare(sample.labels, without.decision, cascade.decision, list(sample.groups))
    count = len(policy.stages)
    ways = [without, cascade, always_perception, always, *alone]
    return {
        "ways": {way.name: way.figures(sample) for way in ways},
        "escalated": round(float(tested.asked[:, count:].any(axis=1).mean()), 4),
        "asked": dict(zip(steps(policy), tested.asked.mean(axis=0).round(4).tolist(), strict=True)),
        "only_with_tiers_right": found["only_second_right"],
        "only_without_right": found["only_first_right"],
        "mcnemar_p": found["mcnemar_p"],
        "mcc_gain_by_drive_95": found["mcc_gain_by_drive_95"],
        "cascade_against": [versus(cascade, other, sample) for other in (always, *alone)],
        "notes": notes,
    }


def share_curves(table: Table, policy: Policy, shares: list[float], settings: Settings) -> list[dict[str, Any]]:
    """The report of each climb worth trying, a point a share."""
    policy, _ = recordable(policy, table)
    sample, rows = table.sample(policy.fusion), table.usable
    curves = []
    for climb in climbs_to_try(policy):
        saying(f"asking {' then '.join(climb)} of {', '.join(f'{share:.0%}' for share in shares)} of the images")
        curves.append(curve_report(curve(sample, policy, rows, climb, shares, settings), sample))
    return curves


def summary(report: dict[str, Any]) -> str:
    """The report for people."""
    width = max(len(name) for name in report["ways"])
    head = f"{'MCC':>6} {'95% by image':>16} {'95% by drive':>16} {'s/image':>8} {'cost/image':>11}"
    lines = [f"{'':{width}} {head}"]
    lines += [f"{name:{width}} {_row(way)}" for name, way in report["ways"].items()]
    asked = ", ".join(f"{name} {share:.0%}" for name, share in report["asked"].items())
    gain = report["mcc_gain_by_drive_95"]
    lines += [
        f"{report['escalated']:.0%} of the images climb to a tier; asked: {asked}",
        f"only with tiers right on {report['only_with_tiers_right']}, only without on {report['only_without_right']} "
        f"(exact McNemar p = {report['mcnemar_p']:.2g}); MCC gain by drive 95%: {_span(gain)}",
        *(f"{WITH} {_versus(one)}" for one in report["cascade_against"]),
    ]
    for one in report.get("curves", ()):
        name = " then ".join(one["climb"])
        lines.append(f"Asking {name}, perception always whole:")
        for point in one["points"]:
            share = f"{point['asked']:.1%} asked"
            lines.append(f"  {share:{width - 2}} {_row(point)}")
        if "at_most_a_quarter" in one:
            few = one["at_most_a_quarter"]
            lines.append(f"  asked of {few['asked']:.1%} (at most {MOST:.0%}) {_versus(few)}")
    return "\n".join([*lines, *(f"Note: {note}" for note in report["notes"])])


def _row(way: dict[str, Any]) -> str:
    spans = [_span(way[key]) for key in ("mcc_jeffreys_95", "mcc_by_drive_95")]
    return (
        f"{way['mcc']:6.3f} {spans[0]:>16} {spans[1]:>16} {way['seconds_an_image']:8.3f} {way['cost_an_image']:11.3g}"
    )


def _versus(one: dict[str, Any]) -> str:
    saved = "".join(f"; {_saved(one['saving'][what])} the {what}" for what in ("cost", "seconds"))
    return (
        f"is {one['verdict']} than {one['against']}: alone right on {one['only_few_right']} against "
        f"{one['only_always_right']} (exact McNemar p = {one['mcnemar_p']:.2g}); MCC gain {one['mcc_gain']:+.3f}, by "
        f"drive 95%: {_span(one['mcc_gain_by_drive_95'])}{saved}"
    )


def _saved(share: float | None) -> str:
    """A saving in words; one that is none as what it is."""
    if share is None:
        return "unknown what it saves of"
    return f"saves {share:.0%} of" if share >= 0 else f"takes {1 - share:.1f} times"


def _span(interval: list[float] | None) -> str:
    return "unknown" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
