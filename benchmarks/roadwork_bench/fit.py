"""`roadwork-bench fit`: the policy's numbers from recorded scores, and what they reach on groups they never saw."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from roadwork_cascade.policy import Policy, load_policy, parse_policy, write_policy
from roadwork_cascade.policy_parts import Stage, Tier

from roadwork_bench.about import about
from roadwork_bench.accuracy import POLICY, assess, summary
from roadwork_bench.fitting import Settings, fit_policy
from roadwork_bench.judging import judge_table, recordable
from roadwork_bench.output import save_report
from roadwork_bench.stacking import stack
from roadwork_bench.statistics import figures
from roadwork_bench.table import Table, load_table

NAME = "committed-weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="table that `record` wrote")
    parser.add_argument("--policy", type=Path, default=POLICY, help="read for weights and stages, then written")
    parser.add_argument("--name", default=NAME, help="of the fitted policy")
    parser.add_argument(
        "--exit-error",
        type=float,
        default=Settings.exit_error,
        help="most of the images that leave at a stage wrong where the whole cascade would have been right "
        "(upper 95%% bound by image; default %(default)s)",
    )
    parser.add_argument("--cv-folds", type=int, default=Settings.folds)
    parser.add_argument("--seed", type=int, default=Settings.seed, help="of the partition into folds")
    parser.add_argument("--dry-run", action="store_true", help="say what would be fitted, write nothing")
    parser.add_argument("--accuracy-json", type=Path, help="write the out-of-fold figures to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    table, policy = load_table(arguments.table), load_policy(arguments.policy)
    settings = Settings(exit_error=arguments.exit_error, folds=arguments.cv_folds, seed=arguments.seed)
    report = {"about": about(command), **out_of_fold(table, policy, settings)}
    print(summary(report))
    print(_stacked(report))
    fitted = fit(table, policy, settings, command=command, name=arguments.name)
    print(describe(fitted))
    if arguments.accuracy_json:
        report["fitted_policy"] = fitted.to_dict()
        save_report(report, arguments.accuracy_json)
    if arguments.dry_run:
        return 0
    write_policy(fitted, arguments.policy)
    print(f"written to {arguments.policy}")
    return 0


def out_of_fold(table: Table, policy: Policy, settings: Settings) -> dict[str, Any]:
    """Figures of the pool and of stacking, both fitted and tested on different groups."""
    judged = judge_table(table, policy, cross_validated=True, settings=settings)
    report = assess(judged, baseline=True, by="source", settings=settings)
    probability, decision = stack(table.sample(), settings)
    report["stacking"] = {
        "what": "logistic regression over logits with missing and nothing indicators, every member asked",
        "overall": figures(judged.labels, decision, list(judged.groups), probability),
    }
    return report


def fit(table: Table, policy: Policy, settings: Settings, *, command: str, name: str = NAME) -> Policy:
    """The policy fitted on all rows, with what it was fitted on. Members that were not recorded keep their numbers."""
    reduced, _ = recordable(policy, table)
    sample = table.sample(policy.fusion)
    fitted = fit_policy(sample, reduced, settings).to_dict()
    data = policy.to_dict()
    by_name = {step["name"]: step for step in [*fitted["stages"], *fitted.get("tiers", [])]}
    for step in [*data["stages"], *data.get("tiers", [])]:
        found = by_name.get(step["name"])
        if found is None:
            continue
        step["accept"], step["reject"], step["when"] = found["accept"], found["reject"], found["when"]
        step["members"].update(found["members"])
    _unbound_ends(data)
    groups = sorted(set(sample.groups))
    data |= {"threshold": fitted["threshold"], "pool": fitted["pool"], "name": name}
    data["fitted"] = {
        "command": command,
        "images": len(sample),
        "groups": len(groups),
        "date": about(command)["date"],
        # `accuracy` cross-validates where it meets one of these.
        "group_names": [str(group) for group in groups],
    }
    return parse_policy(data)


def _unbound_ends(data: dict[str, Any]) -> None:
    """Take the bounds off what nothing comes after: the cascade ends there anyhow."""
    climbs = [route["climb"] for route in data.get("routes", ())]
    if not any(climbs):
        data["stages"][-1]["accept"] = data["stages"][-1]["reject"] = None
    followed = {name for climb in climbs for name in climb[:-1]}
    for tier in data.get("tiers", ()):
        if tier["name"] not in followed:
            tier["accept"] = tier["reject"] = None


def describe(policy: Policy) -> str:
    """What was fitted, in a few lines."""
    lines = [f"Fitted: threshold {policy.threshold:.3f}, alpha {policy.pool.alpha:.2f}, beta {policy.pool.beta:+.2f}"]
    asked: list[Stage | Tier] = [*policy.stages, *policy.tiers]
    for step in asked:
        accept = "never" if step.accept is None else f"P >= {step.accept:.4g}"
        reject = "never" if step.reject is None else f"P <= {step.reject:.4g}"
        lines.append(f"  {step.name}: accepts {accept}, rejects {reject}")
        for member in (step.member,) if isinstance(step, Tier) else step.members:
            if not member.votes:
                lines.append(f"    {member.name}: no vote, nothing to fit")
                continue
            nothing = "" if member.nothing is None else f", nothing seen {member.nothing:.3f}"
            lines.append(f"    {member.name}: a {member.a:.2f}, b {member.b:+.2f}{nothing}")
    return "\n".join(lines)


def _stacked(report: dict[str, Any]) -> str:
    stacked, pool = report["stacking"]["overall"], report["overall"]
    return (
        f"Stacking (logistic regression, missing indicators) would give MCC {stacked['mcc']:.3f}, Brier "
        f"{stacked['brier']:.3f}; the pool gives {pool['mcc']:.3f}, {pool['brier']:.3f}"
    )
