"""The table of recorded scores: every member's raw answer to every image, so that fitting needs no model."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from roadwork_cascade import fusion
from roadwork_cascade.members import Boxes, Geometry
from roadwork_cascade.policy_parts import FusionSettings, Seen
from roadwork_cascade.taxonomy import load_taxonomy

from roadwork_bench.errors import BenchError
from roadwork_bench.sample import Sample

SCHEMA = 1


class TableError(BenchError):
    """The file is no table of recorded scores; the message says why."""


@dataclass
class Row:
    """One image.

    fold: whose models scored it, None for the final models. size: width and height in pixels. scores: raw answer in
    [0, 1] by member. boxes: by detector, the strongest as [class id, score, x1, y1, x2, y2] in pixels of the upright
    original. counts: by detector, boxes with a score of at least 0.25. blobs: orange-red regions. luma: mean
    brightness, 0 to 255; None in older tables. ms: by model, alone on the machine. tokens: by tier, read and written.
    models: by member, digest of the files that scored. error: why the image cannot be used.

    A stage takes as long as its slowest member, and costs that time its price in the policy; a tier's tokens on top.
    """

    file: str
    roadwork: bool
    group: str
    source: str
    publishable: bool = False
    fold: str | None = None
    size: list[int] = field(default_factory=list)
    geometry: list[float] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    boxes: dict[str, list[list[float]]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    words: list[dict[str, Any]] = field(default_factory=list)
    blobs: int | None = None
    luma: float | None = None
    ms: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass
class Table:
    """`kinds`: kind of every member that was recorded (boxes, scene, text, scorer or reasoner)."""

    about: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def usable(self) -> list[Row]:
        """Rows whose image could be decoded and that some member has scored."""
        return [row for row in self.rows if row.error is None and row.scores]

    def sample(self, settings: FusionSettings | None = None) -> Sample:
        """The usable rows as arrays, members in the order of `kinds`; `settings` (how boxes are fused) bring `seen`."""
        rows = self.usable
        if not rows:
            raise TableError("the table has no scored image")
        members = tuple(name for name in self.kinds if any(name in row.scores for row in rows))
        return Sample(
            labels=np.array([int(row.roadwork) for row in rows]),
            groups=np.array([row.group for row in rows]),
            sources=np.array([row.source for row in rows]),
            members=members,
            scores=np.array([[row.scores.get(name, np.nan) for name in members] for row in rows], float),
            seen=None if settings is None else tuple(_seen(row, settings) for row in rows),
        )

    def refuse_elsewhere(self, machine: dict[str, Any]) -> None:
        """Raise TableError where what is recorded came from another machine: milliseconds of two do not mix."""
        before = self.about.get("machine")
        if self.rows and before is not None and before != machine:
            raise TableError(
                f"the table was recorded on another machine ({_machine(before)}; this is {_machine(machine)}) and "
                "lacks answers: milliseconds of two machines must not be mixed, so record all of it to another --out"
            )

    def seen_in_training(self) -> int:
        """Usable rows that published weights may have been trained on and that no model of another fold scored."""
        return sum(row.publishable and row.fold is None for row in self.usable)

    def save(self, path: Path) -> None:
        """Write in one step, so that an interruption leaves the last complete table."""
        draft = path.with_name(path.name + ".new")
        head = {"schema": SCHEMA, "about": self.about, "kinds": self.kinds}
        rows = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in self.rows)
        draft.write_text(f'{json.dumps(head, ensure_ascii=False)[:-1]}, "rows": [\n{rows}\n]}}\n', encoding="utf-8")
        os.replace(draft, path)


def _machine(machine: dict[str, Any]) -> str:
    return f"{machine.get('cpu')}, {machine.get('cores')} cores"


def _seen(row: Row, settings: FusionSettings) -> Seen:
    """As the cascade counts, from the boxes that were kept: the strongest of each detector."""
    if not row.size:
        return Seen(0, 0.0, bool(row.words))
    width, height = row.size
    kept = {name: np.array(boxes, float).reshape(-1, 6) for name, boxes in row.boxes.items()}
    boxes = {name: Boxes(b[:, 2:], b[:, 1], b[:, 0].astype(np.int32)) for name, b in kept.items()}
    upright = Geometry(width, height, 1.0, 0.0, 0.0)
    fused = fusion.fuse(boxes, (height, width), upright, load_taxonomy(), iou=settings.iou, score=settings.score)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box["box"] for box in fused)]
    return Seen(len(fused), max(areas, default=0.0) / (width * height), bool(row.words))


def load_table(path: Path) -> Table:
    """Read a table. Raises TableError naming the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise TableError(f"{path}: schema {data['schema']} is not {SCHEMA}; record it again")
        return Table(data["about"], data["kinds"], [Row(**row) for row in data["rows"]])
    except TableError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"{path}: no table of recorded scores: {error}") from None
