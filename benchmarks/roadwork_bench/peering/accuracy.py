"""What leaving early does to accuracy, on a table of recorded scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadwork_cascade.policy import Policy

from roadwork_bench.judging import judge_table
from roadwork_bench.replay import without_members
from roadwork_bench.statistics import figures, mcnemar_exact
from roadwork_bench.table import load_table

WORSE = 0.05
"""Two-sided p value under which the staged cascade counts as worse, where it is right on fewer images."""


def staged_accuracy(path: Path, policy: Policy) -> dict[str, Any]:
    """Staged against all stages, for the policy without its tiers: out of fold, and with the bounds as they are served.

    Raises BenchError for a table that cannot be used.
    """
    alone = without_members(policy, [tier.member.name for tier in policy.tiers])
    table = load_table(path)
    return {
        "out_of_fold": _judged(table, alone, cross_validated=True),
        "as_served": _judged(table, alone, cross_validated=False),
    }


def _judged(table: Any, policy: Policy, *, cross_validated: bool) -> dict[str, Any]:
    judged = judge_table(table, policy, cross_validated=cross_validated)
    assert judged.full_decision is not None
    groups = list(judged.groups)
    staged = figures(judged.labels, judged.decision, groups)
    full = figures(judged.labels, judged.full_decision, groups)
    only_staged, only_full, p = mcnemar_exact(judged.labels, judged.decision, judged.full_decision)
    asked = {name: round(float(v), 4) for name, v in zip(judged.stages, judged.asked.mean(axis=0), strict=True)}
    return {
        "method": judged.method,
        "images": staged["images"],
        "groups": staged["groups"],
        "mcc": {"staged": staged["mcc"], "all_stages": full["mcc"]},
        "mcc_by_drive_95": {"staged": staged["mcc_by_drive_95"], "all_stages": full["mcc_by_drive_95"]},
        "mcnemar": {"only_staged_right": only_staged, "only_all_stages_right": only_full, "p": round(p, 4)},
        "not_worse": only_staged >= only_full or p >= WORSE,
        "asked": asked,
    }
