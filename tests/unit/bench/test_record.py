from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from roadwork_bench import record as recording
from roadwork_bench.dataset import DatasetError, group_of, read_dataset
from roadwork_bench.folds import FoldsError, read_folds
from roadwork_bench.inprocess import InProcessEngine
from roadwork_bench.record import record
from roadwork_bench.table import Table, TableError, load_table


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every model that is run, in order."""
    names: list[str] = []
    original = InProcessEngine.run

    def run(self: InProcessEngine, model: str, inputs: dict) -> dict:
        names.append(model)
        return original(self, model, inputs)

    monkeypatch.setattr(InProcessEngine, "run", run)
    return names


def test_groups_are_stems_without_their_number() -> None:
    assert group_of("roadwork/mi3_boston_00015.jpg") == "mi3_boston"
    assert group_of("drive-7 003.png") == "drive-7"
    assert group_of("0001.jpg") == "0001"


def test_csv_names_labels_groups_and_sources(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    (tmp_path / "images.csv").write_text(
        "file,label,group,source,weights_may_be_published\na.jpg,roadwork,g,s,yes\nb.jpg,detector_only,g,s,no\n"
    )
    (one,) = read_dataset(tmp_path)
    assert (one.roadwork, one.group, one.source, one.publishable) == (True, "g", "s", True)


def test_folders_that_hold_nothing_or_lack_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no labelled images"):
        read_dataset(tmp_path)
    (tmp_path / "images.csv").write_text("file,label\na.jpg,roadwork\n")
    with pytest.raises(DatasetError, match=r"a\.jpg is listed but not there"):
        read_dataset(tmp_path)


def test_every_member_scores_every_image(photographs: Path, repository: Path, tmp_path: Path) -> None:
    table = Table()
    record(photographs, table, repository, out=tmp_path / "table.json")
    again = load_table(tmp_path / "table.json")
    assert again.kinds == {"eye": "boxes", "scene": "scene"}
    sample = again.sample()
    assert len(sample) == 24
    assert len(set(sample.groups)) == 6
    assert sample.of("scene")[sample.labels == 1].min() > sample.of("scene")[sample.labels == 0].max()
    row = again.rows[0]
    presence = row.scores["scene"]
    assert row.size == [80, 60]
    assert row.scores["eye"] == pytest.approx(0.9 * presence, abs=1e-5)  # evidence of a sign is 0.9
    label, score, *box = row.boxes["eye"][0]
    assert (label, score) == (7, pytest.approx(presence, abs=1e-5))
    assert box == pytest.approx([12.5, 15.0, 37.5, 40.0])  # scale 8, 80 pixels of letterbox above
    assert set(row.ms) == {"decode", "scene", "eye"}


def test_a_distance_model_has_nothing_to_record(photographs: Path, repository: Path, asked: list[str]) -> None:
    (repository / "depth" / "1").mkdir(parents=True)
    signature = (repository / "scene" / "config.pbtxt").read_text()
    signature = signature.replace('"scene"', '"depth"').replace("presence", "nearness").replace("[ 1 ]", "[ 80, 80 ]")
    (repository / "depth" / "config.pbtxt").write_text(signature)
    with InProcessEngine(repository) as engine:
        assert "depth" not in engine.members()  # nobody has brought its weights
    (repository / "depth" / "1" / "model.onnx").touch()
    with InProcessEngine(repository) as engine:
        assert engine.members()["depth"] == "distance"
    table = Table()
    record(photographs, table, repository)
    assert set(table.kinds) == {"scene", "eye"}
    assert "depth" not in asked


def test_a_table_continues_where_it_was_left(
    photographs: Path, repository: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "table.json"
    original, seen = recording._score, []

    def break_off(*arguments: object) -> None:
        seen.append(1)
        if len(seen) > 10:
            raise KeyboardInterrupt
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(recording, "_score", break_off)
    with pytest.raises(KeyboardInterrupt):
        record(photographs, Table(), repository, out=out)
    monkeypatch.setattr(recording, "_score", original)
    table = load_table(out)
    assert len(table.usable) == 10
    asked.clear()
    record(photographs, table, repository, out=out)
    assert asked.count("scene") == 14
    asked.clear()
    record(photographs, load_table(out), repository, out=out)
    assert asked == []


def test_a_left_out_member_can_follow_later(photographs: Path, repository: Path, asked: list[str]) -> None:
    table = Table()
    record(photographs, table, repository, without=["eye"])
    assert table.sample().members == ("scene",)
    asked.clear()
    record(photographs, table, repository)
    assert asked.count("eye") == 24
    assert asked.count("scene") == 0
    assert set(table.sample().members) == {"scene", "eye"}


def test_a_changed_model_scores_again(
    photographs: Path, repository: Path, asked: list[str], save_scene: Callable[..., None], tmp_path: Path
) -> None:
    table = Table()
    record(photographs, table, repository)
    before = table.sample().of("scene")
    other = tmp_path / "other"
    repository.rename(other)  # digests are kept by path
    save_scene(other / "scene" / "1" / "model.onnx", scale=0.5)
    asked.clear()
    record(photographs, table, other)
    assert asked.count("scene") == 24
    assert asked.count("eye") == 0
    assert table.sample().of("scene") == pytest.approx(before / 2, abs=1e-5)


def test_images_are_scored_by_models_that_held_their_group_out(
    photographs: Path, repository: Path, save_scene: Callable[..., None], tmp_path: Path
) -> None:
    folds = tmp_path / "folds"
    save_scene(folds / "0" / "scene" / "model.onnx", scale=0.5)
    save_scene(folds / "1" / "scene" / "model.onnx", scale=0.25)
    listed = {"0": ["roadwork_a", "no_roadwork_a"], "1": ["roadwork_b"]}
    (folds / "folds.json").write_text(json.dumps(listed))
    plain, folded = Table(), Table()
    record(photographs, plain, repository)
    record(photographs, folded, repository, folds=read_folds(folds))
    factor = {None: 1.0, "0": 0.5, "1": 0.25}
    for one, other in zip(plain.rows, folded.rows, strict=True):
        assert other.fold == {"roadwork_a": "0", "no_roadwork_a": "0", "roadwork_b": "1"}.get(other.group)
        assert other.scores["scene"] == pytest.approx(one.scores["scene"] * factor[other.fold], abs=1e-5)
        assert other.scores["eye"] == one.scores["eye"]


def test_training_images_scored_without_a_fold_are_counted(make_table: Callable[..., Table]) -> None:
    table = make_table(2, 3)
    for row in table.rows[:4]:
        row.publishable = True
    table.rows[0].fold = "1"
    assert table.seen_in_training() == 3


def test_folds_that_overlap_or_hold_no_model_are_refused(tmp_path: Path, save_scene: Callable[..., None]) -> None:
    with pytest.raises(FoldsError, match=r"folds\.json"):
        read_folds(tmp_path)
    (tmp_path / "folds.json").write_text('{"0": ["a"]}')
    with pytest.raises(FoldsError, match=r"no <member>/model\.onnx"):
        read_folds(tmp_path)
    (tmp_path / "folds.json").write_text('{"0": ["a"], "1": ["a"]}')
    with pytest.raises(FoldsError, match="held out by folds 0 and 1"):
        read_folds(tmp_path)


def test_an_image_that_cannot_be_used_is_said_and_left_out(photographs: Path, repository: Path) -> None:
    (photographs / "roadwork" / "broken_001.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    table = Table()
    record(photographs, table, repository)
    (row,) = (row for row in table.rows if row.error)
    assert row.file == "roadwork/broken_001.jpg"
    assert len(table.usable) == 24


def test_tables_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    for text in ("", "[]", '{"schema": 99}', '{"schema": 1, "about": {}}'):
        path.write_text(text)
        with pytest.raises(TableError):
            load_table(path)


def test_a_table_without_scores_has_no_sample() -> None:
    with pytest.raises(TableError, match="no scored image"):
        Table().sample()


def test_missing_scores_are_nan(make_table: Callable[..., Table]) -> None:
    table = make_table(2, 2)
    del table.rows[1].scores["eye"]
    sample = table.sample()
    assert np.isnan(sample.of("eye")).tolist() == [False, True, False, False]
    assert np.isnan(sample.of("stranger")).all()
