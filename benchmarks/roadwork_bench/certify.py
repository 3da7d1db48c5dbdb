"""`roadwork-bench certify`: how much each early exit of a policy errs at most, on drives that it was not fitted on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.policy import Policy, load_policy

from roadwork_bench.about import about
from roadwork_bench.accuracy import POLICY
from roadwork_bench.certificates import Certificate, certify_exit
from roadwork_bench.errors import BenchError
from roadwork_bench.exits import exits_of, exits_taken
from roadwork_bench.judging import fitted_groups, recordable
from roadwork_bench.output import save_report
from roadwork_bench.replay import replay
from roadwork_bench.sample import Sample
from roadwork_bench.table import Table, load_table

TARGET, CONFIDENCE = 0.02, 0.95
CAVEAT = (
    "the policies of the folds left out the drives they are counted on; the policy that is written was fitted on all "
    "of them, so this vouches for the way of fitting. `roadwork-bench certify` vouches for one policy on other drives"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="table that `record` wrote, of drives the policy was not fitted on")
    parser.add_argument("--policy", type=Path, default=POLICY)
    add_certificate_arguments(parser)
    parser.add_argument("--out", type=Path, help="write the certificates to a file")


def add_certificate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", type=float, default=TARGET, help="error rate that an exit is to be certified for (%(default)s)"
    )
    parser.add_argument(
        "--confidence", type=float, default=CONFIDENCE, help="of all exits' bounds together (%(default)s)"
    )


def run(arguments: argparse.Namespace, command: str) -> int:
    """1 where an exit is not certified by image."""
    table, policy = load_table(arguments.table), load_policy(arguments.policy)
    check_levels(arguments.target, arguments.confidence)
    report = {
        "about": about(command),
        "policy": policy.identity,
        **certify_policy(table, policy, arguments.target, arguments.confidence),
    }
    print(summary(report))
    if arguments.out:
        save_report(report, arguments.out)
    return 0 if all(one["certified"] for one in report["exits"]) else 1


def check_levels(target: float, confidence: float) -> None:
    """Raises BenchError naming the option."""
    if not 0 < target < 1:
        raise BenchError(f"--target is an error rate between 0 and 1, got {target:g}")
    if not 0.5 <= confidence < 1:
        raise BenchError(f"--confidence lies between 0.5 and 1, got {confidence:g}")


def certify_policy(table: Table, policy: Policy, target: float, confidence: float) -> dict[str, Any]:
    """Certificates of the policy as it is, on the drives of the table that it was not fitted on.

    Raises BenchError where no such drive is there.
    """
    policy, notes = recordable(policy, table)
    sample, seen = table.sample(policy.fusion), fitted_groups(policy)
    fresh = np.array([group not in seen for group in sample.groups])
    if not fresh.any():
        raise BenchError(
            f"all {len(set(sample.groups))} drives of the table were used to fit {policy.identity}: record other "
            "drives, or fit with --hold-out, which leaves some out"
        )
    if not fresh.all():
        notes.append(f"{int((~fresh).sum())} images of drives that the policy was fitted on are left out")
    sample = sample.take(np.flatnonzero(fresh))
    whole = replay(policy, sample, all_stages=True).probability >= policy.threshold
    left = exits_taken(policy, replay(policy, sample, all_stages=False))
    found = certify_exits(sample, left, exits_of(policy), whole, target, confidence)
    return {"images": len(sample), "drives": len(set(sample.groups)), **certificates_report(found), "notes": notes}


def certify_exits(
    sample: Sample,
    left: NDArray[np.object_],
    exits: list[tuple[str, str]],
    whole: NDArray[np.bool_],
    target: float,
    confidence: float,
) -> list[Certificate]:
    """A certificate for each exit, all of them together at this confidence. left [n]: `exits.exits_taken`."""
    return [
        certify_exit(
            name,
            says,
            left == f"{name} {says}",
            sample.labels,
            sample.groups,
            target=target,
            confidence=confidence,
            exits=len(exits),
            whole=whole,
        )
        for name, says in exits
    ]


def certificates_report(found: list[Certificate]) -> dict[str, Any]:
    """Plain data of the certificates and how they were come by."""
    return {
        "exits": [one.to_dict() for one in found],
        "method": {
            "by_image": "one-sided Clopper-Pearson, images independent",
            "by_drive": "Hoeffding-Bentkus bound of the mean over drives of the share of errors, drives independent",
            "correction": f"Bonferroni over {len(found)} exits",
        },
    }


def summary(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"Exits of {report['policy']} on {report['images']} images of {report['drives']} drives it never saw:"]
    lines += [f"  {one['sentence']}" for one in report["exits"]] or ["  it has none: every image goes the whole way"]
    return "\n".join([*lines, *(f"Note: {note}" for note in report["notes"])])
