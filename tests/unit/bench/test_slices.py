from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from roadwork_bench.errors import BenchError
from roadwork_bench.slices import DARK_BELOW, folder_rows, mean_luma, row_names, size_name
from roadwork_bench.table import Row


def row(file: str, luma: float | None = None, size: tuple[int, int] = (600, 400)) -> Row:
    return Row(file, True, "drive", "camera", size=list(size), luma=luma)


def test_luma_weighs_the_colours_as_the_eye_does() -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[...] = [255, 0, 0]
    assert mean_luma(picture) == pytest.approx(0.299 * 255, abs=1)
    picture[:2] = [255, 255, 255]
    assert mean_luma(picture) == pytest.approx((0.299 * 255 + 255) / 2, abs=1)


def test_light_is_cut_at_the_stated_luma() -> None:
    names = row_names("light", [row("a", DARK_BELOW - 0.1), row("b", DARK_BELOW)])
    assert list(names) == ["dark (mean luma under 60)", "day"]


def test_sizes_are_classes_of_the_longer_side() -> None:
    assert [size_name(*size) for size in ((224, 224), (100, 321), (600, 337), (1024, 1), (1920, 1080))] == [
        "1 to 320 px",
        "321 to 512 px",
        "513 to 1024 px",
        "513 to 1024 px",
        "over 1024 px",
    ]
    assert list(row_names("source", [row("a")])) == ["camera"]
    assert list(row_names("group", [row("a")])) == ["drive"]


def test_an_older_table_takes_light_from_the_pictures(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "night.png"), np.full((8, 8, 3), 20, np.uint8))
    cv2.imwrite(str(tmp_path / "day.png"), np.full((8, 16, 3), 120, np.uint8))
    rows = folder_rows(tmp_path, ["night.png", "day.png"], np.array(["g", "g"]), np.array(["s", "s"]))
    assert rows[1].size == [16, 8]
    assert list(row_names("light", rows, tmp_path)) == ["dark (mean luma under 60)", "day"]


def test_what_nobody_knows_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no luma of a\.jpg; give --images"):
        row_names("light", [row("a.jpg")])
    with pytest.raises(BenchError, match=r"a\.jpg cannot be read"):
        row_names("light", [row("a.jpg")], tmp_path)
    with pytest.raises(BenchError, match="no size of b"):
        row_names("size", [row("b", size=())])  # type: ignore[arg-type]
