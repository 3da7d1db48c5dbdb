"""`roadwork-bench ablate`: one design choice at a time, with and without it, interleaved in one run."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from roadwork_bench.ablations.settings import NAMES, SCHEMA, Settings
from roadwork_bench.about import about
from roadwork_bench.errors import BenchError
from roadwork_bench.output import save_report, saying


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"all, or some of: {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=defaults.seconds, help="of measuring for each comparison")
    parser.add_argument("--block-seconds", type=float, default=defaults.block, help="before the sides change places")
    parser.add_argument("--in-flight", default="1,4", help="requests on their way: the last saturates")
    parser.add_argument("--model-repository", type=Path, default=defaults.repository)
    parser.add_argument("--network", default=defaults.network, help="what `detectors` has copies of")
    parser.add_argument("--most", type=int, default=defaults.most, help="copies at most of `detectors`")
    parser.add_argument("--table", type=Path, default=defaults.table, help="recorded scores, tiers without findings")
    parser.add_argument("--findings-table", type=Path, default=defaults.findings_table, help="the same with findings")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder that gets ablations_NAME.json of each")


def run(arguments: argparse.Namespace, command: str) -> int:
    names = list(NAMES) if arguments.names == ["all"] else list(dict.fromkeys(arguments.names))
    strange = [name for name in names if name not in NAMES]
    if strange:
        raise BenchError(f"no ablation is called {', '.join(strange)}; there are: all, {', '.join(NAMES)}")
    settings = read_settings(arguments)
    ablations: dict[str, Any] = {name: importlib.import_module(f"roadwork_bench.ablations.{name}") for name in names}
    for ablation in ablations.values():
        if hasattr(ablation, "check"):  # what is missing is told before minutes of measuring
            ablation.check(settings)
    for name, ablation in ablations.items():
        saying(f"{name}: {ablation.QUESTION}")
        report = {"schema": SCHEMA, "about": about(command), "name": name, "question": ablation.QUESTION}
        report |= ablation.measure(settings)
        print(summary(report))
        if arguments.out:  # after each: a run that breaks off keeps what it has
            save_report(report, arguments.out / f"ablations_{name}.json")
    return 0


def read_settings(arguments: argparse.Namespace) -> Settings:
    """Raises BenchError for what cannot be measured with."""
    try:
        in_flight = tuple(int(word) for word in arguments.in_flight.split(","))
    except ValueError:
        raise BenchError(f"--in-flight is {arguments.in_flight!r}; it takes whole numbers such as 1,4") from None
    if not arguments.model_repository.is_dir():
        raise BenchError(f"--model-repository: {arguments.model_repository} is not a folder")
    settings = Settings(
        seconds=arguments.seconds,
        block=arguments.block_seconds,
        in_flight=in_flight,
        repository=arguments.model_repository.resolve(),
        network=arguments.network,
        most=arguments.most,
        table=arguments.table,
        findings_table=arguments.findings_table,
    )
    settings.check()
    return settings


def summary(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [report["question"], f"  {report['answer']}"]
    for row in report["rows"]:
        lines.append("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    for one in report["ratios"]:
        low, high = one["interval_95"]
        within = f", {one['where']}" if "where" in one else ""
        within += f", {one['in_flight']} in flight" if "in_flight" in one else ""
        lines.append(
            f"  {one['measure']}{within}, {one['first']} over {one['second']}: {one['median']:.3f} "
            f"({low:.3f} to {high:.3f})"
        )
    return "\n".join([*lines, *(f"  Note: {note}" for note in report["notes"])])
