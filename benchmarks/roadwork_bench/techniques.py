"""`roadwork-bench techniques`: what each serving technique that runs here does to a tier's answers, memory and time.

One engine after the other is called directly, the plain tier first; all are asked the same pictures.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadwork_export.catalogue import Entry, load_catalogue
from roadwork_export.errors import ExportError
from roadwork_export.techniques import CPU, Technique, apply, load_techniques, merge, missing_package

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.errors import BenchError
from roadwork_bench.output import save_report, saying
from roadwork_bench.tiers.agreement import agree
from roadwork_bench.tiers.folder import Subject, read_tier
from roadwork_bench.tiers.holding import holding
from roadwork_bench.tiers.images import make_images
from roadwork_bench.tiers.sides import BareSide

IMAGES, ASKED_SEED, TIMED_SEED = 24, 1, 2
BLOCK_SECONDS = 120.0
# Of options that have no default, small enough for the project's own tiers.
VALUES = {"visual_tokens": "36", "batch": "4", "chunked_prefill": "64"}
HALF = {"dtype": "bfloat16"}
# Weights are made smaller from 16 bits, and the project's own tiers are served in 32.
ALSO: Mapping[str, Mapping[str, Any]] = {"fp8_channel": HALF}
MORE: Mapping[str, Mapping[str, Any]] = {
    "bfloat16": HALF,
    "int8_experts, without experts": {**HALF, "quantization": "int8_per_channel_weight_only"},
}
"""Rows that are no technique of this tier: what the others have to be compared with."""

_ERROR = re.compile(r"\b((?:[A-Z]\w*)?(?:Error|Exception): .+)")


@dataclass
class Row:
    """A technique on the tier: the engine's settings, or why there is none."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    refused: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="folder of the tier, which is in the catalogue")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--only", help="names, with commas; the plain tier is always measured")
    parser.add_argument("--gpu", choices=("ampere", "ada", "hopper", "blackwell"), help="generation (default: a CPU)")
    parser.add_argument("--startup-timeout", type=float, default=300.0, help="seconds for each engine")
    parser.add_argument("--logs", type=Path, help="folder that keeps the engines' logs")
    parser.add_argument("--out", type=Path, help="JSON file, written after every technique")


def run(arguments: argparse.Namespace, command: str) -> int:
    """1 where the plain tier could not be asked."""
    subject = read_tier(arguments.model_repository, arguments.name)
    try:
        entry = load_catalogue().get(arguments.name)
    except ExportError as error:
        raise BenchError(str(error)) from None
    report: dict[str, Any] = {
        "about": about(command),
        "tier": arguments.name,
        "gpu": arguments.gpu,
        "images": IMAGES,
        "rows": [],
    }
    plain: list[dict[str, float]] | None = None
    with tempfile.TemporaryDirectory(prefix="roadwork-techniques-") as scratch:
        logs = arguments.logs or Path(scratch)
        logs.mkdir(parents=True, exist_ok=True)
        images = [Path(scratch) / f"{seed}.images" for seed in (ASKED_SEED, TIMED_SEED)]
        for path, seed in zip(images, (ASKED_SEED, TIMED_SEED), strict=True):
            make_images(path, seed, IMAGES, subject.prompt.image.max_side, subject.prompt.image.quality)
        for row in rows(entry, arguments.gpu or CPU, arguments.only):
            found, answers = measured(row, subject, images, logs, arguments.startup_timeout, plain)
            plain = plain or answers
            report["rows"].append(found)
            saying(line(found))
            if arguments.out:
                save_report(report, arguments.out)
            if plain is None:
                return 1
    if not arguments.out:
        print(json.dumps(report, indent=1))
    return 0


def rows(entry: Entry, gpu: str, only: str | None) -> Iterator[Row]:
    """The plain tier, and every technique that is an option of an engine. Raises BenchError for a name that is none."""
    usable = {name: each for name, each in load_techniques().items() if each.usable}
    wanted = only.split(",") if only else [*MORE, *usable]
    unknown = [name for name in wanted if name not in usable and name not in MORE]
    if unknown:
        raise BenchError(f"--only: no technique {unknown[0]!r}; `roadwork-export techniques` lists them")
    yield Row("plain")
    for name in wanted:
        yield Row(name, MORE[name]) if name in MORE else technique_row(usable[name], entry, gpu)


def technique_row(technique: Technique, entry: Entry, gpu: str) -> Row:
    """Refused where the tier or the machine cannot do it, or where it needs something that is not here."""
    name = technique.name
    value = VALUES.get(name)
    try:
        changes = apply([name if value is None else f"{name}={value}"], entry, gpu=gpu)
    except ExportError as error:
        return Row(name, refused=str(error).removeprefix(f"{name}: "))
    package = missing_package(technique)
    if package is not None:
        return Row(name, changes, refused=f"the package {package} is not installed")
    return Row(name, merge(changes, ALSO.get(name, {})))


def measured(
    row: Row, subject: Subject, images: list[Path], logs: Path, timeout: float, plain: list[dict[str, float]] | None
) -> tuple[dict[str, Any], list[dict[str, float]] | None]:
    """What is reported of a row, and its answers where it has any."""
    found: dict[str, Any] = {"name": row.name, "settings": dict(row.changes)}
    if row.refused is not None:
        return {**found, "error": row.refused}, None
    side = BareSide(subject, merge(subject.engine, row.changes), logs)
    try:
        side.wait(timeout)
        asked = side.answers(images[0])
        fresh, again = (side.block(images[1], 1, BLOCK_SECONDS) for _ in range(2))
        found |= {
            "start_seconds": side.started["seconds"],
            "input_tokens": asked["input_tokens"],
            "cache_tokens": side.cache_tokens(),
            "resident_mib": round(holding(side.pids[0], None)["host"] / 2**20),
            "milliseconds": median(fresh.begins, fresh.ends),
            "milliseconds_again": median(again.begins, again.ends),
        }
    except BenchError as error:
        return {**found, "error": reason((logs / "bare.log").read_text(errors="replace")) or str(error)}, None
    finally:
        side.close()
    answers = asked["answers"]
    yes, no = subject.prompt.yes, subject.prompt.no
    compared = agree(plain or answers, answers, list(yes.values()), list(no.values()), 1.0)
    keys = ("largest_difference", "mean_difference", "spread", "without_yes_or_no")
    return {**found, **{key: compared[key] for key in keys}}, answers


def median(begins: list[float], ends: list[float]) -> float:
    """Milliseconds of one image, asked alone."""
    return round(1000 * statistics.median(end - begin for begin, end in zip(begins, ends, strict=True)), 1)


def reason(log: str) -> str | None:
    """The first error that an engine's log names: those that follow come from it. None where there is none."""
    found = _ERROR.search(log)
    return None if found is None else found[1][:300]


def line(found: Mapping[str, Any]) -> str:
    if "error" in found:
        return f"{found['name']}: {found['error']}"
    return (
        f"{found['name']}: P(yes) differs by at most {found['largest_difference']:.4f}, {found['cache_tokens']} tokens "
        f"of cache, {found['resident_mib']} MiB, {found['milliseconds']} ms, then {found['milliseconds_again']}"
    )
