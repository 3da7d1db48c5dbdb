"""`roadwork-bench climb`: the cascade with its tiers, without them, and each tier alone, on recorded scores."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade import pool
from roadwork_cascade.policy import Policy, load_policy
from roadwork_cascade.policy_parts import Stage, Tier

from roadwork_bench.about import about
from roadwork_bench.accuracy import POLICY
from roadwork_bench.calibration import fit_slope_and_shift
from roadwork_bench.errors import BenchError
from roadwork_bench.fitting import Settings, best_threshold, cross_validate
from roadwork_bench.judging import recordable
from roadwork_bench.output import save_report
from roadwork_bench.replay import steps, without_members
from roadwork_bench.sample import Sample, balanced_weights, grouped_folds
from roadwork_bench.statistics import cluster_bootstrap, figures, mcnemar_exact
from roadwork_bench.table import Row, Table, load_table

WITHOUT, WITH = "perception alone", "cascade with tiers"


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
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--out", type=Path, help="write that object to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    table, policy = load_table(arguments.table), load_policy(arguments.policy)
    for text in arguments.milliseconds:
        member, _, value = text.partition("=")
        try:
            milliseconds = float(value)
        except ValueError:
            raise BenchError(f"--milliseconds takes MEMBER=MS, got {text!r}") from None
        set_milliseconds(table, member, milliseconds)
    settings = Settings(folds=arguments.cv_folds, seed=arguments.seed)
    report = {"about": about(command), "policy": policy.identity, **compare_tiers(table, policy, settings)}
    print(summary(report))
    if arguments.out:
        save_report(report, arguments.out)
    if arguments.json:
        print(json.dumps(report))
    return 0


def set_milliseconds(table: Table, member: str, milliseconds: float) -> None:
    """Give a tier a time where the table has none. Raises BenchError where the table does not know it."""
    rows = [row for row in table.usable if member in row.scores]
    if not rows:
        raise BenchError(f"--milliseconds {member}: the table has no scores of it")
    for row in rows:
        row.ms.setdefault(member, milliseconds)


@dataclass(frozen=True)
class Way:
    """One way to decide on n images: decisions and steps asked; nothing was fitted on an image's own group."""

    name: str
    decision: NDArray[np.bool_]
    asked: NDArray[np.bool_]
    steps: list[Stage | Tier]


def compare_tiers(table: Table, policy: Policy, settings: Settings) -> dict[str, Any]:
    """Every way's figures, and what the tiers change. Raises BenchError where the table knows no tier."""
    policy, notes = recordable(policy, table)
    if not policy.tiers:
        raise BenchError("the table has no scores of a tier of the policy: record them with --tier MEMBER=FILE")
    sample, rows = table.sample(policy.fusion), table.usable
    bare = without_members(policy, [tier.member.name for tier in policy.tiers])
    ways = [
        Way(WITHOUT, *_decide(sample, bare, settings), [*bare.stages]),
        Way(WITH, *_decide(sample, policy, settings), [*policy.stages, *policy.tiers]),
    ]
    for tier in policy.tiers:
        answered = ~np.isnan(sample.of(tier.member.name))
        if answered.all():
            decision = tier_alone(sample, tier, settings)
            ways.append(Way(f"{tier.member.name} alone", decision, np.ones((len(sample), 1), bool), [tier]))
        else:
            notes.append(f"{tier.member.name} did not answer {int((~answered).sum())} images and is not shown alone")
    first, second = ways[0], ways[1]
    gained, lost, p = mcnemar_exact(sample.labels, second.decision, first.decision)
    by_drive = cluster_bootstrap(sample.labels, second.decision, list(sample.groups), other=first.decision)
    count = len(policy.stages)
    return {
        "ways": {way.name: _figures(way, sample, rows) for way in ways},
        "escalated": round(float(second.asked[:, count:].any(axis=1).mean()), 4),
        "asked": dict(zip(steps(policy), second.asked.mean(axis=0).round(4).tolist(), strict=True)),
        "only_with_tiers_right": gained,
        "only_without_right": lost,
        "mcnemar_p": float(f"{p:.3g}"),
        "mcc_gain_by_drive_95": by_drive[0].rounded() if by_drive else None,
        "notes": notes,
    }


def tier_alone(sample: Sample, tier: Tier, settings: Settings) -> NDArray[np.bool_]:
    """Decisions of one tier's answers, calibrated and cut as fitted on other groups."""
    raw = pool.logit(sample.of(tier.member.name))
    decision = np.zeros(len(sample), bool)
    for train, test in grouped_folds(sample.labels, sample.groups, settings.folds, settings.seed):
        labels = sample.labels[train]
        weights = balanced_weights(labels, sample.groups[train], sample.sources[train])
        a, b = fit_slope_and_shift(raw[train], labels, weights)
        threshold = best_threshold(labels, pool.sigmoid(a * raw[train] + b), weights)
        decision[test] = pool.sigmoid(a * raw[test] + b) >= threshold
    return decision


def _decide(sample: Sample, policy: Policy, settings: Settings) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    tested = cross_validate(sample, policy, settings)
    return tested.decision, tested.asked


def _figures(way: Way, sample: Sample, rows: list[Row]) -> dict[str, Any]:
    found = figures(sample.labels, way.decision, list(sample.groups))
    spent = np.array([[_spent(row, step) for step in way.steps] for row in rows])
    decode = np.array([row.ms.get("decode", 0.0) for row in rows]) / 1000.0
    seconds, cost = (spent[:, :, 0] * way.asked).sum(axis=1) + decode, (spent[:, :, 1] * way.asked).sum(axis=1)
    return {**found, "seconds_an_image": float(f"{seconds.mean():.4g}"), "cost_an_image": float(f"{cost.mean():.4g}")}


def _spent(row: Row, step: Stage | Tier) -> tuple[float, float]:
    """Seconds and cost of asking a step about an image: its slowest member, and a tier's tokens."""
    if isinstance(step, Tier):
        name = step.member.name
        seconds, tokens = row.ms.get(name, 0.0) / 1000.0, row.tokens.get(name, [0, 0])
        return seconds, seconds * step.price_per_second + step.price_per_1000_tokens.of(*tokens)
    seconds = max(row.ms.get(member.name, 0.0) for member in step.members) / 1000.0
    return seconds, seconds * step.price_per_second


def summary(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{'':24} {'MCC':>6} {'95% by image':>16} {'95% by drive':>16} {'s/image':>8} {'cost/image':>11}"]
    for name, way in report["ways"].items():
        spans = [_span(way[key]) for key in ("mcc_jeffreys_95", "mcc_by_drive_95")]
        lines.append(
            f"{name:24} {way['mcc']:6.3f} {spans[0]:>16} {spans[1]:>16} {way['seconds_an_image']:8.3f} "
            f"{way['cost_an_image']:11.3g}"
        )
    asked = ", ".join(f"{name} {share:.0%}" for name, share in report["asked"].items())
    gain = report["mcc_gain_by_drive_95"]
    lines += [
        f"{report['escalated']:.0%} of the images climb to a tier; asked: {asked}",
        f"only with tiers right on {report['only_with_tiers_right']}, only without on {report['only_without_right']} "
        f"(exact McNemar p = {report['mcnemar_p']:.2g}); MCC gain by drive 95%: {_span(gain)}",
    ]
    return "\n".join([*lines, *(f"Note: {note}" for note in report["notes"])])


def _span(interval: list[float] | None) -> str:
    return "unknown" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
