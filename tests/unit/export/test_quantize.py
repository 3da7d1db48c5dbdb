"""What `roadwork-export quantize` refuses, chooses and compares, without llmcompressor's environment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from roadwork_cascade.prompts import TierImage, load_prompt
from roadwork_export import cli
from roadwork_export.errors import CheckError, ExportError, WeightsError
from roadwork_export.quantize import pictures
from roadwork_export.quantize.answers import absolute, cause
from roadwork_export.quantize.comparison import compare
from roadwork_export.quantize.place import finish_weights, put, renamed, target_name
from roadwork_export.quantize.quantizing import Order, check_weights, quantize, save
from roadwork_export.quantize.schemes import KEPT, SCHEMES, group_size, is_kept, kept_by
from roadwork_export.quantize.subject import Subject, read_subject
from roadwork_export.quantize.tensors import (
    changed,
    compressed_layers,
    layers_total,
    linear_layers,
    read_headers,
    total,
)
from safetensors.torch import load_file, save_file

TIER = Path(__file__).parents[3] / "model_repository" / "tiny_vlm_s"
REASONER = TIER.parent / "tiny_reasoner"
INT8, FP8, INT4 = (SCHEMES[name] for name in ("w8a8-int8", "fp8-dynamic", "w4a16"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the project's smallest tier."""
    shutil.copytree(TIER, tmp_path / "repository" / "tiny_vlm_s")
    return tmp_path / "repository"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its content, to show that nothing was touched."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Schemes -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("model.visual.blocks.0.attn.qkv", True),
        ("model.visual.merger.linear_fc1", True),
        ("visual.deepstack_merger_list.0.linear_fc2", True),
        ("lm_head", True),
        ("model.language_model.layers.0.mlp.up_proj", False),
        ("model.layers.3.self_attn.o_proj", False),
    ],
)
def test_the_vision_tower_and_the_output_layer_are_kept(name: str, kept: bool) -> None:
    assert is_kept(name, KEPT["Qwen3VLForConditionalGeneration"]) is kept


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("Qwen3VLMoeForConditionalGeneration", "mixture of experts"),
        ("Molmo2ForConditionalGeneration", "is not known here"),
    ],
)
def test_an_architecture_that_cannot_be_compressed_is_refused(architecture: str, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        kept_by(architecture)


@pytest.mark.parametrize(
    ("shapes", "wanted", "size"),
    [
        ([(256, 128), (128, 256)], None, 128),
        ([(256, 192)], None, 64),
        ([(256, 160)], None, 32),
        ([(256, 256)], 64, 64),
    ],
)
def test_the_group_is_the_largest_that_divides_every_layer(
    shapes: list[tuple[int, int]], wanted: int | None, size: int
) -> None:
    assert group_size(INT4, shapes, wanted) == size
    assert group_size(INT8, shapes) is None


@pytest.mark.parametrize(
    ("scheme", "shapes", "wanted", "words"),
    [
        (INT4, [(256, 200)], None, "multiples of 32"),
        (INT4, [(256, 192)], 128, "192 input features"),
        (INT4, [(256, 256)], 100, "one of 128, 64, 32"),
        (FP8, [(100, 256)], None, "100 x 256; choose another --scheme"),
        (INT8, [(256, 256)], 64, "has no groups"),
    ],
)
def test_layers_that_do_not_divide_are_refused(
    scheme: Any, shapes: list[tuple[int, int]], wanted: int | None, words: str
) -> None:
    with pytest.raises(ExportError, match=words):
        group_size(scheme, shapes, wanted)


# The tier ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
def test_the_tiny_tier_can_be_compressed(repository: Path, scheme: Any) -> None:
    subject = read_subject(repository, "tiny_vlm_s", scheme)
    assert len(subject.layers) == 14  # seven linear layers in each of two blocks
    assert all(name.startswith("model.language_model.layers.") for name in subject.layers)
    assert subject.group == (128 if scheme is INT4 else None)
    assert subject.question == subject.prompt


def test_a_reasoner_is_asked_for_its_boolean_at_once(tmp_path: Path) -> None:
    shutil.copytree(TIER.parent / "tiny_vlm_m", tmp_path / "tiny_vlm_m")
    shutil.copytree(REASONER, tmp_path / "tiny_reasoner")
    question = read_subject(tmp_path, "tiny_reasoner", INT8).question
    prompt = load_prompt(REASONER / "prompt.json")
    assert prompt.repair is not None
    assert question.text(None) == prompt.text(None) + prompt.repair
    assert question.sampling["max_tokens"] == 1
    assert {*question.sampling["allowed_token_ids"]} == {*prompt.yes.values(), *prompt.no.values()}


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("1/model.json", {"load_format": "dummy"}, "model.json: load_format is dummy"),
        ("1/model.json", {"quantization": "fp8"}, "model.json: quantization is 'fp8'"),
        ("1/model.json", {"trust_remote_code": True}, "model.json: trust_remote_code"),
        ("1/model.json", {"model": ""}, "model.json: model is missing"),
        ("1/model.json", {"model": "elsewhere/1/weights"}, "no such folder is there"),
        ("1/model.json", {"model": "nobody/nothing-of-this-name"}, "hf download nobody/nothing-of-this-name"),
        ("1/weights/config.json", {"quantization_config": {"quant_method": "awq"}}, "compressed already .awq."),
        ("1/weights/config.json", {"auto_map": {}, "architectures": None}, "architectures is missing"),
        ("1/weights/config.json", {"auto_map": {"AutoModel": "x"}}, "its publisher's own code"),
        ("1/weights/config.json", {"architectures": ["OvisForConditionalGeneration"]}, "is not known here"),
        ("prompt.json", {"kind": "oracle"}, "prompt.json: kind"),
    ],
)
def test_a_tier_that_cannot_be_compressed_is_refused(
    repository: Path, file: str, changes: dict[str, Any], words: str
) -> None:
    edit(repository / "tiny_vlm_s" / file, **changes)
    with pytest.raises(ExportError, match=words):
        read_subject(repository, "tiny_vlm_s", INT8)


@pytest.mark.parametrize(("name", "words"), [("nothing", "no such tier"), ("../x", "not the name of a tier")])
def test_what_is_no_tier_is_refused(repository: Path, name: str, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        read_subject(repository, name, INT8)


def test_damaged_weights_are_refused(repository: Path) -> None:
    weights = repository / "tiny_vlm_s" / "1" / "weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors: not a safetensors file: it ends too early"):
        read_subject(repository, "tiny_vlm_s", INT8)
    weights.unlink()
    with pytest.raises(WeightsError, match="holds no weights"):
        read_subject(repository, "tiny_vlm_s", INT8)


# Weights -------------------------------------------------------------------------------------------------------------
def compressed(subject: Subject, folder: Path, *, leave: str = "", touch: str = "") -> Path:
    """Weights in the layout that llmcompressor writes for 8-bit integers; `leave` is not compressed, `touch` spoilt."""
    folder.mkdir(parents=True)
    state = load_file(subject.weights / "model.safetensors")
    for name in subject.layers:
        if name == leave:
            continue
        weight = state[f"{name}.weight"].float()
        scale = weight.abs().amax(1, keepdim=True) / 127
        state[f"{name}.weight"] = (weight / scale).round().to(torch.int8)
        state[f"{name}.weight_scale"] = scale.bfloat16()
    if touch:
        state[touch] = state[touch] * 2
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["X"], "quantization_config": {"quant_method": "compressed-tensors"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_figures_of_the_weights_are_told_and_what_is_kept_is_the_same(repository: Path, tmp_path: Path) -> None:
    subject = read_subject(repository, "tiny_vlm_s", INT8)
    after = read_headers(compressed(subject, tmp_path / "made"))
    assert compressed_layers(after) == set(subject.layers)
    assert not changed(dict(subject.tensors), after, subject.layers)
    weights = sum(rows * columns for rows, columns in subject.layers.values())
    assert layers_total(dict(subject.tensors), subject.layers) == 2 * weights  # bfloat16
    scales = sum(rows for rows, _ in subject.layers.values())
    assert layers_total(after, subject.layers) == weights + 2 * scales
    figures = check_weights(subject, tmp_path / "made")
    assert figures["before"] - figures["after"] == figures["layers_before"] - figures["layers_after"]
    assert figures["before"] == total(dict(subject.tensors))


def test_a_layer_that_was_left_out_is_found(repository: Path, tmp_path: Path) -> None:
    subject = read_subject(repository, "tiny_vlm_s", INT8)
    left = sorted(subject.layers)[3]
    with pytest.raises(CheckError, match=left):
        check_weights(subject, compressed(subject, tmp_path / "made", leave=left))


@pytest.mark.parametrize("touch", ["model.visual.merger.linear_fc1.weight", "model.language_model.norm.weight"])
def test_a_tensor_that_was_to_be_kept_and_is_not_is_found(repository: Path, tmp_path: Path, touch: str) -> None:
    subject = read_subject(repository, "tiny_vlm_s", INT8)
    with pytest.raises(CheckError, match=touch):
        check_weights(subject, compressed(subject, tmp_path / "made", touch=touch))


def test_layers_of_the_vision_tower_are_none_of_those_compressed(repository: Path) -> None:
    tensors = read_headers(repository / "tiny_vlm_s" / "1" / "weights")
    assert len(linear_layers(tensors, ())) == 14  # the blocks of the tower are not called layers
    assert not linear_layers(tensors, (r"re:.*language_model\..*",))


# Images --------------------------------------------------------------------------------------------------------------
def photos(folder: Path, count: int) -> Path:
    for number in range(count):
        name = ("roadwork", "none")[number % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = np.full((90, 160, 3), number * 3, np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_no_image_is_both_calibrated_and_compared_on(tmp_path: Path) -> None:
    choice = pictures.choose(photos(tmp_path / "photos", 40), 12, 20)
    seen, compared = ({source.where for source in part} for part in (choice.calibration, choice.comparison))
    assert (len(seen), len(compared), seen & compared) == (12, 20, set())
    assert choice == pictures.choose(tmp_path / "photos", 12, 20)
    for source in choice.comparison:
        assert isinstance(source.where, Path)
        assert source.label == (source.where.parent.name == "roadwork")


def test_too_few_images_are_shared_out_and_far_too_few_refused(tmp_path: Path) -> None:
    choice = pictures.choose(photos(tmp_path / "some", 20), 128, 128)
    assert (len(choice.calibration), len(choice.comparison)) == (10, 10)
    with pytest.raises(CheckError, match="15 images; 8 for calibrating and 8 others"):
        pictures.choose(photos(tmp_path / "few", 15), 128, 128)
    with pytest.raises(CheckError, match="no such folder"):
        pictures.choose(tmp_path / "nowhere", 128, 128)
    with pytest.raises(CheckError, match="--compare is 3"):
        pictures.choose(None, 128, 3)


def test_no_drive_is_both_calibrated_and_compared_on(tmp_path: Path) -> None:
    lines = ["file,label,group"]
    for path in sorted(photos(tmp_path / "photos", 60).rglob("*.png")):
        lines.append(f"{path.relative_to(tmp_path)},{path.parent.name},drive{int(path.stem) // 6}")
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(lines))
    choice = pictures.choose(table, 10, 40)
    seen, compared = ({source.group for source in part} for part in (choice.calibration, choice.comparison))
    assert len(choice.calibration) == 10
    assert len(choice.comparison) >= 36
    assert not seen & compared
    table.write_text("\n".join(line.rpartition(",")[0] + (",group" if line is lines[0] else ",one") for line in lines))
    with pytest.raises(CheckError, match="of other groups"):
        pictures.choose(table, 10, 40)


def test_scenes_are_drawn_where_there_are_no_images_and_it_is_said() -> None:
    choice = pictures.choose(None, 8, 10)
    assert "drawn scenes" in choice.told
    assert [source.label for source in choice.comparison] == [1, 0] * 5
    assert not {s.where for s in choice.calibration} & {s.where for s in choice.comparison}


def test_images_are_written_as_the_tier_gets_them(tmp_path: Path) -> None:
    image = np.zeros((720, 1280, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "one.png")
    sources = [pictures.Source(tmp_path / "one.png", None), pictures.Source(pictures.COMPARISON_SEED, 1)]
    written = pictures.write(sources, TierImage("canvas", 288, 92), tmp_path / "canvas")
    assert [Image.open(path).size for path in written] == [(288, 162), (288, 180)]
    assert pictures.write(sources[:1], TierImage("original"), tmp_path / "original")[0].read_bytes() == (
        (tmp_path / "one.png").read_bytes()
    )
    (tmp_path / "two.png").write_text("no image")
    with pytest.raises(CheckError, match=r"two\.png: not an image"):
        pictures.write([pictures.Source(tmp_path / "two.png", None)], TierImage("canvas"), tmp_path / "broken")


# Comparison ----------------------------------------------------------------------------------------------------------
def test_a_comparison_adds_up() -> None:
    found = compare([0.9, 0.2, 0.55, 0.1], [0.8, 0.2, 0.45, 0.1], [1, 0, 1, 0], 0.06)
    assert (found.passed, found.why_not()) == (True, "")
    assert found.mean == pytest.approx(0.05)
    assert found.largest == pytest.approx(0.1)
    assert found.agreement == 0.75
    assert found.spread == pytest.approx(0.8)
    assert found.mcc == (1.0, pytest.approx(0.57735, abs=1e-5))
    assert "MCC 1.000 before, 0.577 after" in str(found)
    assert json.loads(json.dumps(found.report()))["mcc_at_half"] == {"before": 1.0, "after": 0.5774}


def test_a_comparison_fails_over_its_limit_or_where_answers_are_lost() -> None:
    over = compare([0.9, 0.2], [0.8, 0.1], [None, None], 0.02)
    assert not over.passed
    assert "0.1000 is over the limit 0.02" in over.why_not()
    assert over.mcc is None
    lost = compare([0.9, 0.2], [0.9, None], [1, 0], 0.02)
    assert not lost.passed
    assert "1 of 2 images are not answered" in lost.why_not()
    none = compare([None, None], [0.5, 0.5], [1, 0], 0.02)
    assert not none.passed
    assert "nothing to compare" in none.why_not()


def test_answers_that_hardly_differ_among_themselves_are_told() -> None:
    assert "agreeing says little" in str(compare([0.50, 0.51], [0.50, 0.51], [None, None], 0.02))


def test_paths_in_the_repository_hold_from_elsewhere(repository: Path) -> None:
    engine = {"model": "tiny_vlm_s/1/weights", "tokenizer": "owner/on-the-hub", "dtype": "float32"}
    weights = str((repository / "tiny_vlm_s" / "1" / "weights").resolve())
    assert absolute(engine, repository) == {**engine, "model": weights}


def test_why_an_engine_died_is_found_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(
        "Traceback (most recent call last):\n"
        "AttributeError: first\n"
        "(EngineCore pid=7) ERROR 11-22 [core.py:1] RuntimeError: Worker failed with error 'no such kernel'\n"
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.\n"
    )
    assert cause(log) == "RuntimeError: Worker failed with error 'no such kernel'"
    log.write_text("I1122 all is well\n")
    assert cause(log) is None
    assert cause(tmp_path / "nothing.log") is None


# Into the repository -------------------------------------------------------------------------------------------------
RECORD: dict[str, Any] = {
    "about": {"command": "roadwork-export quantize tiny_vlm_s --scheme w8a8-int8"},
    "tier": "tiny_vlm_s",
    "scheme": "w8a8-int8",
    "llmcompressor": "0.14.0",
    "calibration": {"images": 16, "from": "photos"},
    "compared_on": "photos",
    "compared_by": "served by the engine",
    "weights": {"before": 4_000_000, "after": 3_000_000, "layers_before": 2_000_000, "layers_after": 1_000_000},
    "check": compare([0.9, 0.2], [0.9, 0.21], [1, 0], 0.02).report(),
}


def made(repository: Path, tmp_path: Path) -> tuple[Subject, Path]:
    subject = read_subject(repository, "tiny_vlm_s", INT8)
    weights = compressed(subject, tmp_path / "made")
    finish_weights(subject, weights)
    return subject, weights


def test_a_new_tier_has_its_own_weights_and_the_same_question(repository: Path, tmp_path: Path) -> None:
    before = tree(repository)
    subject, weights = made(repository, tmp_path)
    folder = put(repository, subject, "small", weights, RECORD)
    assert {name: data for name, data in tree(repository).items() if not name.startswith("small/")} == before
    assert 'name: "small"' in (folder / "config.pbtxt").read_text()
    engine = json.loads((folder / "1" / "model.json").read_text())
    assert engine == {**subject.engine, "model": "small/1/weights"}
    prompt, old = load_prompt(folder / "prompt.json"), subject.prompt
    assert (prompt.yes, prompt.no, prompt.prompt, prompt.sampling) == (old.yes, old.no, old.prompt, old.sampling)
    for name in ("tokenizer.json", "chat_template.jinja", "preprocessor_config.json"):
        assert (folder / "1" / "weights" / name).read_bytes() == (subject.weights / name).read_bytes()
    assert "quantization_config" in json.loads((folder / "1" / "weights" / "config.json").read_text())
    card = (folder / "MODEL_CARD.md").read_text()
    assert "w8a8-int8" in card
    assert RECORD["about"]["command"] in card
    with pytest.raises(ExportError, match="compressed already"):
        read_subject(repository, "small", INT8)
    assert target_name(repository, subject, "small", False) == "small"  # made again


def test_replacing_swaps_the_whole_folder(repository: Path, tmp_path: Path) -> None:
    (repository / "tiny_vlm_s" / "configs").mkdir()
    (repository / "tiny_vlm_s" / "configs" / "gpu.pbtxt").write_text('name: "tiny_vlm_s"\n')
    subject, weights = made(repository, tmp_path)
    assert target_name(repository, subject, None, True) == "tiny_vlm_s"
    wanted = (weights / "model.safetensors").read_bytes()
    folder = put(repository, subject, "tiny_vlm_s", weights, RECORD)
    assert (folder / "1" / "weights" / "model.safetensors").read_bytes() == wanted
    assert json.loads((folder / "1" / "model.json").read_text()) == subject.engine
    assert (folder / "configs" / "gpu.pbtxt").read_text() == 'name: "tiny_vlm_s"\n'
    assert [path.name for path in repository.iterdir()] == ["tiny_vlm_s"]  # neither draft nor backup is left


def test_what_breaks_while_it_is_put_there_leaves_the_old_tier(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(repository)
    subject, weights = made(repository, tmp_path)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("roadwork_export.quantize.place.card", full)
    with pytest.raises(ExportError, match="No space left on device"):
        put(repository, subject, "tiny_vlm_s", weights, RECORD)
    assert tree(repository) == before


def test_weights_that_another_tier_uses_are_not_replaced(tmp_path: Path) -> None:
    shutil.copytree(TIER.parent / "tiny_vlm_m", tmp_path / "tiny_vlm_m")
    shutil.copytree(REASONER, tmp_path / "tiny_reasoner")
    subject = read_subject(tmp_path, "tiny_vlm_m", INT8)
    with pytest.raises(ExportError, match="tiny_reasoner is served from the weights of tiny_vlm_m too"):
        target_name(tmp_path, subject, None, True)
    assert target_name(tmp_path, subject, None, False) == "tiny_vlm_m_w8a8-int8"


def test_a_folder_of_something_else_is_not_overwritten(repository: Path) -> None:
    subject = read_subject(repository, "tiny_vlm_s", INT8)
    (repository / "mine").mkdir()
    for out, words in (("mine", "was not made of tiny_vlm_s by this command"), ("a/b", "must be a name")):
        with pytest.raises(ExportError, match=words):
            target_name(repository, subject, out, False)
    with pytest.raises(ExportError, match="exclude one another"):
        target_name(repository, subject, "new", True)


def test_only_the_models_own_name_is_changed() -> None:
    config = 'name: "a"\ninput [ { name: "a" } ]\n'
    assert renamed(config, "a", "b") == 'name: "b"\ninput [ { name: "a" } ]\n'
    assert renamed('backend: "vllm"\n', "a", "b") == 'backend: "vllm"\n'


def test_runs_are_added_to_the_file_of_figures(tmp_path: Path) -> None:
    file = tmp_path / "results" / "figures.json"
    save(RECORD, file)
    save({**RECORD, "scheme": "w4a16"}, file)
    save({**RECORD, "llmcompressor": "0.15.0"}, file)
    runs = json.loads(file.read_text())["runs"]
    assert list(runs) == ["tiny_vlm_s w8a8-int8", "tiny_vlm_s w4a16"]
    assert runs["tiny_vlm_s w8a8-int8"]["llmcompressor"] == "0.15.0"
    file.write_text("[]")
    with pytest.raises(ExportError, match="not what this command writes"):
        save(RECORD, file)


# The command ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limit": 0.0}, "--limit is 0, must be over 0"),
        ({"replace": True, "by": "transformers"}, "--replace needs a comparison by the engine"),
        ({"compare": 2}, "--compare is 2"),
    ],
)
def test_what_was_asked_wrongly_is_refused_before_anything_is_made(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("roadwork_export.quantize.answers.engine_missing", lambda: None)
    order = Order(**{"tier": "tiny_vlm_s", "scheme": "w8a8-int8", "repository": repository, **changes})
    with pytest.raises(ExportError, match=words):
        quantize(order, {}, lambda line: None)
    assert not (tmp_path / "cache").exists()


def test_an_error_is_one_line(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["roadwork-export", "quantize", "nothing", "--scheme", "w4a16", "--repository", str(repository)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("roadwork-export: ")
    assert "no such tier" in said
    assert said.count("\n") == 1
