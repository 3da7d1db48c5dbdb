"""The classes of work-zone objects, as `taxonomy.json` lists them. Standard library only."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_PATH = Path(__file__).with_name("taxonomy.json")


class TaxonomyError(ValueError):
    """`taxonomy.json` cannot be used; the message names the field."""


@dataclass(frozen=True)
class WorkClass:
    """One class of work-zone objects.

    `evidence` in [0, 1] is how much a certain sighting of it speaks for roadwork; `color` is "#rrggbb" for drawing.
    """

    id: int
    name: str
    evidence: float
    color: str


@dataclass(frozen=True)
class Taxonomy:
    """All classes; the position of a class in `classes` is its id."""

    version: int
    source: str
    classes: tuple[WorkClass, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the ids."""
        return tuple(entry.name for entry in self.classes)

    @property
    def evidence(self) -> tuple[float, ...]:
        """Evidence weights in the order of the ids."""
        return tuple(entry.evidence for entry in self.classes)

    def by_name(self, name: str) -> WorkClass:
        """Raise `KeyError` for a name that is not in the taxonomy."""
        for entry in self.classes:
            if entry.name == name:
                return entry
        raise KeyError(f"{name!r} is not a class of the taxonomy; it has {', '.join(self.names)}")

    def __len__(self) -> int:
        return len(self.classes)


@functools.lru_cache(maxsize=8)
def load_taxonomy(path: str | Path = DEFAULT_PATH) -> Taxonomy:
    """Read and check a taxonomy. Raises `TaxonomyError` naming the file and the field."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TaxonomyError(f"{path}: cannot be read: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("classes"), list) or not data["classes"]:
        raise TaxonomyError(f"{path}: classes: must be a list of at least one class")
    classes = tuple(_work_class(path, index, entry) for index, entry in enumerate(data["classes"]))
    names = [entry.name for entry in classes]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise TaxonomyError(f"{path}: classes[{index}].name: {name!r} is used twice")
    return Taxonomy(version=int(data.get("version", 1)), source=str(data.get("source", "")), classes=classes)


def _work_class(path: str | Path, index: int, entry: Any) -> WorkClass:
    where = f"{path}: classes[{index}]"
    if not isinstance(entry, dict):
        raise TaxonomyError(f"{where}: must be a mapping, got {entry!r}")
    # Models answer with the id alone: a gap would shift every class after it.
    if entry.get("id") != index:
        raise TaxonomyError(f"{where}.id: must be {index} (ids count up from 0), got {entry.get('id')!r}")
    name = entry.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise TaxonomyError(f"{where}.name: must be lower case letters, digits and _, got {name!r}")
    evidence = entry.get("evidence")
    if isinstance(evidence, bool) or not isinstance(evidence, (int, float)) or not 0 <= evidence <= 1:
        raise TaxonomyError(f"{where}.evidence: must be a number in [0, 1], got {evidence!r}")
    color = entry.get("color")
    if not isinstance(color, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        raise TaxonomyError(f"{where}.color: must be #rrggbb, got {color!r}")
    return WorkClass(id=index, name=name, evidence=float(evidence), color=color)
