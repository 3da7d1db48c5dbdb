"""From a network's labels to the taxonomy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from roadwork_cascade.taxonomy import load_taxonomy
from roadwork_export.classes import class_map, taxonomy_labels
from roadwork_export.errors import ExportError
from roadwork_export.family import Found

torch = pytest.importorskip("torch")

from roadwork_export.graph.boxes import BestBoxes, BestPairs  # noqa: E402

COCO = ("person", "car", "truck", "stop sign", "bench")


def table(folder: Path, text: str) -> Path:
    path = folder / "classes.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_taxonomys_own_labels_need_no_table() -> None:
    found = class_map(("Cone", "tree", "work vehicle", "TTC-sign"))
    assert dict(zip(found.ids, found.columns, strict=True)) == {0: (0,), 7: (3,), 10: (2,)}
    assert len(class_map(taxonomy_labels()).ids) == len(load_taxonomy())


def test_cocos_labels_go_by_the_shipped_table() -> None:
    found = class_map(COCO)
    names = load_taxonomy().names
    assert {names[i] for i in found.ids} == {"worker", "work_vehicle", "ttc_sign"}


def test_a_users_table_comes_first_and_may_join_labels(tmp_path: Path) -> None:
    found = class_map(COCO, table(tmp_path, "car: work_vehicle\ntruck: work_vehicle\n"))
    assert found.columns == ((1, 2),)
    assert found.ids == (10,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lorry: work_vehicle", "no label 'lorry'; it has 'person', 'car'"),
        ("truck: lorry", "no class 'lorry' in the taxonomy; it has cone, drum"),
        ("- truck", "must be a table of lines"),
        ("", "must be a table of lines"),
        ("a: [", "not YAML"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_what_would(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        class_map(COCO, table(tmp_path, text))


def test_unknown_labels_without_a_table_are_refused() -> None:
    with pytest.raises(ExportError, match=r"none of the network's labels .* give it with --classes"):
        class_map(("cat", "dog"))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"nowhere\.yaml: no such class table"):
        class_map(COCO, tmp_path / "nowhere.yaml")


def test_what_the_source_found_is_told_in_taxonomy_ids() -> None:
    found = class_map(COCO).apply(Found(np.zeros((3, 4)), np.array([0.9, 0.8, 0.7]), np.array([2, 4, 3])))
    assert found.labels.tolist() == [10, 7]
    assert found.scores.tolist() == [0.9, 0.7]


def test_pairs_take_the_best_label_of_each_class(tmp_path: Path) -> None:
    """Also with fewer pairs than the contract's hundred boxes."""
    classes = class_map(COCO, table(tmp_path, "car: work_vehicle\ntruck: work_vehicle\nperson: worker\n"))
    scores = torch.tensor([[[0.1, 0.3, 0.6, 0.9, 0.9], [0.7, 0.2, 0.1, 0.0, 0.0]]])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 700, 60]]])
    got, best, ids = BestPairs(classes)(boxes, scores)
    assert got.shape == (1, 100, 4)
    assert best[0, :4].tolist() == pytest.approx([0.7, 0.6, 0.2, 0.1])
    assert ids[0, :5].tolist() == [12, 10, 10, 12, -1]
    assert got[0, 0].tolist() == [20, 20, 640, 60]


def test_a_box_that_is_something_else_is_dropped(tmp_path: Path) -> None:
    """Its second best label is not what its network would call it."""
    classes = class_map(COCO, table(tmp_path, "truck: work_vehicle\n"))
    scores = torch.zeros(1, 400, 5)
    scores[0, 0] = torch.tensor([0.0, 0.9, 0.8, 0.0, 0.0])
    scores[0, 1:3, 2] = torch.tensor([0.7, 0.6])
    boxes = torch.zeros(1, 400, 4)
    boxes[0, :3] = torch.tensor([[0.0, 0, 50, 50], [100, 100, 200, 200], [102, 100, 202, 200]])
    _, best, ids = BestBoxes(classes, 5)(boxes, scores)
    assert best[0, :2].tolist() == pytest.approx([0.7, 0.0])
    assert ids[0, :2].tolist() == [10, -1]
