"""From a name in the catalogue to a checked folder of the model repository."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .canvas import photographed, rendered
from .catalogue import OWN, Entry, load_catalogue
from .check import Agreement, Session, compare, read_recipe
from .classes import NOTHING, ClassMap, class_map, read_table
from .errors import CheckError, ExportError, LicenceError
from .family import Family, Source, Weights
from .folder import config, config_facts, draft, output_names
from .graph.piece import OPSETS, write_graph
from .registry import get_family
from .sides import read_sides

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
CHECKED_ON = 6
"""Rendered scenes that a check looks at where no images are given."""
CALIBRATED_ON = 64
FREE = ("yes",)
"""Values of `commercial` in the catalogue that ask nothing of whoever exports."""


@dataclass(frozen=True)
class Order:
    """What is to be made.

    Attributes:
        name: in the catalogue.
        repository, folder: where to; `folder` is the name in the repository, by default that in the catalogue.
        weights: path, hub id or random; None for what the catalogue names.
        table: class table, None for labels that are the taxonomy's or COCO's; of an open vocabulary the prompts.
        head: of a scene model, the head that `fit-head` wrote.
        precision, opset: of the file; None takes the lowest opset that the model can be written in.
        images: folder to check on and, for int8, to calibrate on.
        accept: licence that the caller accepts.
    """

    name: str
    repository: Path
    weights: Weights | None = None
    folder: str | None = None
    table: Path | None = None
    head: Path | None = None
    precision: Precision = "fp32"
    opset: int | None = None
    images: Path | None = None
    accept: str | None = None

    @property
    def target(self) -> Path:
        return self.repository / (self.folder or self.name)


def make(order: Order, tell: Callable[[str], None] = print) -> Agreement:
    """Write the folder and check it; what the check said of the finished file.

    Raises:
        ExportError: it cannot be made, and nothing was written.
        CheckError: it was written and cannot be checked.
    """
    entry, family = find(order.name)
    permit(entry, order.accept)
    target = order.target
    weights = absolute(order.weights or Weights(entry.source))
    if weights.random and order.weights is None:
        raise ExportError(f"{entry.name} has no published weights to fetch: give --weights, or --random-weights")
    if order.precision not in family.precisions:
        raise ExportError(f"{entry.name} does not hold in {order.precision}; choose {' or '.join(family.precisions)}")
    if order.precision == "int8" and order.images is None:
        raise ExportError("int8 is calibrated on your own images: give a folder of some dozens with --images")
    canvases = look_at(order.images)
    with tempfile.TemporaryDirectory(prefix="roadwork-export-") as scratch:
        tell(f"{entry.name}: opening {weights}")
        extra = extras(order, entry)
        source = family.open(with_arguments(entry, extra), weights)
        classes = class_map(source.labels, order.table, source.table) if family.kind == "boxes" else NOTHING
        opset = order.opset or source.opset
        if not max(OPSETS[0], source.opset) <= opset <= OPSETS[1]:
            raise ExportError(f"{entry.name} is written in opset {source.opset} to {OPSETS[1]}, not {opset}")
        recipe = {
            "model": entry.name,
            "weights": weights.source,
            "seed": weights.seed,
            "arguments": extra,
            "classes": classes.table,
            "precision": order.precision,
        }
        facts = {
            "licence": entry.licence,
            "source": str(weights),
            "taxonomy_version": taxonomy_version(),
            "command": shlex.join(["roadwork-export", *sys.argv[1:]]),
            "made_with": versions(family),
            "recipe": json.dumps(recipe),
        }
        room = int(entry.parameters or 0) * 12
        over: list[str] = []
        with draft(target, room) as new:
            model = new / "1" / "model.onnx"
            model.parent.mkdir()
            tell(f"{entry.name}: writing opset {opset}")
            whole = Path(scratch) / "whole.onnx" if order.precision != "fp32" else model
            pieces = source.pre, source.core, source.decode(classes)
            write_graph(pieces, output_names(family.kind), whole, opset, facts, Path(scratch))
            if order.precision != "fp32":
                before = compare(Session(whole, family.kind), source, family.kind, classes, canvases)
                before = before.judge(entry.limits_at("fp32"))
                over = [f"fp32 {text}" for text in before.over]
                tell(f"{entry.name} fp32 against its source: {before}")
                convert(whole, model, order, canvases, family.keep, tell)
            told = config_facts(entry, str(weights))
            (new / "config.pbtxt").write_text(config(target.name, family.kind, told), encoding="utf-8")
    size = sum(p.stat().st_size for p in (target / "1").iterdir())
    tell(f"{target}: {size / 1e6:.1f} MB, licence {entry.licence}")
    found = judged(
        target / "1" / "model.onnx", family, entry, source, classes, canvases, order.precision, weights.random, tell
    )
    found.over += over  # a graph that is wrong before it is rounded is wrong
    return found


def check(path: Path, images: Path | None, tell: Callable[[str], None] = print) -> Agreement:
    """Open the source of a file again, by the recipe in it, and compare.

    Raises:
        CheckError: the file is not there or was not made by `make`.
        WeightsError: its weights are not where they were.
    """
    if not path.is_file():
        raise CheckError(f"{path}: not there; roadwork-export onnx {path.parent.parent.name} writes it")
    recipe = read_recipe(Session(path, "boxes").metadata, path)
    entry, family = find(recipe["model"])
    source = family.open(with_arguments(entry, recipe["arguments"]), Weights(recipe["weights"], recipe["seed"]))
    classes = ClassMap.of(source.labels, recipe["classes"], "the file's recipe") if family.kind == "boxes" else NOTHING
    return judged(
        path, family, entry, source, classes, look_at(images), recipe["precision"], recipe["weights"] is None, tell
    )


def judged(
    path: Path, family: Family, entry: Entry, source: Source, classes: ClassMap,
    canvases: Sequence[np.ndarray], precision: Precision, random: bool, tell: Callable[[str], None],
) -> Agreement:  # fmt: skip
    found = compare(Session(path, family.kind), source, family.kind, classes, canvases)
    if is_judged(precision, random):
        found = found.judge(entry.limits_at(precision))
    tell(f"{path.parent.parent.name} {precision} against its source: {found}")
    return found


def is_judged(precision: Precision, random: bool) -> bool:
    """Whether limits hold. What int8 loses depends on the images, and is told; so is what float16 does to random
    weights, which answer one level of noise on the canvas with other boxes than before.
    """
    return precision == "fp32" or (precision == "fp16" and not random)


def find(name: str) -> tuple[Entry, Family]:
    """Raises ExportError for a name that is not in the catalogue, or is there and is not exported to ONNX."""
    entry = load_catalogue().get(name)
    if entry.status == "rejected":
        raise ExportError(f"{name} is not exported: {entry.reason}")
    if entry.family == OWN:
        raise ExportError(f"{name} is trained here: roadwork-export build {name}, or tier {name} of a tier")
    if entry.family is None:
        raise ExportError(f"{name} is not exported to ONNX; roadwork-export show {name} says how it is served")
    return entry, get_family(entry.family)


def absolute(weights: Weights) -> Weights:
    """A path from the root, so that `check` finds it from any folder."""
    if weights.source is not None and Path(weights.source).exists():
        return dataclasses.replace(weights, source=str(Path(weights.source).resolve()))
    return weights


def extras(order: Order, entry: Entry) -> dict[str, Any]:
    """What the order says beyond the catalogue, for the family: `head` and `sides` of a scene model, `prompts` of an
    open vocabulary."""
    found: dict[str, Any] = {}
    if order.head is not None:
        if entry.role != "scene":
            raise ExportError(f"{entry.name} is no scene model: it takes no --head")
        found["head"] = str(order.head.resolve())
    if order.table is not None and entry.role == "open_vocabulary":
        found["prompts"] = read_table(order.table)
    if order.table is not None and entry.role == "scene":
        found["sides"] = read_sides(order.table)
    return found


def with_arguments(entry: Entry, extra: dict[str, Any]) -> Entry:
    return dataclasses.replace(entry, arguments={**entry.arguments, **extra})


def permit(entry: Entry, accepted: str | None) -> None:
    """Raises LicenceError where the licence restricts use and the caller has not named it."""
    if entry.commercial in FREE or accepted == entry.licence:
        return
    raise LicenceError(
        f"{entry.name} is under {entry.licence} (commercial use: {entry.commercial}). If those terms suit you, say so "
        f"with --accept-licence {shlex.quote(entry.licence)}"
    )


def convert(
    source: Path, target: Path, order: Order, canvases: Sequence[np.ndarray], keep: tuple[str, ...],
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    from .graph import precision

    if order.precision == "fp16":
        more = precision.to_half(source, target, canvases, keep)
        if more:
            tell(f"{more} steps stay in float32: their numbers come near what float16 holds, or pass it")
    else:
        assert order.images is not None
        precision.to_int8(source, target, photographed(order.images, CALIBRATED_ON), keep)


def look_at(images: Path | None) -> Sequence[np.ndarray]:
    return rendered(CHECKED_ON) if images is None else photographed(images, CHECKED_ON)


def versions(family: Family) -> str:
    """Packages that the file was made with."""
    names = ["torch", "onnx", *family.packages]
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(module: str) -> str:
    owners = importlib.metadata.packages_distributions().get(module, [module])
    return importlib.metadata.version(owners[0])


@functools.lru_cache(maxsize=1)
def taxonomy_version() -> str:
    from roadwork_cascade.taxonomy import load_taxonomy

    return str(load_taxonomy().version)
