"""By what a report is cut into parts: camera, drive, light, or size of the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roadwork_bench.errors import BenchError
from roadwork_bench.table import Row

KINDS = ("source", "group", "light", "size")
DARK_BELOW = 60.0
"""Mean luma (0 to 255) under which an image counts as night or dusk. Streets by day have about 85 to 135; a drive at
dusk has 45 to 65. What is measured is the picture, not the hour: a lit street at night may pass for day."""
LARGEST = (320, 512, 1024)
"""Upper ends of the size classes, pixels of the longer side."""


def mean_luma(rgb: NDArray[np.uint8]) -> float:
    """Mean of 0.299 R + 0.587 G + 0.114 B of an RGB image [height, width, 3], 0 to 255."""
    return float(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).mean())


def light_name(luma: float) -> str:
    """`dark` or `day`, by the mean luma."""
    return f"dark (mean luma under {DARK_BELOW:g})" if luma < DARK_BELOW else "day"


def size_name(width: int, height: int) -> str:
    """Class of the longer side in pixels."""
    longer, least = max(width, height), 1
    for most in LARGEST:
        if longer <= most:
            return f"{least} to {most} px"
        least = most + 1
    return f"over {LARGEST[-1]} px"


def row_names(kind: str, rows: list[Row], images: Path | None = None) -> NDArray[np.str_]:
    """The part that each row belongs to. `images`: the folder of the photographs, for light where the table lacks it.

    Raises BenchError where the table does not tell and no folder was given.
    """
    if kind in ("source", "group"):
        return np.array([getattr(row, kind) for row in rows], dtype=np.str_)
    if kind == "size":
        lacking = next((row.file for row in rows if len(row.size) != 2), None)
        if lacking is not None:
            raise BenchError(f"--by size: the table has no size of {lacking}; record it again")
        return np.array([size_name(row.size[0], row.size[1]) for row in rows], dtype=np.str_)
    return np.array([light_name(_luma(row, images)) for row in rows], dtype=np.str_)


def folder_rows(folder: Path, files: Sequence[str], groups: NDArray, sources: NDArray) -> list[Row]:
    """Rows with what `row_names` asks for, of a folder that was judged without a table."""
    rows = []
    for file, group, source in zip(files, groups, sources, strict=True):
        with Image.open(folder / file) as opened:
            size = list(opened.size)
        rows.append(Row(file, False, str(group), str(source), size=size))
    return rows


def _luma(row: Row, images: Path | None) -> float:
    if row.luma is not None:
        return row.luma
    if images is None:
        raise BenchError(f"--by light: the table has no luma of {row.file}; give --images FOLDER, or record it again")
    picture = cv2.imread(str(images / row.file), cv2.IMREAD_COLOR)
    if picture is None:
        raise BenchError(f"--by light: {images / row.file} cannot be read as an image")
    return mean_luma(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8))
