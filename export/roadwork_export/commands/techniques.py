"""`techniques`: the plan's serving techniques, what each becomes, and why some cannot be had."""

from __future__ import annotations

import argparse
import json
import textwrap
from dataclasses import fields
from typing import Any

from ..techniques import Technique, load_techniques, missing_package

WIDTH = 110


def add(commands: argparse._SubParsersAction) -> None:
    """Register the commands of this group."""
    listing = commands.add_parser("techniques", help="the plan's serving techniques as options of a tier")
    listing.add_argument("--json", action="store_true", help="all fields, as a JSON list")
    listing.set_defaults(run=run_techniques)


def run_techniques(arguments: argparse.Namespace) -> int:
    found = list(load_techniques().values())
    if arguments.json:
        print(json.dumps([as_json(technique) for technique in found], indent=2, ensure_ascii=False))
        return 0
    print("\n".join(describe(technique) for technique in found))
    return 0


def as_json(technique: Technique) -> dict[str, Any]:
    """Its fields; `package_missing` is what it needs and this machine lacks."""
    plain = {f.name: getattr(technique, f.name) for f in fields(technique)}
    value = technique.value
    plain["value"] = None if value is None else {f.name: getattr(value, f.name) for f in fields(value)}
    plain["arguments"], plain["needs"], plain["plan"] = (
        dict(technique.arguments),
        dict(technique.needs),
        list(technique.plan),
    )
    return {**plain, "package_missing": missing_package(technique)}


def describe(technique: Technique) -> str:
    """Its name and a few lines."""
    value = technique.value
    option = technique.name
    if value is not None:
        option += f"={value.default if value.default is not None else value.means.upper().split()[0]}"
    lines = [f"{option}: {technique.does}"]
    if technique.usable:
        lines.append(f"sets {json.dumps(dict(technique.arguments))}{_needs(technique)}")
    if technique.refused:
        lines.append(f"refused: {technique.refused}")
    if technique.elsewhere:
        lines.append(f"elsewhere: {technique.elsewhere}")
    if technique.instead:
        lines.append(f"instead: {technique.instead}")
    return "\n    ".join(part for line in lines for part in textwrap.wrap(line, WIDTH))


def _needs(technique: Technique) -> str:
    needs = technique.needs
    missing = missing_package(technique)
    parts = [
        f"a GPU of {needs['gpu']} or newer" if "gpu" in needs else None,
        "no CPU" if not needs.get("cpu", True) else None,
        f"{needs['tensor_parallel']} GPUs" if "tensor_parallel" in needs else None,
        "experts" if needs.get("experts") else None,
        f"package {needs['package']}{' (not installed here)' if missing else ''}" if "package" in needs else None,
        f"one of {len(needs['architectures'])} architectures" if "architectures" in needs else None,
    ]
    said = ", ".join(part for part in parts if part)
    return f"; needs {said}" if said else ""
