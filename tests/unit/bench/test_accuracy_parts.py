"""`roadwork-bench accuracy`: parts of the sample, a second policy, claims, and samples too small or one-sided."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from roadwork_bench.cli import main
from roadwork_bench.table import Table, load_table
from roadwork_cascade.policy import Policy, load_policy, parse_policy, write_policy


@pytest.fixture
def files(tmp_path: Path, make_policy: Callable[..., Policy], make_table: Callable[..., Table]) -> Path:
    """`table.json` and `policy.yaml`; half of each drive is dark, and a third of the images are large."""
    table = make_table(18, 8)
    for number, row in enumerate(table.rows):
        row.luma = 30.0 if number % 2 else 110.0
        row.size = [1920, 1080] if number % 3 == 0 else [640, 400]
    table.save(tmp_path / "table.json")
    write_policy(make_policy(), tmp_path / "policy.yaml")
    return tmp_path


def report(files: Path, *more: str) -> dict:
    out = files / "report.json"
    command = ["accuracy", str(files / "table.json"), "--policy", str(files / "policy.yaml"), "--out", str(out)]
    assert main([*command, *more]) == 0
    return json.loads(out.read_text())


def test_parts_add_up_and_have_figures_of_their_own(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(files, "--by", "light", "--by", "size", "--by", "source")
    for kind in ("light", "size", "source"):
        parts = found[f"by_{kind}"]
        for key in ("images", "tp", "fp", "tn", "fn"):
            assert sum(part[key] for part in parts.values()) == found["overall"][key]
    assert {name: part["images"] for name, part in found["by_light"].items()} == {
        "dark (mean luma under 60)": 72,
        "day": 72,
    }
    assert {name: part["images"] for name, part in found["by_size"].items()} == {
        "513 to 1024 px": 96,
        "over 1024 px": 48,
    }
    text = capsys.readouterr().out
    assert "By light:" in text
    assert "over 1024 px: 48 images" in text


def test_reliability_and_reward_are_in_the_report(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(files, "--plot", str(files / "reliability.png"))
    assert sum(one["images"] for one in found["reliability"]["bins"]) == 144
    assert found["within"]["camera0"]["reliability"]["bins"]
    assert 0 < found["reward"]["mean"] <= 1
    with Image.open(files / "reliability.png") as opened:
        assert opened.width > 4 * 400  # all, and within each of three cameras
    assert "Miner's reward" in capsys.readouterr().out


def test_two_policies_are_told_apart_on_the_same_images(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = report(files, "--against", str(files / "policy.yaml"))
    assert (same["against"]["mcc_gain"], same["against"]["mcnemar_p"]) == (0, 1)
    data = load_policy(files / "policy.yaml").to_dict()
    data["threshold"] = 0.999
    write_policy(parse_policy(data), files / "strict.yaml")
    strict = report(files, "--against", str(files / "strict.yaml"))
    assert strict["overall"] == same["overall"]
    other = strict["against"]
    assert other["overall"]["recall"] < strict["overall"]["recall"]
    assert other["mcc_gain"] < 0
    assert other["mcnemar_p"] < 0.001
    assert other["only_first_right"] > other["only_second_right"]
    assert "Against made-up" in capsys.readouterr().out


def test_a_claim_that_the_sample_cannot_carry_is_warned_about(files: Path) -> None:
    found = report(files, "--claim", "0.9985")
    assert found["claim"]["images_without_error"] == 3993
    assert any("cannot carry a claim of MCC 0.9985: that takes 3,993" in text for text in found["warnings"])
    assert "claim" not in report(files)


def test_a_claim_must_be_one(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["accuracy", str(files / "table.json"), "--policy", str(files / "policy.yaml")]
    assert main([*command, "--claim", "99.85"]) == 2
    assert "--claim is an MCC between 0 and 1, got 99.85" in capsys.readouterr().err


def cut(files: Path, keep: Callable[[int, bool], bool]) -> None:
    data = json.loads((files / "table.json").read_text())
    data["rows"] = [row for k, row in enumerate(data["rows"]) if keep(k, row["roadwork"])]
    (files / "table.json").write_text(json.dumps(data))


@pytest.mark.parametrize("works", [True, False])
def test_one_class_has_all_figures_but_those_that_need_two(files: Path, works: bool) -> None:
    cut(files, lambda _, roadwork: roadwork is works)
    found = report(files, "--by", "light", "--plot", str(files / "one.png"), "--claim", "0.9985")
    overall = found["overall"]
    for key in ("mcc", "mcc_jeffreys_95", "mcc_by_drive_95", "balanced_accuracy", "auroc"):
        assert overall[key] is None
    assert (overall["recall"] is None) is not works
    assert (overall["false_alarm_rate"] is None) is works
    assert 0 < overall["brier"] < 1
    assert found["reward"] is None
    label = "roadwork" if works else "no roadwork"
    assert any(text.startswith(f"all images are labelled {label}: MCC") for text in found["warnings"])


def test_one_class_cannot_be_cross_validated(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(files, lambda _, roadwork: roadwork)
    command = ["accuracy", str(files / "table.json"), "--policy", str(files / "policy.yaml"), "--cross-validate"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "each class needs images of at least two groups" in error
    assert "--no-cross-validate judges by the policy as it is" in error


def test_five_images_have_figures_and_warnings(files: Path) -> None:
    cut(files, lambda number, _: number in (0, 8, 16, 24, 40))
    found = report(files)
    assert found["overall"]["images"] == 5
    assert found["overall"]["mcc_jeffreys_95"] is not None
    assert sum("one drive more or less moves the figure" in text for text in found["warnings"]) >= 2


def test_a_folder_without_a_table_is_cut_by_light_too(
    photographs: Path, repository: Path, small_policy: Policy, tmp_path: Path
) -> None:
    write_policy(small_policy, tmp_path / "policy.yaml")
    out = tmp_path / "report.json"
    command = ["accuracy", str(photographs), "--policy", str(tmp_path / "policy.yaml"), "--out", str(out)]
    assert main([*command, "--model-repository", str(repository), "--by", "light", "--by", "size"]) == 0
    found = json.loads(out.read_text())
    assert set(found["by_light"]) == {"dark (mean luma under 60)", "day"}
    assert set(found["by_size"]) == {"1 to 320 px"}
    assert found["notes"] == []
    shutil.copy(next(photographs.rglob("*.png")), photographs / "stray.png")
    assert main([*command, "--model-repository", str(repository)]) == 0
    assert json.loads(out.read_text())["notes"] == ["1 images have no label and are left out; the first is stray.png"]


def test_milliseconds_of_two_machines_are_not_mixed(
    photographs: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.json"
    command = ["record", str(photographs), "--out", str(out), "--model-repository", str(repository)]
    assert main(command) == 0
    table = load_table(out)
    table.about["machine"] = {"cpu": "Another", "cores": 96, "system": "Linux"}
    table.save(out)
    assert main(command) == 0  # nothing is lacking, so nothing is mixed
    assert load_table(out).about["machine"]["cpu"] == "Another"
    table.rows[5].models.clear()
    table.save(out)
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "recorded on another machine (Another, 96 cores; this is " in error.splitlines()[-1]
    assert load_table(out).about["machine"]["cpu"] == "Another"


def test_record_names_images_without_a_label_and_ends_with_1(
    photographs: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.json"
    command = ["record", str(photographs), "--out", str(out), "--model-repository", str(repository)]
    assert main(command) == 0
    shutil.copy(next((photographs / "roadwork").iterdir()), photographs / "stray.png")
    capsys.readouterr()
    assert main(command) == 1
    text = capsys.readouterr().out
    assert "no label, skipped: stray.png" in text
    assert "24 images with scores" in text
    files = sorted(p.relative_to(photographs).as_posix() for p in photographs.rglob("*.png"))
    rows = [f"{file},{'detector_only' if file == 'stray.png' else file.split('/')[0]}" for file in files]
    (photographs / "images.csv").write_text("\n".join(["file,label", *rows[:-1], f"{files[-1]},"]) + "\n")
    assert files[-1] == "stray.png"
    assert main(command) == 1
    assert "no label, skipped: stray.png" in capsys.readouterr().out
    (photographs / "images.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    assert main(command) == 0
