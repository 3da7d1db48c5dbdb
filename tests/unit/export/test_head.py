"""Fitting a presence head: what is read, how it is judged, what the file holds."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("sklearn")

from roadwork_export import making
from roadwork_export.commands import head as command
from roadwork_export.errors import ExportError, WeightsError
from roadwork_export.family import Weights
from roadwork_export.head import Head, read_head, same_backbone, write_head
from roadwork_export.head_fit import auroc, fit, pipeline
from roadwork_export.labelled import read_labelled
from roadwork_export.scenes import render_scene

LAYERS = 2


def drives(count: int, each: int, seed: int, *, own: float, shared: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and groups of `count` drives of `each` images: noise, `own` to each drive, `shared` by label."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), each)
    labels = groups % 2
    features = rng.standard_normal((count * each, 64))
    features += own * rng.standard_normal((count, 64))[groups] + shared * labels[:, None]
    return features, labels, groups


def test_what_the_classes_share_is_found_on_drives_that_were_held_out() -> None:
    features, labels, groups = drives(10, 8, 0, own=0.3, shared=1.0)
    found = fit(features, labels, groups)
    assert found.mcc > 0.9
    assert 0.9 < found.auroc_95[0] <= found.auroc <= found.auroc_95[1] <= 1.0
    assert found.folds == 5


def test_what_only_a_drive_has_is_no_success_where_drives_are_held_out() -> None:
    features, labels, groups = drives(12, 8, 1, own=3.0, shared=0.0)
    assert fit(features, labels, None).mcc > 0.9
    grouped = fit(features, labels, groups)
    assert abs(grouped.mcc) < 0.5
    assert grouped.auroc_95[0] < 0.5


def test_the_head_says_what_the_regression_says_with_its_standardisation() -> None:
    features, labels, groups = drives(10, 8, 2, own=0.5, shared=0.3)
    features = features * np.linspace(0.1, 40, 64) + np.linspace(-9, 9, 64)
    found = fit(features, labels, groups)
    head = Head(found.weight.astype(np.float32), found.bias, "cls", "m", np.zeros(64, np.float32), {})
    expected = pipeline(found.strength).fit(features, labels).predict_proba(features)[:, 1]
    np.testing.assert_allclose(head.presence(features), expected, atol=1e-4)


def test_a_weighted_auroc_is_that_of_repeated_images() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    labels, said, times = rng.integers(0, 2, 50), rng.integers(0, 9, 50) / 9, rng.integers(0, 4, 50)
    expected = roc_auc_score(np.repeat(labels, times), np.repeat(said, times))
    assert auroc(labels, said, times) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "groups", "told"),
    [([1, 0, 0, 0], None, "at least two images"), ([1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 2, 3], "at least two groups")],
)
def test_too_little_to_hold_any_out_is_said(labels: list[int], groups: list[int] | None, told: str) -> None:
    features = np.random.default_rng(0).standard_normal((len(labels), 4))
    with pytest.raises(ExportError, match=told):
        fit(features, np.array(labels), None if groups is None else np.array(groups))


def test_a_head_comes_back_from_its_file_and_knows_its_backbone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = Head(
        rng.random(8, np.float32),
        -0.25,
        "cls",
        "dinov2_small",
        rng.random(16, np.float32),
        {"weights": "a", "mcc": 1.0},
    )
    path = tmp_path / "new" / "h.safetensors"
    write_head(path, head)
    assert [p.name for p in path.parent.iterdir()] == ["h.safetensors"]
    again = read_head(path)
    np.testing.assert_array_equal(again.weight, head.weight)
    assert (again.bias, again.feature, again.model, again.facts) == (-0.25, "cls", "dinov2_small", head.facts)
    same_backbone(again, path, "dinov2_small", head.probe * 1.0001)
    with pytest.raises(WeightsError, match="other weights"):
        same_backbone(again, path, "dinov2_small", head.probe[::-1].copy())
    with pytest.raises(WeightsError, match="16 numbers, dinov2_small gives 4"):
        same_backbone(again, path, "dinov2_small", head.probe[:4])
    with pytest.raises(WeightsError, match="a head for dinov2_small, not for dinov2_base"):
        same_backbone(again, path, "dinov2_base", head.probe)


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(WeightsError, match="no such head"):
        read_head(tmp_path / "h.safetensors")
    (tmp_path / "h.safetensors").write_bytes(b"not a head at all")
    with pytest.raises(WeightsError, match="not a head"):
        read_head(tmp_path / "h.safetensors")
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="not a head"):
        read_head(tmp_path / "other.safetensors")


def draw(path: Path, seed: int, orange: bool) -> None:
    """A drawn street; the lower half of an `orange` one is tinted, which any features can tell."""
    image = render_scene(seed, roadwork=False, width=320, height=200).image.copy()
    if orange:
        image[100:] = (0.3 * image[100:] + 0.7 * np.array([255, 120, 0])).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images in six drives a label."""
    folder = tmp_path_factory.mktemp("streets")
    for i in range(24):
        name = ("none", "roadwork")[i % 2]
        draw(folder / name / f"{name}-drive{i // 2 % 6}" / f"{i}.jpg", i, i % 2 == 1)
    return folder


def test_folders_are_labels_and_folders_in_them_groups(streets: Path) -> None:
    found = read_labelled(streets)
    assert (len(found.paths), int(found.labels.sum())) == (24, 12)
    assert found.groups is not None
    assert len(np.unique(found.groups)) == 12
    for path, label in zip(found.paths, found.labels, strict=True):
        assert (path.parent.parent.name == "roadwork") == bool(label)


def test_a_table_says_the_same(streets: Path, tmp_path: Path) -> None:
    rows = [f"{p},{p.parent.parent.name},{p.parent.name}" for p in sorted(streets.rglob("*.jpg"))]
    table = tmp_path / "images.csv"
    table.write_text("\n".join(["file,label,group", *rows]) + "\n")
    by_folder, by_table = read_labelled(streets), read_labelled(table)
    order = [by_table.paths.index(path) for path in by_folder.paths]
    np.testing.assert_array_equal(by_table.labels[order], by_folder.labels)
    assert by_table.groups is not None
    assert len(np.unique(by_table.groups)) == 12


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,label\na.jpg,none\n", "columns file,label,group"),
        ("file,label\na.jpg,maybe\n", "line 2: label is 'maybe'"),
        ("file,label\nb.jpg,none\n", "line 2: .*b.jpg is not there"),
        ("file,label\na.jpg,none\n", "no image is labelled roadwork"),
        ("file,label,group\na.jpg,none,x\na.jpg,roadwork,\n", "some have none"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg", 0, False)
    (tmp_path / "images.csv").write_text(text)
    with pytest.raises(ExportError, match=told):
        read_labelled(tmp_path / "images.csv")


def test_a_folder_without_labels_or_with_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such folder"):
        read_labelled(tmp_path / "nowhere")
    draw(tmp_path / "a.jpg", 0, False)
    with pytest.raises(ExportError, match="no sub-folders roadwork and none"):
        read_labelled(tmp_path)
    draw(tmp_path / "roadwork" / "a.jpg", 0, False)
    with pytest.raises(ExportError, match="no image is labelled none"):
        read_labelled(tmp_path)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "none" / "a.jpg", 0, False)
    (tmp_path / "roadwork").mkdir()
    (tmp_path / "roadwork" / "b.jpg").write_bytes(b"no image")
    with pytest.raises(ExportError, match=r"b\.jpg: not an image"):
        list(read_labelled(tmp_path).canvases(8))


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones of two layers."""
    find = making.find

    def reduced(name: str) -> Any:
        entry, family = find(name)
        return dataclasses.replace(entry, arguments={**entry.arguments, "layers": LAYERS}), family

    monkeypatch.setattr(making, "find", reduced)
    monkeypatch.setattr(command, "find", reduced)


def fit_head(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["fit-head", *words])
    return int(arguments.run(arguments))


@pytest.mark.timeout(300)
def test_a_folder_becomes_a_head_and_the_head_a_checked_folder(
    streets: Path, tmp_path: Path, shallow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "head.safetensors"
    words = ["--model", "dinov2_small", "--random-weights", "--seed", "7", "--out", str(out)]
    assert fit_head(str(streets), *words) == 0
    told = capsys.readouterr().out
    assert f"roadwork-export onnx dinov2_small --random-weights --seed 7 --head {out}" in told
    facts = read_head(out).facts
    assert facts["mcc"] > 0.8
    assert (facts["images"], facts["roadwork"], facts["groups"]) == (24, 12, 12)

    order = making.Order("dinov2_small", tmp_path, Weights(seed=7), head=out)
    made = making.make(order, lambda line: None)
    assert made.passed, str(made)
    file = tmp_path / "dinov2_small" / "1" / "model.onnx"
    assert making.check(file, None, lambda line: None).passed
    scores = presences(file, read_labelled(streets).paths)
    assert np.mean((scores > 0.5) == read_labelled(streets).labels) > 0.9

    with pytest.raises(WeightsError, match="other weights"):
        making.make(dataclasses.replace(order, weights=Weights(seed=8)), lambda line: None)

    # A file whose head has changed since is found out.
    head = read_head(out)
    write_head(out, dataclasses.replace(head, weight=-head.weight, bias=-head.bias))
    assert not making.check(file, None, lambda line: None).passed


def presences(file: Path, paths: tuple[Path, ...]) -> np.ndarray:
    from roadwork_export.check import Session
    from roadwork_export.labelled import read_canvas

    session = Session(file, "scene")
    return np.array([session(read_canvas(path)[None])[0][0, 0] for path in paths])


def test_only_backbones_take_a_head(streets: Path, tmp_path: Path, shallow: None) -> None:
    with pytest.raises(ExportError, match="vit_base is not a backbone"):
        fit_head(str(streets), "--model", "vit_base", "--random-weights", "--out", str(tmp_path / "h.safetensors"))
    assert not (tmp_path / "h.safetensors").exists()
