from __future__ import annotations

from pathlib import Path

import pytest
from roadwork_export.errors import ExportError
from roadwork_export.sides import PROMPTS, positive_labels, read_sides


@pytest.mark.parametrize(
    ("labels", "position"),
    [
        (["None", "Roadwork"], 1),
        (["road_work", "no_road_work"], 0),
        (["not-roadwork", "roadworks"], 1),
        (["clear", "Under Construction"], 1),
        (["work zone", "without work zone"], 0),
    ],
)
def test_the_label_that_says_roadwork_is_found(labels: list[str], position: int) -> None:
    assert positive_labels(labels, None) == [position]


@pytest.mark.parametrize("labels", [["LABEL_0", "LABEL_1"], ["roadwork", "construction site"], ["no roadwork", "none"]])
def test_where_none_or_several_say_it_a_table_is_asked_for(labels: list[str]) -> None:
    with pytest.raises(ExportError, match="--classes"):
        positive_labels(labels, None)
    sides = {"positive": [labels[0]], "negative": [labels[1]]}
    assert positive_labels(labels, sides) == [0]


def test_a_table_with_an_unknown_label_is_refused() -> None:
    with pytest.raises(ExportError, match="no label 'cone'; it has 'a', 'b'"):
        positive_labels(["a", "b"], {"positive": ["cone"], "negative": ["b"]})


def test_the_prompts_that_come_along_can_be_read() -> None:
    sides = read_sides(PROMPTS)
    assert len(sides["positive"]) >= 3
    assert len(sides["negative"]) >= 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("positive: [a]\n", "keys `positive` and `negative`"),
        ("positive: [a]\nnegative: []\n", "negative must be a list"),
        ("positive: [1]\nnegative: [b]\n", "positive must be a list"),
        ("positive: [a]\nnegative: [a]\n", "'a' is on both sides"),
        ("positive: [a\n", "not YAML"),
    ],
)
def test_a_wrong_table_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ExportError, match=told):
        read_sides(tmp_path / "t.yaml")
    with pytest.raises(ExportError, match="no such file"):
        read_sides(tmp_path / "u.yaml")
