"""Models trained without some groups, so that those groups can be scored honestly.

`FOLDS/folds.json` is `{"<k>": [groups that fold k held out]}`; `FOLDS/<k>/<member>/model.onnx` the models of fold k.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from roadwork_bench.errors import BenchError


class FoldsError(BenchError):
    """The folder holds no fold models; the message says why."""


@dataclass(frozen=True)
class Folds:
    """`of` maps a group to the fold that held it out."""

    folder: Path
    of: dict[str, str]

    def files(self, fold: str) -> dict[str, Path]:
        """ONNX file by member. Members without one in the fold were not trained on these groups at all."""
        return {path.parent.name: path for path in sorted((self.folder / fold).glob("*/model.onnx"))}


def read_folds(folder: Path) -> Folds:
    """Raises FoldsError for a folder without folds, a group in two of them, or a fold without models."""
    try:
        listed: dict[str, list[str]] = json.loads((folder / "folds.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FoldsError(f"{folder / 'folds.json'}: {error}") from None
    of: dict[str, str] = {}
    for fold, groups in listed.items():
        for group in groups:
            if group in of:
                raise FoldsError(f"{folder}: group {group!r} is held out by folds {of[group]} and {fold}")
            of[group] = str(fold)
    folds = Folds(folder, of)
    for fold in listed:
        if not folds.files(str(fold)):
            raise FoldsError(f"{folder / str(fold)}: no <member>/model.onnx")
    return folds
