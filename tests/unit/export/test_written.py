"""`roadwork-export repository`: what the catalogue gives is written, stays the same, and a difference is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from roadwork_export.catalogue import Entry, load_catalogue
from roadwork_export.cli import parser
from roadwork_export.errors import ExportError
from roadwork_export.written import differing, engine_arguments, files, write, written
from tritonclient.grpc import model_config_pb2

ENTRIES = written(load_catalogue())


def run(*words: str) -> int:
    arguments = parser().parse_args(["repository", *words])
    return int(arguments.run(arguments))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_files_are_what_triton_and_vllm_read(entry: Entry) -> None:
    made = files(entry)
    config = text_format.Parse(made["config.pbtxt"], model_config_pb2.ModelConfig())
    assert config.name == entry.name
    assert config.backend == {"vllm": "vllm", "onnx": "onnxruntime"}[entry.served]
    assert "1/model.json" in made if entry.served == "vllm" else set(made) == {"config.pbtxt"}
    if entry.served == "onnx":
        assert config.parameters["source"].string_value == (entry.source or "")
        return
    settings = json.loads(made["1/model.json"])
    assert settings["model"] == entry.source
    assert settings["limit_mm_per_prompt"]["image"] == 1
    assert "trust_remote_code" not in settings
    assert entry.serving is not None
    assert settings["max_model_len"] <= entry.serving.context
    assert config.model_transaction_policy.decoupled


def test_all_kinds_are_there_and_none_of_the_projects_own() -> None:
    assert {entry.role for entry in ENTRIES} >= {"boxes", "open_vocabulary", "scene", "distance", "scorer", "reasoner"}
    assert not [entry.name for entry in ENTRIES if entry.family == "own"]
    assert len(ENTRIES) > 60


def test_writing_twice_changes_nothing_and_check_tells_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--repository", str(tmp_path)]
    assert run("--check", *where) == 1
    assert "and 93 more" in capsys.readouterr().out or len(ENTRIES) != 73
    assert run(*where) == 0
    assert run("--check", *where) == 0
    assert write(tmp_path, ENTRIES) == []
    capsys.readouterr()

    changed = tmp_path / "qwen3_vl_4b" / "1" / "model.json"
    changed.write_text(changed.read_text().replace('"auto"', '"half"'))
    assert run("--check", *where) == 1
    assert capsys.readouterr().out == (
        f"{changed} is not what the catalogue gives; write it with: roadwork-export repository qwen3_vl_4b\n"
    )
    assert run("--check", "qwen3_vl_8b", *where) == 0
    assert run("qwen3_vl_4b", *where) == 0
    assert run("--check", *where) == 0


def test_a_folder_with_weights_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "qwen3_vl_4b"
    folder.mkdir()
    (folder / "prompt.json").write_text("{}")
    assert not [path for path in differing(tmp_path, ENTRIES) if path.is_relative_to(folder)]
    write(tmp_path, ENTRIES)
    assert [path.name for path in folder.iterdir()] == ["prompt.json"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["qwen3"], "no model 'qwen3'"),
        (["yolox_nano"], "yolox_nano has no folder to write; roadwork-export show yolox_nano says how it is served"),
        (["gpt_5"], "gpt_5 has no folder to write"),
        (["--repository", "nowhere"], "nowhere is not a folder; give --repository the folder of models"),
    ],
)
def test_what_cannot_be_written_is_told(words: list[str], problem: str) -> None:
    with pytest.raises(ExportError, match=problem.replace("(", r"\(")):
        run(*words)


def test_what_vllm_does_not_serve_has_no_engine() -> None:
    with pytest.raises(ExportError, match="yolo26x is not a model for vLLM; roadwork-export show yolo26x"):
        engine_arguments(load_catalogue().get("yolo26x"))


def test_what_is_committed_is_what_the_catalogue_gives() -> None:
    repository = Path(__file__).parents[3] / "model_repository"
    assert [str(path.relative_to(repository)) for path in differing(repository, ENTRIES)] == []
