"""Tiers that are told what the detectors found, and tiers that see the picture alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.policy import Policy, load_policy

from roadwork_bench.ablations.measuring import outcome
from roadwork_bench.ablations.settings import Settings
from roadwork_bench.comparison import compare
from roadwork_bench.errors import BenchError
from roadwork_bench.fitting import Settings as Fitting
from roadwork_bench.fitting import cross_validate
from roadwork_bench.judging import recordable
from roadwork_bench.statistics import figures
from roadwork_bench.table import Table, load_table
from roadwork_bench.ways import tier_alone

QUESTION = "Does a tier decide better when its prompt has perception's findings?"
PICTURE, FINDINGS = "picture alone", "with findings"
CASCADE = "cascade with tiers"
SHOWN = ("mcc", "mcc_jeffreys_95", "mcc_by_drive_95", "balanced_accuracy", "precision", "recall")


def check(settings: Settings) -> None:
    """Raise BenchError where a table is missing, saying what makes it."""
    for flag, path in (("--table", settings.table), ("--findings-table", settings.findings_table)):
        if not path.is_file():
            raise BenchError(
                f"{flag} {path}: no such file; write it with: "
                f"roadwork-bench record DIR --tier MEMBER=SCORES.csv --out {path.name}"
            )


def measure(settings: Settings) -> dict[str, Any]:
    """The same photographs from two recorded tables, each fitted and tested on different groups."""
    picture, findings = (load_table(path) for path in (settings.table, settings.findings_table))
    policy = load_policy(settings.repository / "roadwork" / "policy.yaml")
    return compare_tables(picture, findings, policy, Fitting())


def compare_tables(picture: Table, findings: Table, policy: Policy, fitting: Fitting) -> dict[str, Any]:
    """The cascade and each tier alone, without findings and with them. Raises BenchError for unlike tables."""
    tables = same_images(picture, findings)
    policy, notes = both_have(policy, tables)
    if not policy.tiers:
        raise BenchError("the two tables have no tier of the policy in common: record them with --tier MEMBER=FILE")
    samples = [table.sample(policy.fusion) for table in tables]
    ways: dict[str, list[NDArray[np.bool_]]] = {
        CASCADE: [cross_validate(sample, policy, fitting).decision for sample in samples]
    }
    for tier in policy.tiers:
        if any(np.isnan(sample.of(tier.member.name)).any() for sample in samples):
            notes.append(f"{tier.member.name} did not answer every image and is not shown alone")
            continue
        ways[f"{tier.member.name} alone"] = [tier_alone(sample, tier, fitting) for sample in samples]
    labels, groups = samples[0].labels, list(samples[0].groups)
    rows, changes = [], {}
    for way, decisions in ways.items():
        for side, decision in zip((PICTURE, FINDINGS), decisions, strict=True):
            found = figures(labels, decision, groups)
            rows.append({"what": way, "prompt": side, "images": found["images"], **{key: found[key] for key in SHOWN}})
        changes[way] = compare(labels, decisions[0], decisions[1], groups)
    tokens = {side: tokens_of(table, policy) for side, table in zip((PICTURE, FINDINGS), tables, strict=True)}
    return outcome(_answer(changes), rows, [], notes, changes=changes, input_tokens_mean=tokens)


def same_images(first: Table, second: Table) -> list[Table]:
    """Both tables with their rows in one order. Raises BenchError unless they are about the same labelled images."""
    rows = [{row.file: row for row in table.usable} for table in (first, second)]
    if set(rows[0]) != set(rows[1]):
        odd = sorted(set(rows[0]) ^ set(rows[1]))
        raise BenchError(f"the two tables are not of the same images: {len(odd)} are in one alone, such as {odd[0]}")
    names = sorted(rows[0])
    for name in names:
        a, b = rows[0][name], rows[1][name]
        if (a.roadwork, a.group) != (b.roadwork, b.group):
            raise BenchError(f"the two tables differ in the label or group of {name}")
    return [Table(kinds=table.kinds, rows=[by_name[name] for name in names])
            for table, by_name in zip((first, second), rows, strict=True)]  # fmt: skip


def both_have(policy: Policy, tables: list[Table]) -> tuple[Policy, list[str]]:
    """The policy less what one of the tables lacks: a difference must come of the findings alone."""
    notes: list[str] = []
    for table in tables:
        policy, lacking = recordable(policy, table)
        notes += lacking
    return policy, notes


def tokens_of(table: Table, policy: Policy) -> dict[str, float | None]:
    """Mean tokens that each tier read an image; None where they were not recorded."""
    found: dict[str, float | None] = {}
    for tier in policy.tiers:
        name = tier.member.name
        read = [row.tokens[name][0] for row in table.usable if row.tokens.get(name)]
        found[name] = round(float(np.mean(read)), 1) if read else None
    return found


def _answer(changes: dict[str, dict[str, Any]]) -> str:
    parts = []
    for way, change in changes.items():
        better = "unknown" if change["mcc_gain"] is None else f"{change['mcc_gain']:+.3f}"
        parts.append(f"{way}: {better} (exact McNemar p = {change['mcnemar_p']:.2g})")
    return "What findings add to the MCC. " + "; ".join(parts) + "."
