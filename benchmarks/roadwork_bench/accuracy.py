"""`roadwork-bench accuracy`: how right the cascade is, with intervals, a baseline and what the sample cannot carry."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.policy import load_policy

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.baseline import blob_decisions
from roadwork_bench.dataset import read_dataset
from roadwork_bench.errors import BenchError
from roadwork_bench.fitting import Settings
from roadwork_bench.folds import read_folds
from roadwork_bench.honesty import camera_warning, sample_warnings, training_warning
from roadwork_bench.judging import Judged, fitted_groups, judge_folder, judge_table
from roadwork_bench.output import save_report
from roadwork_bench.record import add_model_arguments, record
from roadwork_bench.sheet import Tile, write_sheet
from roadwork_bench.statistics import cluster_bootstrap, figures, mcnemar_exact
from roadwork_bench.table import Table, load_table

POLICY = CHECKOUT / "model_repository" / "roadwork" / "policy.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", type=Path, help="folder of labelled images, or a table that `record` wrote")
    parser.add_argument("--policy", type=Path, default=POLICY)
    parser.add_argument("--by", choices=["source", "group"], help="figures of each source or group too")
    parser.add_argument("--baseline", action="store_true", help="count orange blobs beside it")
    parser.add_argument(
        "--cross-validate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="fit and test on different groups; by default where the policy was fitted on some of these groups",
    )
    parser.add_argument("--cv-folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the partition into folds")
    parser.add_argument("--images", type=Path, help="where a table's images are, for --sheet")
    parser.add_argument("--sheet", type=Path, help="contact sheet of the errors, a PNG file")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--out", type=Path, help="write that object to a file")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace, command: str) -> int:
    judged = _judge(arguments, command)
    settings = Settings(folds=arguments.cv_folds, seed=arguments.seed)
    policy = load_policy(arguments.policy)
    report = {
        "about": about(command),
        "policy": policy.identity,
        **assess(judged, baseline=arguments.baseline, by=arguments.by, settings=settings),
    }
    print(summary(report))
    if arguments.sheet:
        images = arguments.images or (arguments.what if arguments.what.is_dir() else None)
        if images is None:
            raise BenchError("--sheet needs --images: a table does not hold the pictures")
        count = write_sheet(error_tiles(judged, images), arguments.sheet)
        print(f"{count} errors drawn in {arguments.sheet}")
    if arguments.out:
        save_report(report, arguments.out)
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False))
    return 0


def _judge(arguments: argparse.Namespace, command: str) -> Judged:
    policy = load_policy(arguments.policy)
    settings = Settings(folds=arguments.cv_folds, seed=arguments.seed)
    if arguments.what.is_dir():
        cross = arguments.cross_validate
        if cross is None:
            cross = bool(fitted_groups(policy) & {p.group for p in read_dataset(arguments.what)})
        if not cross and not arguments.folds:
            return judge_folder(arguments.what, policy, arguments.model_repository, threads=arguments.threads)
        table = Table()
        record(
            arguments.what,
            table,
            arguments.model_repository,
            without=arguments.without,
            folds=read_folds(arguments.folds) if arguments.folds else None,
            threads=arguments.threads,
            command=command,
        )
    else:
        table = load_table(arguments.what)
        cross = arguments.cross_validate
        if cross is None:
            cross = bool(fitted_groups(policy) & {row.group for row in table.usable})
    return judge_table(table, policy, cross_validated=cross, settings=settings)


def assess(
    judged: Judged, *, baseline: bool = False, by: str | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Every figure of the decisions as plain data."""
    settings = settings or Settings()
    everything = np.ones(len(judged.labels), bool)
    overall = _figures(judged, everything)
    report: dict[str, Any] = {"method": judged.method, "overall": overall, "within": {}}
    warnings = sample_warnings(judged.labels, judged.groups, judged.sources, overall)
    warnings += camera_warning(judged.labels, judged.sources)
    warnings += training_warning(judged.seen_in_training, len(judged.labels))
    for source in sorted(set(judged.sources)):
        chosen = judged.sources == source
        if len(set(judged.labels[chosen])) == 2 and not chosen.all():
            part = _figures(judged, chosen)
            report["within"][source] = part
            warnings += sample_warnings(
                judged.labels[chosen], judged.groups[chosen], judged.sources[chosen], part, f"{source} alone"
            )
    if by:
        names = getattr(judged, f"{by}s")
        report[f"by_{by}"] = {str(name): _figures(judged, names == name) for name in sorted(set(names))}
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


def error_tiles(judged: Judged, images: Path) -> list[Tile]:
    """The wrongly judged images, to be drawn."""
    return [
        Tile(
            images / judged.files[k],
            bool(judged.labels[k]),
            float(judged.probability[k]),
            str(judged.groups[k]),
            judged.evidence[k],
        )
        for k in np.flatnonzero(judged.decision != judged.labels.astype(bool))
    ]


def summary(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"Cascade, {report['method']}:", f"  {sentence(report['overall'])}", f"  {_rest(report['overall'])}"]
    for source, part in report["within"].items():
        lines += [f"Within {source} alone:", f"  {sentence(part)}", f"  {_rest(part)}"]
    for key in ("by_source", "by_group"):
        for name, part in report.get(key, {}).items():
            wrong = f"{part['fp']} false alarms, {part['fn']} missed"
            lines.append(f"  {name}: {part['images']} images, {part['roadwork']} roadwork; {wrong}")
    if "baseline" in report:
        base = report["baseline"]
        lines += [f"Baseline, {base['what']}:", f"  {sentence(base['overall'])}"]
        lines += [f"  within {source} alone: {sentence(part)}" for source, part in base["within"].items()]
        lines.append(
            f"  only the cascade right on {base['only_cascade_right']}, only blobs on {base['only_blobs_right']} "
            f"(exact McNemar p = {base['mcnemar_p']:.2g}); MCC gain by drive 95%: {_span(base['mcc_gain_by_drive_95'])}"
        )
    stages = report["stages"]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in stages["asked"].items())
    lines.append(f"Stages asked: {shares}; {stages['milliseconds_mean']} ms an image one by one")
    if stages.get("all_stages_mcc") is not None:
        lines.append(
            f"All stages always: MCC {stages['all_stages_mcc']:.3f}; stages change {stages['decisions_changed']} "
            f"decisions and cost {stages['mcc_cost_of_staging']:.3f}"
        )
    lines += [f"Note: {note}" for note in report["notes"]]
    lines += [f"Not usable: {file}" for file in report["refused"]]
    lines += [f"WARNING: {warning}" for warning in report["warnings"]]
    return "\n".join(lines)


def sentence(part: dict[str, Any]) -> str:
    """MCC x (95% CI a to b by image, c to d by drive; n images, d drives, prevalence)."""
    size = f"{part['images']} images, {part['groups']} drives, {part['roadwork']} with roadwork"
    if part["mcc"] is None:
        return f"MCC undefined, one class only ({size}); {part['fp']} false alarms, {part['fn']} missed"
    return (
        f"MCC {part['mcc']:.3f} (95% CI {_span(part['mcc_jeffreys_95'])} by image, "
        f"{_span(part['mcc_by_drive_95'])} by drive; {size}, prevalence {part['prevalence']:.2f})"
    )


def _rest(part: dict[str, Any]) -> str:
    names = {
        "balanced_accuracy": "balanced accuracy",
        "precision": "precision",
        "recall": "recall",
        "auroc": "AUROC",
        "brier": "Brier",
        "ece": "ECE",
    }
    shown = [f"{label} {part[key]:.3f}" for key, label in names.items() if part.get(key) is not None]
    return ", ".join([*shown, f"{part['fp']} false alarms, {part['fn']} missed"])


def _span(interval: list[float] | None) -> str:
    return "unknown" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
