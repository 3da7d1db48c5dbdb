from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from roadwork_bench.cli import main
from roadwork_bench.corruptions import CLEAN, VALIDATORS
from roadwork_bench.dataset import Photograph
from roadwork_bench.errors import BenchError
from roadwork_bench.robustness import balanced
from roadwork_bench.robustness_judging import assess
from roadwork_bench.robustness_report import summary
from roadwork_bench.settings import Settings
from roadwork_bench.table import Table, load_table
from roadwork_cascade.policy import Policy, write_policy

TWO = Settings(folds=2)


def photograph(group: str, number: int, roadwork: bool) -> Photograph:
    return Photograph(f"{group}_{number:03d}_{roadwork}.jpg", roadwork, group, "camera", False)


def test_a_limit_is_even_over_classes_and_groups_and_far_apart_in_a_group() -> None:
    drives = {"a": 40, "b": 3, "c": 20}
    everything = [photograph(name, k, True) for name, count in drives.items() for k in range(count)]
    everything += [photograph("d", k, False) for k in range(30)]
    chosen = balanced(everything, 24)
    assert Counter(p.roadwork for p in chosen) == {True: 12, False: 12}
    assert Counter(p.group for p in chosen if p.roadwork) == {"a": 5, "b": 3, "c": 4}
    numbers = [int(p.file.split("_")[1]) for p in chosen if p.group == "a"]
    assert (numbers[0], numbers[-1]) == (0, 39)
    assert min(np.diff(numbers)) >= 9
    assert chosen == balanced(everything, 24)
    assert balanced(everything, None) == balanced(everything, 500) == everything
    assert Counter(p.roadwork for p in balanced(everything, 80)) == {True: 50, False: 30}
    with pytest.raises(BenchError, match="--limit is at least 2"):
        balanced(everything, 1)


def worse(table: Table, share: float, seed: int = 0) -> Table:
    """The same table with the scores of some images turned round."""
    found, rng = deepcopy(table), np.random.default_rng(seed)
    for row in found.rows:
        if rng.random() < share:
            row.scores = {name: 1 - score for name, score in row.scores.items()}
    return found


def test_each_change_is_judged_by_the_policy_of_other_groups_against_the_clean_images(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    clean = make_table(16, 8)
    tables = {CLEAN: deepcopy(clean), "blur_1": deepcopy(clean), "blur_4": worse(clean, 0.4)}
    report = assess(tables, make_policy(), clean, TWO)
    parts = report["corruptions"]
    assert "other groups, 2 folds" in report["method"]
    assert parts["blur_1"]["mcc"] == parts[CLEAN]["mcc"]
    assert parts["blur_1"]["against_clean"]["mcnemar_p"] == 1
    lost = parts["blur_4"]["against_clean"]
    assert parts["blur_4"]["mcc"] < parts[CLEAN]["mcc"] - 0.3
    assert lost["only_first_right"] > lost["only_second_right"]
    assert lost["mcnemar_p"] <= lost["mcnemar_p_holm"] < 0.01
    assert parts["blur_4"]["recall"] < parts[CLEAN]["recall"]
    text = summary(json.loads(json.dumps(report)))
    assert "sigma 4 px" in text
    assert "128 images, 16 drives" in text


def test_the_validators_pay_for_a_quarter_of_each_of_their_strengths(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    clean = make_table(8, 4, information=6)
    tables = {name: deepcopy(clean) for name in (CLEAN, *VALIDATORS)}
    whole = assess(tables, make_policy())["reward"]
    assert whole["mean"] == 1
    tables[VALIDATORS[-1]] = worse(clean, 1.0)
    quarter_lost = assess(tables, make_policy())["reward"]
    assert quarter_lost["mean"] < 0.6
    assert "with other drives" in summary(assess(tables, make_policy()))
    del tables[VALIDATORS[0]]
    assert assess(tables, make_policy())["reward"] is None


def test_an_image_that_one_change_makes_unusable_is_left_out_of_all(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    clean = make_table(8, 4)
    broken = deepcopy(clean)
    broken.rows[3].error = "too small"
    report = assess({CLEAN: clean, "jpeg_15": broken}, make_policy())
    assert report["method"] == "policy as it is"
    assert report["refused"] == [clean.rows[3].file]
    assert {part["images"] for part in report["corruptions"].values()} == {31}


def test_scores_of_other_models_are_refused(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    clean = make_table(8, 4)
    other = deepcopy(clean)
    other.rows[0].models["eye"] = "another"
    with pytest.raises(BenchError, match=r"eye scored drive00_000\.jpg with another file"):
        assess({CLEAN: other}, make_policy(), clean, TWO)
    del clean.rows[0]
    with pytest.raises(BenchError, match=r"no scores of drive00_000\.jpg"):
        assess({CLEAN: other}, make_policy(), clean, TWO)


def test_one_class_still_has_its_figures(make_policy: Callable[..., Policy], make_table: Callable[..., Table]) -> None:
    table = make_table(4, 4)
    table.rows = [row for row in table.rows if row.roadwork]
    report = assess({CLEAN: table, "dim": worse(table, 0.5)}, make_policy())
    dim = report["corruptions"]["dim"]
    assert (dim["mcc"], dim["false_alarm_rate"]) == (None, None)
    assert dim["recall"] < report["corruptions"][CLEAN]["recall"]
    assert "none" in summary(report)


def test_the_command_goes_on_where_it_was_left(
    photographs: Path, repository: Path, small_policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_policy(small_policy, tmp_path / "policy.yaml")
    scores = tmp_path / "scores"
    command = ["robustness", str(photographs), "--policy", str(tmp_path / "policy.yaml"), "--scores", str(scores)]
    command += ["--model-repository", str(repository), "--only", "night"]
    out, picture = tmp_path / "report.json", tmp_path / "report.png"
    assert main([*command, "--out", str(out), "--plot", str(picture)]) == 0
    parts = json.loads(out.read_text())["corruptions"]
    assert parts[CLEAN]["mcc"] == 1
    assert parts["night"]["recall"] < 0.5  # what the stand-ins measure is light
    with Image.open(picture) as opened:
        assert opened.width > 500
    before = load_table(scores / "night.json")
    assert before.rows[0].luma is not None
    assert before.rows[0].luma < 60

    assert main([*command, "--limit", "6", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["corruptions"]["night"]["images"] == 6
    assert len(load_table(scores / "night.json").usable) == 24  # a smaller run throws nothing away

    (scores / "night.json").write_text((scores / "clean.json").read_text())
    capsys.readouterr()
    assert main(command) == 2
    assert "holds scores of another change (clean); remove it" in capsys.readouterr().err
    assert main([*command, "--only", "fog"]) == 2
    assert "--only fog is no change; known are jpeg_75" in capsys.readouterr().err


def test_rendered_works_under_change_with_the_committed_networks(tmp_path: Path) -> None:
    """Not a measure: six scenes only show that networks, changes and policy belong together."""
    scenes = pytest.importorskip("roadwork_export.scenes")
    for number in range(6):
        works = number % 2 == 0
        scene = scenes.render_scene(78_100_000 + number, roadwork=works, width=640, height=360)
        folder = tmp_path / "images" / ("roadwork" if works else "no_roadwork")
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"scene{number}_0.jpg"), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
    out = tmp_path / "report.json"
    command = ["robustness", str(tmp_path / "images"), "--without", "sign_text", "--scores", str(tmp_path / "scores")]
    assert main([*command, "--only", "night", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert set(report["members"]) == {"scene", "yolox_nano", "centernet_nano"}
    parts = report["corruptions"]
    assert parts[CLEAN]["auroc"] >= 0.8
    assert parts["night"]["images"] == 6
    tables = [load_table(tmp_path / "scores" / f"{name}.json") for name in (CLEAN, "night")]
    for row, dark in zip(*(table.rows for table in tables), strict=True):
        assert row.file == dark.file
        assert row.models == dark.models
        assert all(row.scores[name] != dark.scores[name] for name in ("scene", "yolox_nano", "centernet_nano"))
        assert dark.luma is not None
        assert row.luma is not None
        assert dark.luma < 0.5 * row.luma
