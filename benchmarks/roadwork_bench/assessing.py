"""Every figure of a set of decisions, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.policy import Policy

from roadwork_bench.baseline import blob_decisions
from roadwork_bench.comparison import compare
from roadwork_bench.errors import BenchError
from roadwork_bench.honesty import (
    camera_warning,
    carries,
    claim_warning,
    class_warning,
    sample_warnings,
    training_warning,
)
from roadwork_bench.judging import Judged
from roadwork_bench.reliability import reliability
from roadwork_bench.reward import replay_reward
from roadwork_bench.settings import Settings
from roadwork_bench.statistics import cluster_bootstrap, figures, mcnemar_exact


def assess(
    judged: Judged,
    *,
    baseline: bool = False,
    by: str | Mapping[str, NDArray[np.str_]] | None = None,
    settings: Settings | None = None,
    claim: float | None = None,
) -> dict[str, Any]:
    """Every figure of the decisions as plain data.

    `by`: `source` or `group`, or for each kind of part the name [n] of every image's part. `claim`: an MCC that the
    sample is to carry, see `honesty.carries`.
    """
    settings = settings or Settings()
    everything = np.ones(len(judged.labels), bool)
    overall = _figures(judged, everything)
    report: dict[str, Any] = {"method": judged.method, "overall": overall, "within": {}}
    report["reliability"] = reliability(judged.labels, judged.probability)
    report["reward"] = replay_reward(judged.labels, judged.decision, list(judged.groups))
    warnings = class_warning(judged.labels)
    warnings += sample_warnings(judged.labels, judged.groups, judged.sources, overall)
    warnings += camera_warning(judged.labels, judged.sources)
    warnings += training_warning(judged.seen_in_training, len(judged.labels))
    for source in sorted(set(judged.sources)):
        chosen = judged.sources == source
        if len(set(judged.labels[chosen])) == 2 and not chosen.all():
            part = _figures(judged, chosen)
            report["within"][source] = part | {
                "reliability": reliability(judged.labels[chosen], judged.probability[chosen])
            }
            warnings += sample_warnings(
                judged.labels[chosen], judged.groups[chosen], judged.sources[chosen], part, f"{source} alone"
            )
    if claim is not None and overall["mcc"] is not None:
        report["claim"] = carries(claim, overall["fp"] + overall["fn"], overall["images"], overall["prevalence"])
        warnings += claim_warning(report["claim"])
    cuts = {by: getattr(judged, f"{by}s")} if isinstance(by, str) else dict(by or {})
    for kind, names in cuts.items():
        report[f"by_{kind}"] = {str(name): _figures(judged, names == name) for name in sorted(set(names))}
    if baseline and judged.blobs is not None:
        try:
            report["baseline"] = _against_blobs(judged, settings)
        except BenchError as error:
            warnings.append(f"no baseline: {error}")
    report["stages"] = _stages(judged)
    report["errors"] = [
        {
            "file": judged.files[k],
            "roadwork": bool(judged.labels[k]),
            "probability": round(float(judged.probability[k]), 4),
        }
        for k in np.flatnonzero(judged.decision != judged.labels.astype(bool))
    ]
    report["refused"] = judged.refused
    report["notes"] = judged.notes
    report["warnings"] = warnings
    return report


def _figures(judged: Judged, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    return figures(
        judged.labels[chosen],
        judged.decision[chosen],
        list(judged.groups[chosen]),
        judged.probability[chosen],
    )


def _against_blobs(judged: Judged, settings: Settings) -> dict[str, Any]:
    assert judged.blobs is not None
    labels, groups = judged.labels, judged.groups
    said = blob_decisions(labels, groups, judged.blobs, settings.folds, settings.seed)
    ours, theirs, p_value = mcnemar_exact(labels, judged.decision, said)
    difference = cluster_bootstrap(labels, judged.decision, list(groups), other=said)
    result: dict[str, Any] = {
        "what": "counting orange-red blobs (HSV), threshold fixed on other groups",
        "overall": figures(labels, said, list(groups)),
        "within": {},
        "only_cascade_right": ours,
        "only_blobs_right": theirs,
        "mcnemar_p": float(f"{p_value:.3g}"),
        "mcc_gain_by_drive_95": difference[0].rounded() if difference else None,
    }
    for source in sorted(set(judged.sources)):
        chosen = judged.sources == source
        if len(set(labels[chosen])) == 2 and not chosen.all():
            result["within"][source] = figures(labels[chosen], said[chosen], list(groups[chosen]))
    return result


def _stages(judged: Judged) -> dict[str, Any]:
    """How far the images climbed, and what leaving early costs."""
    result: dict[str, Any] = {
        "asked": {
            name: round(float(share), 4) for name, share in zip(judged.stages, judged.asked.mean(axis=0), strict=True)
        },
        "milliseconds_mean": round(float(judged.milliseconds.mean()), 1),
    }
    if judged.full_decision is not None:
        full = figures(judged.labels, judged.full_decision, list(judged.groups))
        staged = figures(judged.labels, judged.decision, list(judged.groups))
        result["all_stages_mcc"] = full["mcc"]
        if full["mcc"] is not None:
            result["mcc_cost_of_staging"] = round(full["mcc"] - staged["mcc"], 4)
        result["decisions_changed"] = int((judged.full_decision != judged.decision).sum())
    return result


def against(judged: Judged, other: Judged, policy: Policy) -> dict[str, Any]:
    """Another policy's decisions on the same images, and what separates the two; `second` is the other."""
    if judged.files != other.files:
        raise BenchError("the two policies did not judge the same images, so they cannot be compared")
    groups = list(judged.groups)
    return {
        "policy": policy.identity,
        "method": other.method,
        "overall": figures(judged.labels, other.decision, groups, other.probability),
        **compare(judged.labels, judged.decision, other.decision, groups),
        "notes": other.notes,
    }
