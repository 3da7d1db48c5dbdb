"""Labelled photographs in a folder: with `images.csv`, or sorted into `roadwork/` and `no_roadwork/`."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from roadwork_bench.errors import BenchError

LABELS = ("no_roadwork", "roadwork")
NO_SCENE_LABEL = "detector_only"
"""Of rows that have boxes and no word on the scene."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


class DatasetError(BenchError):
    """The folder cannot be read as labelled photographs; the message says why."""


@dataclass(frozen=True)
class Photograph:
    """One labelled image. `group` is what must not be split between fitting and testing: a drive, a clip, a set."""

    file: str
    roadwork: bool
    group: str
    source: str
    publishable: bool
    """Published weights may have been trained on it, so only models of other folds may judge it."""


def read_dataset(folder: Path) -> list[Photograph]:
    """The images with a scene label, in a stable order; rows with other labels are left out."""
    table = folder / "images.csv"
    photographs = _from_csv(table) if table.is_file() else _from_folders(folder)
    if not photographs:
        raise DatasetError(f"{folder}: no labelled images (neither images.csv nor roadwork/ and no_roadwork/)")
    for photograph in photographs:
        if not (folder / photograph.file).is_file():
            raise DatasetError(f"{folder}: {photograph.file} is listed but not there")
    return photographs


def unlabelled(folder: Path) -> list[str]:
    """Images of the folder that bear no label, in order: not in `images.csv`, in it without a label that is known, or
    outside `roadwork/` and `no_roadwork/`. Rows that say `detector_only` are left out on purpose and do not count.
    """
    table = folder / "images.csv"
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES}
    if not table.is_file():
        return sorted(file for file in there if Path(file).parts[0] not in LABELS)
    with table.open(newline="", encoding="utf-8") as lines:
        told = {row["file"] for row in csv.DictReader(lines) if row.get("label") in (*LABELS, NO_SCENE_LABEL)}
    return sorted(there - told)


def _from_csv(table: Path) -> list[Photograph]:
    with table.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        missing = {"file", "label"} - set(reader.fieldnames or ())
        if missing:
            raise DatasetError(f"{table}: column {', '.join(sorted(missing))} is missing")
        return [
            Photograph(
                file=row["file"],
                roadwork=row["label"] == "roadwork",
                group=row.get("group") or group_of(row["file"]),
                source=row.get("source") or "unknown",
                publishable=row.get("weights_may_be_published") == "yes",
            )
            for row in reader
            if row["label"] in LABELS
        ]


def _from_folders(folder: Path) -> list[Photograph]:
    return [
        Photograph(
            file=path.relative_to(folder).as_posix(),
            roadwork=label == "roadwork",
            group=group_of(path.name),
            source="unknown",
            publishable=False,
        )
        for label in LABELS
        for path in sorted((folder / label).glob("**/*"))
        if path.suffix.lower() in SUFFIXES
    ]


def group_of(file: str) -> str:
    """The stem without its trailing digits: `mi3_boston_00015.jpg` belongs to `mi3_boston`."""
    stem = Path(file).stem
    return re.sub(r"[\s_\-.]*\d+$", "", stem) or stem
