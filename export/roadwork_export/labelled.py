"""Images with a label each: a folder with the sub-folders `roadwork` and `none`, or a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .canvas import IMAGES, read_canvas
from .errors import ExportError

LABELS = {"roadwork": 1, "1": 1, "none": 0, "0": 0}
COLUMNS = "file,label,group (group may be left out; label is roadwork or none; file counts from the CSV's folder)"


@dataclass(frozen=True)
class Labelled:
    """Attributes:
    paths: of the images.
    labels: int [N], 1 is roadwork.
    groups: int [N]; images of a group (a drive, a place) are never on both sides of a split. None: each for itself.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    groups: np.ndarray | None

    def canvases(self, size: int) -> Iterator[np.ndarray]:
        """Batches of up to `size`, uint8 [B, 640, 640, 3] RGB, upright.

        Raises:
            ExportError: one cannot be read.
        """
        for start in range(0, len(self.paths), size):
            yield np.stack([read_canvas(path) for path in self.paths[start : start + size]])


def read_labelled(where: Path) -> Labelled:
    """Raises ExportError where nothing is labelled there, or one label has no images."""
    if where.is_dir():
        rows = list(_of_folder(where))
    elif where.is_file():
        rows = list(_of_csv(where))
    else:
        raise ExportError(f"{where}: no such folder or CSV file")
    labels = np.array([label for _, label, _ in rows], int)
    for name, label in (("roadwork", 1), ("none", 0)):
        if not (labels == label).any():
            raise ExportError(f"{where}: no image is labelled {name}; a head needs both")
    names = [group for _, _, group in rows]
    if not any(names):
        return Labelled(tuple(path for path, _, _ in rows), labels, None)
    if not all(names):
        raise ExportError(f"{where}: some images have a group and some have none, first {rows[names.index('')][0]}")
    _, groups = np.unique(names, return_inverse=True)
    return Labelled(tuple(path for path, _, _ in rows), labels, groups)


def _of_folder(folder: Path) -> Iterator[tuple[Path, int, str]]:
    """A folder below `roadwork` or `none` names a group; one of the same name below the other is the same group."""
    if not any((folder / name).is_dir() for name in ("roadwork", "none")):
        raise ExportError(f"{folder}: has no sub-folders roadwork and none; a CSV file may say it instead: {COLUMNS}")
    for name in ("roadwork", "none"):
        for path in sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMAGES):
            parts = path.relative_to(folder / name).parts
            yield path, LABELS[name], parts[0] if len(parts) > 1 else ""


def _of_csv(file: Path) -> Iterator[tuple[Path, int, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            if not {"file", "label"} <= set(table.fieldnames or ()):
                raise ExportError(f"{file}: must be a CSV file with the columns {COLUMNS}")
            for number, row in enumerate(table, 2):
                label = LABELS.get((row["label"] or "").strip().lower())
                if label is None:
                    raise ExportError(f"{file}, line {number}: label is {row['label']!r}, must be roadwork or none")
                path = file.parent / (row["file"] or "")
                if not path.is_file():
                    raise ExportError(f"{file}, line {number}: {path} is not there")
                yield path, label, (row.get("group") or "").strip()
    except (UnicodeDecodeError, csv.Error) as error:
        raise ExportError(f"{file}: not a CSV file: {error}") from None
