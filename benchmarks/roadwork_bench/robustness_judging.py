"""Decisions on changed photographs against those on the clean ones, by the same policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.policy import Policy

from roadwork_bench.comparison import compare, holm
from roadwork_bench.corruptions import CLEAN, CORRUPTIONS, VALIDATORS
from roadwork_bench.errors import BenchError
from roadwork_bench.fitting import fit_policy
from roadwork_bench.honesty import class_warning, sample_warnings, training_warning
from roadwork_bench.judging import fitted_groups, recordable
from roadwork_bench.output import saying
from roadwork_bench.replay import replay, without_members
from roadwork_bench.reward import replay_reward
from roadwork_bench.sample import grouped_folds
from roadwork_bench.settings import Settings
from roadwork_bench.statistics import figures
from roadwork_bench.table import Row, Table

Decided = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""Probability and decision [n]."""


def assess(
    tables: Mapping[str, Table], policy: Policy, clean: Table | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Every figure of every table against the one named `clean`.

    `clean`: recorded scores to fit the policy on, each image by other groups than its own; None takes it as it is.
    Images that some table cannot use are left out of all. `reward`: what the miners' validators would have paid, who
    change a quarter of the images at each of their four strengths; None where not all four were scored.

    Raises BenchError where nothing is left, or where `clean` lacks an image or was scored by other models.
    """
    settings = settings or Settings()
    usable = [{row.file for row in table.usable} for table in tables.values()]
    files = [row.file for row in tables[CLEAN].usable if all(row.file in known for known in usable)]
    if not files:
        raise BenchError("no image can be used under every change")
    policy, notes = recordable(policy, tables[CLEAN])
    if policy.tiers:  # no tier runs in process
        policy = without_members(policy, [tier.member.name for tier in policy.tiers])
    rows = {name: _rows(table, files) for name, table in tables.items()}
    first = rows[CLEAN]
    labels = np.array([int(row.roadwork) for row in first])
    groups, sources = np.array([row.group for row in first]), np.array([row.source for row in first])
    if clean is None:
        decided = {name: _as_it_is(policy, tables[name], rows[name]) for name in tables}
        method = "policy as it is"
        if fitted_groups(policy) & set(groups):
            method += ", fitted on images of the same groups"
    else:
        _check_same_models(clean, first, policy)
        decided, count = _fitted_elsewhere(policy, clean, tables, rows, settings)
        method = f"fitted on clean scores of other groups, {count} folds"
    before = decided[CLEAN][1]
    parts: dict[str, Any] = {}
    for name, (probability, said) in decided.items():
        parts[name] = {
            "what": CORRUPTIONS[name].what if name in CORRUPTIONS else CLEAN,
            **figures(labels, said, list(groups), probability),
        }
        if name != CLEAN:
            parts[name]["against_clean"] = compare(labels, before, said, list(groups))
    asked = [decided[name][1] for name in VALIDATORS if name in decided]
    reward = None
    if len(asked) == len(VALIDATORS):
        reward = replay_reward(np.tile(labels, len(asked)), np.concatenate(asked), list(np.tile(groups, len(asked))))
    changed = [part["against_clean"] for part in parts.values() if "against_clean" in part]
    for part, p_value in zip(changed, holm([part["mcnemar_p"] for part in changed]), strict=True):
        part["mcnemar_p_holm"] = p_value
    seen = sum(row.publishable and row.fold is None for row in first)
    return {
        "method": method,
        "policy": policy.identity,
        "members": [member.name for _, member in policy.members()],
        "corruptions": parts,
        "reward": reward,
        "refused": sorted({row.file for table in tables.values() for row in table.rows} - set(files)),
        "notes": notes,
        "warnings": [
            *class_warning(labels),
            *sample_warnings(labels, groups, sources, parts[CLEAN]),
            *training_warning(seen, len(first)),
        ],
    }


def _rows(table: Table, files: Sequence[str]) -> list[Row]:
    by_file = {row.file: row for row in table.usable}
    return [by_file[file] for file in files]


def _as_it_is(policy: Policy, table: Table, rows: list[Row]) -> Decided:
    sample = Table(table.about, table.kinds, rows).sample(policy.fusion)
    probability = replay(policy, sample).probability
    return probability, probability >= policy.threshold


def _check_same_models(clean: Table, rows: Sequence[Row], policy: Policy) -> None:
    """The scores to fit on must come from the models whose scores are judged."""
    known = {row.file: row for row in clean.usable}
    for row in rows:
        other = known.get(row.file)
        if other is None:
            raise BenchError(f"--table has no scores of {row.file}; record the folder again")
        for _, member in policy.members():
            if member.votes and other.models.get(member.name) != row.models.get(member.name):
                raise BenchError(
                    f"--table: {member.name} scored {row.file} with another file than now; record it again, with the "
                    "same --folds"
                )


def _fitted_elsewhere(
    policy: Policy,
    clean: Table,
    tables: Mapping[str, Table],
    rows: Mapping[str, list[Row]],
    settings: Settings,
) -> tuple[dict[str, Decided], int]:
    """Probabilities and decisions by change; each image judged by a policy fitted on clean scores of other groups."""
    sample = clean.sample(policy.fusion)
    groups = np.array([row.group for row in rows[CLEAN]])
    count = len(groups)
    decided = {name: (np.full(count, np.nan), np.zeros(count, bool)) for name in tables}
    folds = list(grouped_folds(sample.labels, sample.groups, settings.folds, settings.seed))
    for number, (train, test) in enumerate(folds, start=1):
        saying(f"fitting on clean scores, fold {number} of {len(folds)}")
        fitted = fit_policy(sample.take(train), policy, settings)
        chosen = np.flatnonzero(np.isin(groups, np.unique(sample.groups[test])))
        if not len(chosen):
            continue
        for name, (probability, said) in decided.items():
            found = _as_it_is(fitted, tables[name], [rows[name][k] for k in chosen])
            probability[chosen], said[chosen] = found
    return decided, len(folds)
