"""Writes what was found into a profile's file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from roadwork_deploy.planner.write import write_profile
from roadwork_deploy.profile import FOLDER, Profile
from roadwork_deploy.profile_reader import read_file

from roadwork_bench.errors import BenchError
from roadwork_bench.perf.candidates import Tunable
from roadwork_bench.perf.search import Candidate

FIRST = "Written by `roadwork-bench tune"
"""How the header of a profile begins that may be written again."""


def check_path(path: Path) -> None:
    """Raise BenchError where a profile must not be written; before anything is measured."""
    if path.suffix != ".yaml" or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", path.stem):
        raise BenchError(f"--write: {path.name!r} is no name of lower-case letters, digits, - and _ that ends in .yaml")
    if not path.parent.is_dir():
        raise BenchError(f"--write: {path.parent} is not a folder")
    if path.exists() and not path.read_text(encoding="utf-8").startswith(f"# {FIRST}"):
        raise BenchError(f"--write: {path} was not written by tune and is left alone; choose another name")


def tuned_text(subject: Tunable, given: str, candidate: Candidate, name: str, command: str, found: str) -> str:
    """The YAML of the profile that was tuned, with these settings of the model.

    Args:
        given: name or file of the profile, as `load_profile` took it.
        name: of the new profile; its `config_name` too, since its settings are its own.
        command: that found the settings, for the header.
        found: what they reach, one line, for the header.
    """
    source = Path(given) if given.endswith(".yaml") else FOLDER / f"{given}.yaml"
    raw, _ = read_file(source)
    data: dict[str, Any] = dict(raw) if "base" in raw or given.endswith(".yaml") else {"base": given}
    whole = {**read_file(FOLDER / f"{raw['base']}.yaml")[0], **raw} if "base" in raw else raw
    data["description"] = whole["description"]
    data["config_name"] = name
    kind = subject.model.kind
    by_kind = {} if kind is None else whole["scenes" if kind == "scene" else "detectors"]
    models = dict(whole["models"])
    share = dict(models.get(subject.model.name, by_kind) or {})
    models[subject.model.name] = _with(share, candidate)
    data["models"] = models
    body = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    return f"# {FIRST}`; the same command writes it again:\n#   {command}\n# {found}\n{body}"


def _with(share: dict[str, Any], candidate: Candidate) -> dict[str, Any]:
    """The raw share of a profile's file with the candidate's settings; what goes without saying is left out."""
    share["instances"] = candidate.instances
    if candidate.batch is None:
        return share
    for key in ("batching", "batch", "delay_ms"):
        share.pop(key, None)
    if candidate.batch == 1:
        return {**share, "batching": False}
    return {**share, "batch": candidate.batch, "delay_ms": candidate.delay_ms}


def write(path: Path, text: str) -> Profile:
    """In one step, checked as `serve` will check it.

    Raises:
        DeployError: it cannot be written, or would not be read.
    """
    return write_profile(path, text)
