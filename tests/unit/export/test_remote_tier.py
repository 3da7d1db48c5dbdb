"""`roadwork-export tier --remote`: the folder of a tier that lives in another server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from roadwork_cascade.prompts import load_prompt
from roadwork_deploy.embedded import BACKENDS
from roadwork_deploy.repository import default_repository, read_config
from roadwork_deploy.tiers import find_tiers
from roadwork_export.commands import tiers as commands
from roadwork_export.tiers.prompting import TierError
from roadwork_export.tiers.remote import write_remote

URL = "http://127.0.0.1:8100/v1"
WEIGHTS = str(default_repository() / "tiny_vlm_s" / "1" / "weights")


@pytest.mark.parametrize("kind", ["scorer", "reasoner"])
def test_the_folder_is_one_that_the_backend_takes_and_the_cascade_reads(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(BACKENDS / "vllm"), str(BACKENDS / "openai")])
    from remote_settings import read_remote

    folder = write_remote(
        "far", tmp_path, url=f"{URL}/", model="m", engine="sglang", key_env="KEY", weights=WEIGHTS, kind=kind,
        question="Is there roadwork? Say it.",
    )  # fmt: skip
    settings = read_remote(folder / "1", {"KEY": "k"})
    assert (settings.url, settings.model, settings.engine, settings.key_env) == (URL, "m", "sglang", "KEY")
    prompt = load_prompt(folder / "prompt.json")
    assert prompt.kind == kind
    assert settings.frame is not None
    frame = settings.frame
    assert frame.before + frame.question + frame.after == prompt.text(None)
    assert prompt.text("2 cone").startswith(frame.before)
    assert set(settings.words) == {*prompt.yes, *prompt.no}
    near, far = (read_config(f / "config.pbtxt") for f in (default_repository() / "tiny_vlm_s", folder))
    assert far.backend == "openai"
    assert list(far.input) == list(near.input)
    assert list(far.output) == list(near.output)
    assert find_tiers(tmp_path, ["far"])["far"].state == "waiting"
    (folder / "1" / "remote.json").unlink()
    why = find_tiers(tmp_path, ["far"])["far"].reason
    assert why.endswith("remote.json is missing; make it with: roadwork-export tier far --remote URL --model ID")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "gpu-host:8100"}, "--remote is 'gpu-host:8100', must be an address"),
        ({"url": "http://:8100/v1"}, "must be an address"),
        ({"url": "http://me:secret@h/v1"}, "--remote holds a name or password"),
        ({"engine": "tgi"}, "--engine is 'tgi', must be one of vllm, sglang, lmdeploy, openai"),
        ({"weights": None}, "--weights names where the model's tokenizer and chat template are"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(TierError) as caught:
        write_remote("far", tmp_path, **{"url": URL, "model": "m", "weights": WEIGHTS, **changes})
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_tier_with_an_engine_of_its_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "near" / "1").mkdir(parents=True)
    (tmp_path / "near" / "1" / "model.json").write_text("{}")
    with pytest.raises(TierError, match="is a tier with an engine of its own here; choose another name"):
        write_remote("near", tmp_path, url=URL, model="m", weights=WEIGHTS)


def test_the_command_writes_it_and_refuses_half_of_its_options(tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    commands.add(parser.add_subparsers())
    there = ["tier", "far", "--repository", str(tmp_path), "--weights", WEIGHTS]
    arguments = parser.parse_args([*there, "--remote", URL, "--model", "m"])
    assert arguments.run(arguments) == 0
    assert json.loads((tmp_path / "far" / "1" / "remote.json").read_text())["engine"] == "vllm"
    for options, words in (
        (["--model", "m"], "belong to --remote URL, which is missing"),
        (["--remote", URL], "--model is missing: the model's name in the server"),
        (["--remote", URL, "--model", "m", "--copy"], "are for tiers that are served here"),
    ):
        arguments = parser.parse_args([*there, *options])
        with pytest.raises(TierError, match=words):
            arguments.run(arguments)
