"""A plan as files: a profile that `serve` runs, and `1/model.json` of tiers for servers that read nothing else."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from roadwork_deploy.errors import PlanError
from roadwork_deploy.planner.hardware import GB
from roadwork_deploy.planner.place import Placed, Plan
from roadwork_deploy.profile import FOLDER, Profile, read_profile

BASE = "gpu"
FIRST = "Written by `roadwork-deploy plan"
"""How the header of a profile begins that the planner may write again."""


def profile_path(name: str) -> Path:
    """Where `--write NAME` writes: a file where the name ends in `.yaml`, else one of the known profiles' folder.

    Raises:
        PlanError: the name is no file name, or that of a profile that is not the planner's to write.
    """
    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", path.stem):
        raise PlanError(f"--write: {path.stem!r} is not a name of lower-case letters, digits, - and _")
    if path.exists() and not path.read_text(encoding="utf-8").startswith(f"# {FIRST}"):
        raise PlanError(f"--write: {path} was not written by the planner and is left alone; choose another name")
    return path


def profile_text(plan: Plan, name: str, command: str, hardware: str, description: str) -> str:
    """The profile's YAML.

    Args:
        plan: what is where.
        name: of the profile; its `config_name` too, since its placement is its own.
        command: that made the plan, for the header.
        hardware: as `--gpus` takes it.
        description: of the machine.
    """
    lines = [
        f"# {FIRST}`; the same command writes it again:",
        f"#   {command}",
        "# docs/planning.md says what the figures are made of. GB are 1e9 bytes, once everything has been busy.",
        f"base: {BASE}",
        f"description: {description}",
        f"config_name: {name}",
        f"hardware: {hardware}",
    ]
    detectors = sorted((p for p in plan.placed if p.need.kind == "detector"), key=lambda p: p.need.name)
    tiers = sorted((p for p in plan.placed if p.need.kind == "tier"), key=lambda p: (p.need.bytes, p.need.name))
    if detectors:
        lines += [
            "",
            "# Networks: those that have weights here run where this says, others on every GPU.",
            "placement:",
        ]
        lines += [f"  {p.need.name}: {_flow(_placement(p))}" for p in detectors]
    if tiers:
        lines += ["", "# Tiers join in this order. `engine` comes over their 1/model.json.", "tiers:"]
        for placed in tiers:
            share = _share(placed)
            lines.append(f"  {placed.need.name}:")
            lines += [f"    {key}: {_flow(value)}" for key, value in share.items() if key != "engine"]
            lines.append("    engine:")
            lines += [f"      {key}: {_flow(value)}" for key, value in share["engine"].items()]
    return "\n".join(lines) + "\n"


def _placement(placed: Placed) -> dict[str, Any]:
    return {"gpus": list(placed.gpus), "batch": placed.need.batch, "memory_gb": _gb(placed.need.bytes)}


def _share(placed: Placed) -> dict[str, Any]:
    need = placed.need
    share: dict[str, Any] = {"gpus": list(placed.gpus), "precision": need.precision, "memory_gb": _gb(need.bytes)}
    if need.checkpoint:
        share["checkpoint"] = need.checkpoint
    return {**share, "engine": dict(need.engine)}


def _gb(size: int) -> float:
    return round(size / GB, 2)


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).removesuffix("...\n").strip()


def write_profile(path: Path, text: str) -> Profile:
    """Write the profile in one step, checked as `serve` will check it.

    Raises:
        PlanError: it cannot be written.
    """
    try:
        # Under its own name, which errors have, and beside its place, so that it gets there in one step.
        with tempfile.TemporaryDirectory(prefix=".plan-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            draft.write_text(text, encoding="utf-8")
            profile = read_profile(draft)
            draft.replace(path)
    except OSError as error:
        raise PlanError(f"--write: {path}: {error.strerror}") from None
    return profile


def model_settings(folder: Path, profile: Profile, name: str) -> dict[str, Any]:
    """What `1/model.json` of a tier becomes, for the stock vLLM backend, which reads no parameters of ours.

    Raises:
        PlanError: the folder has no `1/model.json` that names a model.
    """
    path = folder / "1" / "model.json"
    try:
        have = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(have.get("model"), str):
            raise ValueError
    except (OSError, ValueError, AttributeError):
        raise PlanError(
            f"{path} is missing or names no model; make it with: roadwork-export tier {name} --weights ..."
        ) from None
    merged: Mapping[str, Any] = {**have, **profile.tier_shares[name].settings}
    return {key: value for key, value in merged.items() if value is not None}


def write_settings(repository: Path, profile: Profile) -> list[Path]:
    """Write `1/model.json` of each tier of the profile; all or, where one cannot be, none. The files."""
    settings = {name: model_settings(repository / name, profile, name) for name in profile.tier_shares}
    written = []
    for name, content in settings.items():
        path = repository / name / "1" / "model.json"
        draft = path.with_name("model.json.new")
        draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        draft.replace(path)
        written.append(path)
    return written
