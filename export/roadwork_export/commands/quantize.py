"""Tiers with compressed weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

FAILED = 1
"""Exit status of a comparison that failed. The repository stays as it is."""


def add(commands: Any) -> None:
    """Register the command of this group."""
    from ..quantize.schemes import GROUPS, SCHEMES

    quantize = commands.add_parser(
        "quantize", help="a tier with compressed weights, served and compared with the original before it is used"
    )
    quantize.add_argument("tier", help="folder of the tier")
    quantize.add_argument("--scheme", choices=sorted(SCHEMES), required=True)
    quantize.add_argument(
        "--images", type=Path, help="folder (with roadwork/ and none/, if labelled) or CSV file (default: drawn scenes)"
    )
    place = quantize.add_mutually_exclusive_group()
    place.add_argument("--out", help="name of the new folder (default: TIER_SCHEME)")
    place.add_argument("--replace", action="store_true", help="put it in the place of the tier's weights")
    quantize.add_argument(
        "--limit", type=float, default=0.02, help="largest mean difference of the probability of yes (default 0.02)"
    )
    quantize.add_argument("--calibrate", type=int, default=128, help="images to calibrate on (default 128)")
    quantize.add_argument("--compare", type=int, default=128, help="other images to compare on (default 128)")
    quantize.add_argument(
        "--group-size", type=int, choices=GROUPS, help="of w4a16 (default: the largest that divides every layer)"
    )
    quantize.add_argument(
        "--compare-by",
        choices=("engine", "transformers"),
        default="engine",
        help="transformers: for a tier that this machine cannot serve, slow, and no proof that the engine serves it",
    )
    quantize.add_argument("--startup-timeout", type=float, default=600.0, help="seconds for each start of the engine")
    quantize.add_argument("--timeout", type=float, default=4 * 3600.0, help="seconds for compressing (default 4 hours)")
    quantize.add_argument("--json", type=Path, help="file that the figures are added to")
    quantize.add_argument("--repository", type=Path, default=Path("model_repository"))
    quantize.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from roadwork_bench.about import about, command_line

    from ..quantize.quantizing import Order, quantize, save

    order = Order(
        tier=arguments.tier,
        scheme=arguments.scheme,
        repository=arguments.repository,
        images=arguments.images,
        out=arguments.out,
        replace=arguments.replace,
        limit=arguments.limit,
        calibrate=arguments.calibrate,
        compare=arguments.compare,
        group=arguments.group_size,
        by=arguments.compare_by,
        startup_seconds=arguments.startup_timeout,
        seconds=arguments.timeout,
    )
    outcome = quantize(order, about("roadwork-export" + command_line().removeprefix("roadwork-bench")), say)
    weights = outcome.record["weights"]
    print(f"{order.tier} {order.scheme}, {outcome.record['compared_by']}: {outcome.comparison}")
    print(f"weights: {weights['before'] / 1e6:.2f} MB before, {weights['after'] / 1e6:.2f} MB after")
    if arguments.json is not None:
        save(outcome.record, arguments.json)
    if outcome.why_not:
        print(
            f"roadwork-export: {order.tier}: {outcome.why_not}; the repository is as it was, the draft is "
            f"{outcome.folder}. Another --scheme, more --images of your own, or a higher --limit",
            file=sys.stderr,
        )
        return FAILED
    print(f"{outcome.folder}: written")
    return 0


def say(text: str) -> None:
    """Progress goes to standard error at once; standard output has the result."""
    print(text, file=sys.stderr, flush=True)
