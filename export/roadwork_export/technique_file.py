"""Reads `techniques.yaml`: the plan's serving techniques, what each sets and needs, and why some cannot be had."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from roadwork_cascade.policy_check import PolicyError, read_yaml
from roadwork_cascade.schema_check import shown

from .catalogue import Entry
from .catalogue_fields import CatalogueError, Fields, known_fields

DEFAULT_PATH = Path(__file__).with_name("techniques.yaml")
VERSION = 1
GENERATIONS = ("ampere", "ada", "hopper", "blackwell")
"""Of NVIDIA GPUs, oldest first; `cpu` is none of them."""
CPU = "cpu"
KINDS = ("number", "text")
NEEDS = ("gpu", "cpu", "tensor_parallel", "experts", "package", "architectures")


@dataclass(frozen=True)
class Value:
    """What an option takes after `=`: a whole number of at least `least`, or text.

    Attributes:
        default: None: it has to be given.
    """

    kind: str
    means: str
    least: int = 0
    default: int | str | None = None


@dataclass(frozen=True)
class Technique:
    """One option. `techniques.yaml` explains the fields."""

    name: str
    plan: tuple[str, ...]
    does: str
    arguments: Mapping[str, Any]
    needs: Mapping[str, Any]
    value: Value | None = None
    group: str | None = None
    checkpoint: str | None = None
    cpu: str | None = None
    refused: str | None = None
    elsewhere: str | None = None
    instead: str | None = None

    @property
    def usable(self) -> bool:
        """Whether it is an option of an engine."""
        return self.refused is None and self.elsewhere is None

    def why_not(self, entry: Entry, *, tensor_parallel: int = 1, gpu: str | None = None) -> str | None:
        """Why it cannot be had, None where it can.

        Args:
            tensor_parallel: GPUs that the tier is spread over.
            gpu: one of `GENERATIONS`, `cpu`, or None where it is not known: then hardware is not looked at.
        """
        if self.refused is not None:
            return self.refused
        if self.elsewhere is not None:
            return f"not a setting of an engine: {self.elsewhere}"
        serving = entry.serving
        if serving is None:
            return f"{entry.name} is not served by vLLM"
        known = self.needs.get("architectures")
        if known is not None and serving.architecture not in known:
            return f"vLLM's {serving.architecture} cannot do it"
        if self.needs.get("experts") and not (serving.text and serving.text.experts):
            return f"{entry.name} has no experts"
        if tensor_parallel < self.needs.get("tensor_parallel", 1):
            return f"needs a tier on {self.needs['tensor_parallel']} GPUs, this one is on {tensor_parallel}"
        if gpu == CPU and not self.needs.get("cpu", True):
            return "vLLM does not do it on a CPU"
        least = self.needs.get("gpu")
        if gpu in GENERATIONS and least and GENERATIONS.index(gpu) < GENERATIONS.index(least):
            return f"needs a GPU of the generation {least} or newer, got {gpu}"
        return None


@functools.lru_cache(maxsize=4)
def load_techniques(path: Path | None = None) -> dict[str, Technique]:
    """Name -> technique, in the order of the file.

    Raises:
        CatalogueError: for the first thing that is wrong with the file.
    """
    path = path or DEFAULT_PATH
    try:
        data, _ = read_yaml(path)
    except PolicyError as error:  # of the reader that we share with the policy
        raise CatalogueError(f"{path.name}: {error.field + ': ' if error.field else ''}{error.problem}") from None
    if not isinstance(data, dict) or data.get("version") != VERSION or not isinstance(data.get("techniques"), list):
        raise CatalogueError(f"{path.name}: must be a mapping with version {VERSION} and a list of techniques")
    found: dict[str, Technique] = {}
    for number, item in enumerate(data["techniques"], 1):
        technique = _technique(item, f"{path.name}: technique {number}", path.name)
        if technique.name in found:
            raise CatalogueError(f"{path.name}: {technique.name}: name is used twice")
        found[technique.name] = technique
    for technique in found.values():
        if technique.instead is not None and technique.instead not in found:
            raise CatalogueError(f"{path.name}: {technique.name}: instead names no technique: {technique.instead!r}")
    return found


def _technique(item: Any, at: str, file: str) -> Technique:
    if not isinstance(item, dict):
        raise CatalogueError(f"{at}: must be a mapping, got {shown(item)}")
    name = Fields(at, item).text("name")
    take = Fields(f"{file}: {name}", item)
    known_fields(take.where, item, tuple(f.name for f in fields(Technique)))
    technique = Technique(
        name=name,
        plan=take.texts("plan", required=True),
        does=take.text("does"),
        arguments=take.mapping("arguments"),
        needs=_needs(take),
        value=_read_value(take),
        group=take.text_or_none("group"),
        checkpoint=take.text_or_none("checkpoint"),
        cpu=take.text_or_none("cpu"),
        refused=take.text_or_none("refused"),
        elsewhere=take.text_or_none("elsewhere"),
        instead=take.text_or_none("instead"),
    )
    if technique.usable != bool(technique.arguments):
        raise take.wrong("arguments", "are of techniques that are neither refused nor elsewhere, and of all of them")
    return technique


def _needs(take: Fields) -> dict[str, Any]:
    needs = take.mapping("needs")
    known_fields(f"{take.where}: needs", needs, NEEDS)
    if needs.get("gpu", GENERATIONS[0]) not in GENERATIONS:
        raise take.wrong("needs.gpu", f"must be one of {', '.join(GENERATIONS)}, got {shown(needs['gpu'])}")
    return needs


def _read_value(take: Fields) -> Value | None:
    data = take.mapping("value")
    if not data:
        return None
    known_fields(f"{take.where}: value", data, tuple(f.name for f in fields(Value)))
    inner = Fields(f"{take.where}: value", data)
    return Value(inner.choice("kind", KINDS), inner.text("means"), data.get("least", 0), data.get("default"))
