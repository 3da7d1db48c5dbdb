"""`roadwork-export florence2` and the check of what it wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from roadwork_export.catalogue import load_catalogue
from roadwork_export.cli import parser
from roadwork_export.commands.catalogue import describe
from roadwork_export.errors import CheckError, ExportError, WeightsError
from roadwork_export.florence2.check import Agreement, difference
from roadwork_export.florence2.sizes import SIZES

NAME = "florence2_base"


def run(*words: str | Path) -> int:
    arguments = parser().parse_args([str(word) for word in words])
    return int(arguments.run(arguments))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def test_check_finds_what_was_changed_afterwards(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", NAME, "--repository", copy) == 0
    assert "0 without counterpart, corners differ by 0.00 px at most: passed" in capsys.readouterr().out
    code = copy / NAME / "1" / "florence_reading.py"
    text = code.read_text()
    assert "task=TASK, image_size=size)" in text
    code.write_text(text.replace("task=TASK, image_size=size)", "task=TASK, image_size=(size[1], size[0]))"))
    assert run("check", NAME, "--repository", copy) == 1
    assert "FAILED" in capsys.readouterr().out


def test_own_weights_by_path(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `florence2` wrote are weights as transformers has them: the command takes them again, for a GPU."""
    weights = copy / NAME / "1" / "weights"
    arguments = ("florence2", NAME, "--weights", weights, "--size", "tiny", "--as", "again", "--gpu")
    assert run(*arguments, "--repository", copy) == 0
    told = (copy / "again" / "config.pbtxt").read_text()
    assert "kind: KIND_GPU" in told
    assert 'name: "again"' in told
    assert json.loads((copy / "again" / "1" / "florence.json").read_text())["weights"] == str(weights.resolve())
    assert "next: name again in a stage" in capsys.readouterr().out


def test_weights_of_another_size_or_model_are_refused(copy: Path, tmp_path: Path) -> None:
    before = contents(copy)
    weights = copy / NAME / "1" / "weights"
    with pytest.raises(WeightsError, match="not weights of Florence-2 base: hidden 64, not 768"):
        run("florence2", NAME, "--weights", weights, "--repository", copy)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bart"}))
    with pytest.raises(WeightsError, match="a model of type 'bart'; florence2_base is 'florence2'"):
        run("florence2", NAME, "--weights", other, "--repository", copy)
    with pytest.raises(WeightsError, match="no such file or folder"):
        run("florence2", NAME, "--weights", tmp_path / "absent", "--repository", copy)
    assert contents(copy) == before


def test_processor_without_places_is_refused(copy: Path) -> None:
    path = copy / NAME / "1" / "weights" / "tokenizer.json"
    path.write_text(path.read_text().replace("<loc_", "<lok_"))
    with pytest.raises(WeightsError, match="its tokenizer lacks places such as <loc_0>"):
        run("florence2", NAME, "--weights", path.parent, "--size", "tiny", "--repository", copy, "--as", "again")
    assert not (copy / "again").exists()


def test_bad_orders(copy: Path, tmp_path: Path) -> None:
    random = ("--random-weights", "--repository", copy)
    with pytest.raises(ExportError, match="dfine_n is no Florence-2"):
        run("florence2", "dfine_n", *random)
    with pytest.raises(ExportError, match="--size huge: known are base, large, tiny"):
        run("florence2", NAME, "--size", "huge", *random)
    with pytest.raises(ExportError, match="another model's folder; name another one with --as"):
        run("florence2", NAME, "--size", "tiny", "--as", "sign_text", *random)
    with pytest.raises(ExportError, match="Florence-2's folder lies beside decode and sign_text"):
        run("florence2", NAME, "--size", "tiny", "--random-weights", "--repository", tmp_path)
    with pytest.raises(CheckError, match="holds no image"):
        run("check", NAME, "--repository", copy, "--images", tmp_path / "none")
    (copy / NAME / "1" / "florence.json").write_text("{}")
    with pytest.raises(CheckError, match="not a recipe of roadwork-export florence2"):
        run("check", NAME, "--repository", copy)


def test_without_a_network_the_message_says_what_to_do(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"nobody/has-this: cannot be fetched from the hub.*--random-weights for"):
        run("florence2", NAME, "--weights", "nobody/has-this", "--repository", copy)


LINE = ("STOP", (0.0, 0.0, 9.0, 0.0, 9.0, 9.0, 0.0, 9.0))
MOVED = ("STOP", (0.0, 0.0, 9.0, 0.0, 9.0, 9.0, 3.0, 9.0))


@pytest.mark.parametrize(
    ("served", "passed"),
    [([LINE], True), ([], False), ([LINE, LINE], False), ([("SHOP", LINE[1])], False), ([MOVED], False)],
)
def test_what_a_check_lets_pass(served: list, passed: bool) -> None:
    assert Agreement(1, *difference(served, [LINE])).passed is passed


def test_nothing_read_is_told_as_such() -> None:
    assert "no line was read" in str(Agreement(3, 0, 0, 0.0))


def test_show_names_the_command() -> None:
    shown = describe(load_catalogue().get(NAME))
    assert f"roadwork-export florence2 {NAME} --weights florence-community/Florence-2-base" in shown


def test_published_sizes_are_those_of_the_catalogue() -> None:
    import torch
    from roadwork_export.florence2.sizes import network_config
    from transformers import Florence2ForConditionalGeneration

    for key in ("base", "large"):
        with torch.device("meta"):
            network = Florence2ForConditionalGeneration(network_config(SIZES[key], SIZES[key].vocabulary, 51_289))
            network.tie_weights()
        counted = sum(each.numel() for each in network.parameters())
        assert counted == load_catalogue().get(f"florence2_{key}").parameters
