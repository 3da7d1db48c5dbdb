from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from roadwork_bench.accuracy import assess, summary
from roadwork_bench.cli import main
from roadwork_bench.fitting import Settings
from roadwork_bench.judging import judge_table
from roadwork_bench.table import Table
from roadwork_cascade.policy import Policy, load_policy, parse_policy, write_policy

THREE = Settings(folds=3)


def _object(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


def test_everything_that_is_promised_is_reported(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    judged = judge_table(make_table(30, 12), make_policy(), cross_validated=True, settings=THREE)
    report = assess(judged, baseline=True, by="source", settings=THREE)
    overall = report["overall"]
    for key in ("mcc", "mcc_jeffreys_95", "mcc_by_drive_95", "balanced_accuracy", "auroc", "brier", "ece", "recall"):
        assert overall[key] is not None
    assert overall["mcc_by_drive_95"][0] <= overall["mcc"] <= overall["mcc_by_drive_95"][1]
    assert report["baseline"]["overall"]["mcc"] > 0.5
    assert report["baseline"]["mcnemar_p"] <= 1
    assert set(report["within"]) == {"camera0", "camera1", "camera2"}
    assert set(report["by_source"]) == {"camera0", "camera1", "camera2"}
    assert report["stages"]["asked"]["glance"] == 1
    assert len(report["errors"]) == overall["fp"] + overall["fn"]
    text = summary(json.loads(json.dumps(report)))
    assert "fitted and tested on different groups, 3 folds" in text
    assert "95% CI" in text


def test_a_sample_that_cannot_carry_the_claim_says_so(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    table = make_table(6, 5)
    for row in table.rows:
        row.source = "camera" if row.roadwork else "other"
        row.publishable = True
    table.rows[0].source = "camera"
    report = assess(judge_table(table, make_policy(), cross_validated=False))
    warnings = "\n".join(report["warnings"])
    assert "images of 3 drives with roadwork" in warnings
    assert "learned the camera" in warnings
    assert "30 of 30 images may have trained the models" in warnings


def test_a_large_varied_sample_is_not_nagged_about(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    table = make_table(60, 20, information=5)
    for row in table.rows:
        row.source = "camera"
    report = assess(judge_table(table, make_policy(), cross_validated=False))
    assert report["warnings"] == []


def test_members_that_were_not_recorded_are_noted(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    table = make_table(12, 5)
    for row in table.rows:
        del row.scores["sign"]
    judged = judge_table(table, make_policy(), cross_validated=False)
    assert judged.stages == ["glance", "perception"]
    assert judged.notes == ["sign was not recorded and is left out"]


def test_fit_writes_a_policy_that_names_its_groups_and_accuracy_then_cross_validates(
    make_policy: Callable[..., Policy],
    make_table: Callable[..., Table],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, policy = tmp_path / "table.json", tmp_path / "policy.yaml"
    make_table(18, 10).save(table)
    write_policy(make_policy(), policy)
    command = ["fit", str(table), "--policy", str(policy), "--cv-folds", "2"]
    assert main([*command, "--dry-run"]) == 0
    assert load_policy(policy).fitted is None
    assert main([*command, "--accuracy-json", str(tmp_path / "accuracy.json")]) == 0
    assert "Stacking" in capsys.readouterr().out
    fitted = load_policy(policy)
    assert fitted.fitted is not None
    assert (fitted.fitted["images"], fitted.fitted["groups"]) == (180, 18)
    assert fitted.fitted["group_names"][0] == "drive00"
    assert str(tmp_path) not in policy.read_text()
    assert fitted.stages[-1].accept is None
    assert json.loads((tmp_path / "accuracy.json").read_text())["stacking"]["overall"]["mcc"] > 0.5

    assert main(["accuracy", str(table), "--policy", str(policy), "--cv-folds", "2", "--json"]) == 0
    assert "different groups" in _object(capsys.readouterr().out)["method"]
    assert main(["accuracy", str(table), "--policy", str(policy), "--no-cross-validate", "--json"]) == 0
    assert "fitted on images of the same groups" in _object(capsys.readouterr().out)["method"]


def test_fit_without_sign_scores_keeps_that_member(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table], tmp_path: Path
) -> None:
    table = make_table(18, 10)
    for row in table.rows:
        del row.scores["sign"]
    table.save(tmp_path / "table.json")
    write_policy(make_policy(), tmp_path / "policy.yaml")
    assert (
        main(["fit", str(tmp_path / "table.json"), "--policy", str(tmp_path / "policy.yaml"), "--cv-folds", "2"]) == 0
    )
    assert load_policy(tmp_path / "policy.yaml").stages[2].members == make_policy().stages[2].members


def test_a_folder_is_judged_by_the_cascade_itself(
    photographs: Path,
    repository: Path,
    small_policy: Policy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = small_policy.to_dict()
    data["threshold"] = 0.9  # so that some are missed
    data["stages"][0]["accept"] = None
    write_policy(parse_policy(data), tmp_path / "policy.yaml")
    sheet = tmp_path / "errors.png"
    command = ["accuracy", str(photographs), "--policy", str(tmp_path / "policy.yaml"), "--baseline", "--json"]
    assert main([*command, "--model-repository", str(repository), "--sheet", str(sheet)]) == 0
    report = _object(capsys.readouterr().out)
    assert report["method"] == "policy as it is"
    assert report["overall"]["images"] == 24
    assert report["overall"]["fp"] == 0
    assert report["overall"]["fn"] > 0
    with Image.open(sheet) as opened:
        assert opened.width > 100
        assert len(np.unique(np.asarray(opened).reshape(-1, 3), axis=0)) > 5


def test_a_folder_of_the_fitted_groups_is_cross_validated(
    photographs: Path, repository: Path, small_policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = small_policy.to_dict() | {"fitted": {"group_names": ["roadwork_a"]}}
    write_policy(parse_policy(data), tmp_path / "policy.yaml")
    command = ["accuracy", str(photographs), "--policy", str(tmp_path / "policy.yaml"), "--json"]
    assert main([*command, "--model-repository", str(repository), "--cv-folds", "3"]) == 0
    assert "different groups" in _object(capsys.readouterr().out)["method"]


@pytest.mark.parametrize(
    "command",
    [
        ["accuracy", "nowhere.json"],
        ["fit", "nowhere.json"],
        ["record", "nowhere"],
        ["overhead", "--in-flight", "8"],
    ],
)
def test_what_cannot_run_says_why_in_one_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"roadwork-bench {command[0]}: ")
    assert error.count("\n") == 1


def test_a_folder_that_trained_the_models_is_warned_about(
    photographs: Path, repository: Path, small_policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(path.relative_to(photographs).as_posix() for path in photographs.rglob("*.png"))
    rows = "".join(f"{file},{file.split('/')[0]},yes\n" for file in files)
    (photographs / "images.csv").write_text(f"file,label,weights_may_be_published\n{rows}")
    write_policy(small_policy, tmp_path / "policy.yaml")
    command = ["accuracy", str(photographs), "--policy", str(tmp_path / "policy.yaml")]
    assert main([*command, "--model-repository", str(repository)]) == 0
    assert "24 of 24 images may have trained the models" in capsys.readouterr().out
