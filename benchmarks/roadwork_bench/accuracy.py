"""`roadwork-bench accuracy`: how right the cascade is, with intervals, a baseline and what the sample cannot carry."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.policy import Policy, load_policy

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.assessing import against, assess
from roadwork_bench.dataset import read_dataset, unlabelled
from roadwork_bench.errors import BenchError
from roadwork_bench.folds import read_folds
from roadwork_bench.judging import Judged, fitted_groups, judge_folder, judge_table
from roadwork_bench.output import save_report
from roadwork_bench.record import add_model_arguments, record
from roadwork_bench.reliability import plot_reliability
from roadwork_bench.sample import UnsplittableError
from roadwork_bench.settings import Settings
from roadwork_bench.sheet import Tile, write_sheet
from roadwork_bench.slices import KINDS, folder_rows, row_names
from roadwork_bench.table import Table, load_table
from roadwork_bench.wording import summary

POLICY = CHECKOUT / "model_repository" / "roadwork" / "policy.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", type=Path, help="folder of labelled images, or a table that `record` wrote")
    parser.add_argument("--policy", type=Path, default=POLICY)
    parser.add_argument(
        "--by",
        action="append",
        choices=KINDS,
        default=[],
        help="figures of each source, group, light (day or dark) or size of the image too; may be given again",
    )
    parser.add_argument("--against", type=Path, metavar="POLICY", help="another policy on the same images")
    parser.add_argument("--plot", type=Path, help="reliability plot, a PNG file")
    parser.add_argument(
        "--claim", type=float, metavar="MCC", help="warn where the sample cannot carry such a claim, for example 0.9985"
    )
    parser.add_argument("--baseline", action="store_true", help="count orange blobs beside it")
    parser.add_argument(
        "--cross-validate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="fit and test on different groups; by default where the policy was fitted on some of these groups",
    )
    parser.add_argument("--cv-folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the partition into folds")
    parser.add_argument("--images", type=Path, help="where a table's images are, for --sheet and --by light")
    parser.add_argument("--sheet", type=Path, help="contact sheet of the errors, a PNG file")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--out", type=Path, help="write that object to a file")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace, command: str) -> int:
    if arguments.claim is not None and not 0 < arguments.claim < 1:
        raise BenchError(f"--claim is an MCC between 0 and 1, got {arguments.claim:g}")
    policy = load_policy(arguments.policy)
    other = load_policy(arguments.against) if arguments.against else None
    settings = Settings(folds=arguments.cv_folds, seed=arguments.seed)
    table = _table(arguments, policy, command)
    judged = _judge(arguments, policy, table, settings)
    parts = {kind: _part_names(kind, judged, table, arguments) for kind in dict.fromkeys(arguments.by)}
    report = {
        "about": about(command),
        "policy": policy.identity,
        **assess(judged, baseline=arguments.baseline, by=parts, settings=settings, claim=arguments.claim),
    }
    skipped = unlabelled(arguments.what) if arguments.what.is_dir() else []
    if skipped:
        report["notes"].append(f"{len(skipped)} images have no label and are left out; the first is {skipped[0]}")
    if other is not None:
        report["against"] = against(judged, _judge(arguments, other, table, settings), other)
    print(summary(report))
    if arguments.sheet:
        images = _images(arguments)
        if images is None:
            raise BenchError("--sheet needs --images: a table does not hold the pictures")
        count = write_sheet(error_tiles(judged, images), arguments.sheet)
        print(f"{count} errors drawn in {arguments.sheet}")
    if arguments.plot:
        plot_reliability(_panels(report), arguments.plot, f"Reliability, {judged.method}")
        print(f"reliability drawn in {arguments.plot}")
    if arguments.out:
        save_report(report, arguments.out)
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False))
    return 0


def _images(arguments: argparse.Namespace) -> Path | None:
    """The folder of the pictures, as far as it is known."""
    return arguments.images or (arguments.what if arguments.what.is_dir() else None)


def _table(arguments: argparse.Namespace, policy: Policy, command: str) -> Table | None:
    """The table that was given or is recorded now; None where the cascade itself is to judge the folder."""
    if not arguments.what.is_dir():
        return load_table(arguments.what)
    cross = arguments.cross_validate
    if cross is None:
        cross = bool(fitted_groups(policy) & {p.group for p in read_dataset(arguments.what)})
    if not cross and not arguments.folds:
        return None
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
    return table


def _judge(arguments: argparse.Namespace, policy: Policy, table: Table | None, settings: Settings) -> Judged:
    if table is None:
        return judge_folder(arguments.what, policy, arguments.model_repository, threads=arguments.threads)
    cross = arguments.cross_validate
    if cross is None:
        cross = bool(fitted_groups(policy) & {row.group for row in table.usable})
    try:
        return judge_table(table, policy, cross_validated=cross, settings=settings)
    except UnsplittableError as error:
        raise BenchError(f"{error}; --no-cross-validate judges by the policy as it is") from None


def _part_names(kind: str, judged: Judged, table: Table | None, arguments: argparse.Namespace) -> NDArray[np.str_]:
    """[n]: the part of each judged image."""
    if table is None:
        rows = folder_rows(arguments.what, judged.files, judged.groups, judged.sources)
    else:
        by_file = {row.file: row for row in table.usable}
        rows = [by_file[file] for file in judged.files]
    return row_names(kind, rows, _images(arguments))


def _panels(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    within = [(f"within {name}", part["reliability"]) for name, part in report["within"].items()]
    return [("all", report["reliability"]), *within]


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
