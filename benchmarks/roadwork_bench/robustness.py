"""`roadwork-bench robustness`: the same photographs judged again after compression, blur, noise and the like."""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from roadwork_cascade.policy import load_policy

from roadwork_bench.about import about
from roadwork_bench.accuracy import POLICY
from roadwork_bench.corruptions import CLEAN, CORRUPTIONS
from roadwork_bench.dataset import Photograph, read_dataset
from roadwork_bench.errors import BenchError
from roadwork_bench.folds import Folds, read_folds
from roadwork_bench.output import save_report, saying
from roadwork_bench.record import add_model_arguments, record
from roadwork_bench.robustness_judging import assess
from roadwork_bench.robustness_report import plot, summary
from roadwork_bench.settings import Settings
from roadwork_bench.table import Table, load_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="images.csv beside images, or folders roadwork/ and no_roadwork/")
    parser.add_argument(
        "--table", type=Path, help="recorded clean scores: the policy is fitted on its other groups, not taken as it is"
    )
    parser.add_argument("--policy", type=Path, default=POLICY)
    parser.add_argument("--limit", type=int, help="most images, evenly of classes and groups")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help=f"of {', '.join(CORRUPTIONS)}; by default all"
    )
    parser.add_argument(
        "--scores", type=Path, default=Path("build/robustness"), help="folder of a table for each change; continued"
    )
    parser.add_argument("--cv-folds", type=int, default=Settings.folds)
    parser.add_argument("--seed", type=int, default=Settings.seed, help="of the partition into folds")
    parser.add_argument("--plot", type=Path, help="what each change costs, a PNG file")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--out", type=Path, help="write that object to a file")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace, command: str) -> int:
    unknown = [name for name in arguments.only if name not in CORRUPTIONS]
    if unknown:
        raise BenchError(f"--only {unknown[0]} is no change; known are {', '.join(CORRUPTIONS)}")
    policy, clean = load_policy(arguments.policy), load_table(arguments.table) if arguments.table else None
    chosen = balanced(read_dataset(arguments.folder), arguments.limit)
    names = [CLEAN, *(arguments.only or CORRUPTIONS)]
    tables = _record(arguments, names, [p.file for p in chosen], command)
    settings = Settings(folds=arguments.cv_folds, seed=arguments.seed)
    report = {"about": about(command), **assess(tables, policy, clean, settings)}
    print(summary(report))
    if arguments.plot:
        plot(report, arguments.plot)
        print(f"drawn in {arguments.plot}")
    if arguments.out:
        save_report(report, arguments.out)
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False))
    return 1 if report["refused"] else 0


def balanced(photographs: Sequence[Photograph], limit: int | None) -> list[Photograph]:
    """At most `limit` images: half of each class where there are as many, spread evenly over its groups.

    Of a group, images are taken at even steps, as neighbouring frames are near copies. Raises BenchError under 2.
    """
    if limit is None or limit >= len(photographs):
        return list(photographs)
    if limit < 2:
        raise BenchError(f"--limit is at least 2, got {limit}")
    by_class = [[p for p in photographs if p.roadwork == label] for label in (True, False)]
    half = limit // 2
    quotas = [min(len(by_class[0]), max(half, limit - len(by_class[1]))), 0]
    quotas[1] = limit - quotas[0]
    kept = {p.file for members, quota in zip(by_class, quotas, strict=True) for p in _spread(members, quota)}
    return [p for p in photographs if p.file in kept]


def _spread(photographs: Sequence[Photograph], quota: int) -> list[Photograph]:
    groups: dict[str, list[Photograph]] = {}
    for photograph in photographs:
        groups.setdefault(photograph.group, []).append(photograph)
    taken = dict.fromkeys(sorted(groups), 0)
    turn = deque(taken)
    for _ in range(min(quota, len(photographs))):
        while taken[turn[0]] >= len(groups[turn[0]]):
            turn.popleft()
        taken[turn[0]] += 1
        turn.rotate(-1)
    chosen = []
    for name, count in taken.items():
        places = np.linspace(0, len(groups[name]) - 1, count).round().astype(int) if count > 1 else range(count)
        chosen += [groups[name][k] for k in places]
    return chosen


def _record(
    arguments: argparse.Namespace, names: Sequence[str], files: Sequence[str], command: str
) -> dict[str, Table]:
    """Scores of every change, each in a file of its own that is continued where it exists."""
    folds: Folds | None = read_folds(arguments.folds) if arguments.folds else None
    arguments.scores.mkdir(parents=True, exist_ok=True)
    tables, wanted = {}, set(files)
    for name in names:
        change = CORRUPTIONS.get(name)
        path = arguments.scores / f"{name}.json"
        table = load_table(path) if path.is_file() else Table()
        what = change.what if change else CLEAN
        if table.rows and table.about.get("change") != what:
            raise BenchError(f"{path}: holds scores of another change ({table.about.get('change')}); remove it")
        saying(f"{name}: {what}")
        record(
            arguments.folder,
            table,
            arguments.model_repository,
            out=path,
            without=arguments.without,
            folds=folds,
            threads=arguments.threads,
            command=command,
            only=wanted,
            change=change,
            what=name,
            notes={"change": what},
        )
        # Others may have been recorded before.
        kinds = {member: kind for member, kind in table.kinds.items() if member not in arguments.without}
        tables[name] = Table(table.about, kinds, [row for row in table.rows if row.file in wanted])
    return tables
