"""`roadwork-bench fit`: the policy's numbers from recorded scores, and what they reach on groups they never saw."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from roadwork_cascade.policy import Policy, load_policy, parse_policy, write_policy
from roadwork_cascade.policy_parts import Stage, Tier

from roadwork_bench.about import about
from roadwork_bench.accuracy import POLICY, assess, summary
from roadwork_bench.certificates import sentence
from roadwork_bench.certify import (
    CAVEAT,
    add_certificate_arguments,
    certificates_report,
    certify_exits,
    certify_policy,
    check_levels,
)
from roadwork_bench.certify import summary as exits_summary
from roadwork_bench.cost_plot import plot_frontier
from roadwork_bench.errors import BenchError
from roadwork_bench.exits import NO_TIER, SETTLED_NO, SETTLED_YES, climbs, exits_of, without_settled
from roadwork_bench.fitting import Tested, cross_validate, fit_policy
from roadwork_bench.frontier import frontier_report
from roadwork_bench.judging import judged_of, recordable
from roadwork_bench.output import save_report
from roadwork_bench.sample import grouped_folds
from roadwork_bench.settings import Settings
from roadwork_bench.spending import Spending, give_milliseconds, spending_of
from roadwork_bench.stacking import stack
from roadwork_bench.statistics import figures
from roadwork_bench.table import Table, load_table

NAME = "committed-weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, help="table that `record` wrote")
    parser.add_argument("--policy", type=Path, default=POLICY, help="read for weights and stages, then written")
    parser.add_argument("--write", type=Path, help="write the fitted policy there instead")
    parser.add_argument("--name", default=NAME, help="of the fitted policy")
    parser.add_argument(
        "--exit-error",
        type=float,
        default=Settings.exit_error,
        help="most of the images that leave at a stage wrong where the whole cascade would have been right "
        "(upper 95%% bound by image; default %(default)s)",
    )
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument(
        "--max-cost",
        type=float,
        help="search the bounds of the best MCC at which an image costs at most this on average; replaces --exit-error",
    )
    bound.add_argument("--max-ms", type=float, help="the same for milliseconds, models one after another")
    parser.add_argument(
        "--milliseconds",
        action="append",
        default=[],
        metavar="MEMBER=MS",
        help="what a tier takes alone (`roadwork-bench tier` measures it), where the table does not say",
    )
    parser.add_argument("--plot", type=Path, help="cost against MCC with the chosen point, a PNG file")
    add_certificate_arguments(parser)
    parser.add_argument(
        "--hold-out",
        type=float,
        metavar="SHARE",
        help="leave about this share of the drives out of all fitting and certify the written policy's exits on them",
    )
    parser.add_argument("--cv-folds", type=int, default=Settings.folds)
    parser.add_argument("--seed", type=int, default=Settings.seed, help="of the partition into folds")
    parser.add_argument("--dry-run", action="store_true", help="say what would be fitted, write no policy")
    parser.add_argument("--accuracy-json", type=Path, help="write the out-of-fold figures to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    table, policy = load_table(arguments.table), load_policy(arguments.policy)
    check_levels(arguments.target, arguments.confidence)
    for name in ("max_cost", "max_ms"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < float("inf"):
            raise BenchError(f"--{name.replace('_', '-')} must be over 0, got {value:g}")
    give_milliseconds(table, arguments.milliseconds)
    check_models(table)
    whole_table = table
    if arguments.hold_out is not None:
        table = held_in(table, arguments.hold_out, arguments.seed)
    settings = Settings(
        exit_error=arguments.exit_error,
        folds=arguments.cv_folds,
        seed=arguments.seed,
        max_cost=arguments.max_cost,
        max_ms=arguments.max_ms,
    )
    reduced, _ = recordable(policy, table)
    # The whole table first: a bound that no policy holds is found out before the long part.
    fitted = fit(table, policy, settings, command=command, name=arguments.name)
    sample = table.sample(policy.fusion)
    tested = cross_validate(sample, reduced, settings, _spending(table, reduced, settings))
    report = {"about": about(command), **out_of_fold(table, policy, settings, tested)}
    found = certify_exits(
        sample,
        tested.left,
        exits_met(recordable(fitted, table)[0], tested),
        tested.all_stages_decision,
        arguments.target,
        arguments.confidence,
    )
    report["certificates"] = {**certificates_report(found), "caveat": CAVEAT}
    if arguments.hold_out is not None:
        report["held_out"] = certify_policy(whole_table, fitted, arguments.target, arguments.confidence)
    print(summary(report))
    print(_stacked(report))
    print("Early exits, out of fold:")
    print("\n".join(f"  {sentence(one)}" for one in found) or "  none: every image goes the whole way")
    print(f"  ({CAVEAT})")
    if "held_out" in report:
        print(exits_summary({"policy": "the written policy", **report["held_out"]}))
    if arguments.plot:
        report["frontier"] = frontier_report(sample, reduced, table.usable, settings, tested)
        plot_frontier(report["frontier"], arguments.plot)
        print(f"Cost against MCC drawn in {arguments.plot}")
    print(describe(fitted))
    if arguments.accuracy_json:
        report["fitted_policy"] = fitted.to_dict()
        save_report(report, arguments.accuracy_json)
    if arguments.dry_run:
        return 0
    target = arguments.write or arguments.policy
    write_policy(fitted, target)
    sidecar = target.with_name(f"{target.stem}_exits.json")
    head = {"about": report["about"], "policy": load_policy(target).identity}
    save_report({**head, **(report.get("held_out") or report["certificates"])}, sidecar)
    print(f"written to {target}, what its early exits are certified for to {sidecar}")
    return 0


def held_in(table: Table, share: float, seed: int) -> Table:
    """The table less about this share of its drives, of both classes. Raises BenchError for a bad share."""
    if not 0 < share <= 0.5:
        raise BenchError(f"--hold-out is a share of the drives, over 0 and at most 0.5, got {share:g}")
    sample = table.sample()
    train, _ = next(grouped_folds(sample.labels, sample.groups, max(2, round(1 / share)), seed))
    kept = set(sample.groups[train])
    return Table(table.about, table.kinds, [row for row in table.rows if row.group in kept])


def exits_met(policy: Policy, tested: Tested) -> list[tuple[str, str]]:
    """Exits of the policy, then those that only policies of some folds have."""
    names = [f"{name} {says}" for name, says in exits_of(policy)]
    others = sorted(set(tested.left) - {"", *names})
    return [(head, says) for head, _, says in (name.rpartition(" ") for name in [*names, *others])]


def check_models(table: Table) -> None:
    """Raises BenchError where one fold's scores of a member come from different files: they are no one model's."""
    seen: dict[tuple[str, str | None], str] = {}
    for row in table.usable:
        for member, digest in row.models.items():
            first = seen.setdefault((member, row.fold), digest)
            if first != digest:
                where = "" if row.fold is None else f" in fold {row.fold}"
                raise BenchError(
                    f"{row.file} was scored by {member} {digest}, others{where} by {first}: record the table again"
                )


def _spending(table: Table, policy: Policy, settings: Settings) -> Spending | None:
    return spending_of(table.usable, policy) if settings.bounded else None


def out_of_fold(table: Table, policy: Policy, settings: Settings, tested: Tested | None = None) -> dict[str, Any]:
    """Figures of the pool and of stacking, both fitted and tested on different groups."""
    if tested is None:
        reduced, _ = recordable(policy, table)
        tested = cross_validate(table.sample(policy.fusion), reduced, settings, _spending(table, reduced, settings))
    report = assess(judged_of(table, policy, tested), baseline=True, by="source", settings=settings)
    probability, decision = stack(table.sample(), settings)
    sample = table.sample()
    report["stacking"] = {
        "what": "logistic regression over logits with missing and nothing indicators, every member asked",
        "overall": figures(sample.labels, decision, list(sample.groups), probability),
    }
    return report


def fit(table: Table, policy: Policy, settings: Settings, *, command: str, name: str = NAME) -> Policy:
    """The policy fitted on all rows, with what it was fitted on. Members that were not recorded keep their numbers."""
    reduced, _ = recordable(policy, table)
    sample = table.sample(policy.fusion)
    best = fit_policy(sample, reduced, settings, _spending(table, reduced, settings))
    fitted, data = best.to_dict(), without_settled(policy.to_dict())
    by_name = {step["name"]: step for step in [*fitted["stages"], *fitted.get("tiers", [])]}
    for step in [*data["stages"], *data.get("tiers", [])]:
        found = by_name.get(step["name"])
        if found is None:
            continue
        step["accept"], step["reject"], step["when"] = found["accept"], found["reject"], found["when"]
        step["members"].update(found["members"])
    if climbs(best):
        settled = [route for route in fitted["routes"] if route["name"] in (SETTLED_YES, SETTLED_NO)]
        data["routes"] = [*settled, *data["routes"]]
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
    for route in policy.routes:
        if route.name in (SETTLED_YES, SETTLED_NO) and route.when is not None:
            over = route.name == SETTLED_YES
            cut = route.when.min_probability if over else route.when.max_probability
            lines.append(f"  {NO_TIER}: {'accepts P >=' if over else 'rejects P <='} {cut:.4g}")
    return "\n".join(lines)


def _stacked(report: dict[str, Any]) -> str:
    stacked, pool = report["stacking"]["overall"], report["overall"]
    return (
        f"Stacking (logistic regression, missing indicators) would give MCC {stacked['mcc']:.3f}, Brier "
        f"{stacked['brier']:.3f}; the pool gives {pool['mcc']:.3f}, {pool['brier']:.3f}"
    )
