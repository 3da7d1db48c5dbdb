"""Folders whose weights nobody has brought: no part of what is served, and told with the command that brings them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from roadwork_deploy.cli import main
from roadwork_deploy.errors import RepositoryError
from roadwork_deploy.hub_cache import in_cache
from roadwork_deploy.profile import FOLDER, Profile, read_profile
from roadwork_deploy.repository import members, read_models, without_weights
from roadwork_deploy.serve import prepare
from roadwork_deploy.weights import lack
from roadwork_deploy.wire import pending, wire

TIER = 'backend: "vllm" model_transaction_policy { decoupled: true }'
FROM_CATALOGUE = 'parameters { key: "source" value: { string_value: "x" } }'


def add_bare(repository: Path, name: str, config: str, files: dict[str, Any] | None = None) -> Path:
    """A folder without weights; `files`: name -> what is in it as JSON."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    for file, content in (files or {}).items():
        (folder / file).write_text(json.dumps(content))
    return folder


@pytest.fixture
def bare(repository: Path) -> Path:
    """A wired repository, and four folders that lack their weights."""
    detector, scene = ((repository / name / "config.pbtxt").read_text() for name in ("first", "sight"))
    add_bare(repository, "yolo11x", detector + FROM_CATALOGUE)
    add_bare(repository, "bright", scene)
    add_bare(repository, "far", TIER, {"1/model.json": {"model": "nobody/has-this"}, "prompt.json": {}})
    add_bare(repository, "own", TIER, {"1/model.json": {"model": "own/1/weights"}, "prompt.json": {}})
    wire(repository)
    return repository


def profile(tmp_path: Path, **changes: Any) -> Profile:
    data = yaml.safe_load((FOLDER / "cpu.yaml").read_text())
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**data, **changes}))
    return read_profile(tmp_path / "own.yaml")


def test_they_are_neither_wired_nor_served_nor_refused(bare: Path) -> None:
    assert set(members(read_models(bare))) == {"first", "second", "sight"}
    assert pending(bare) == []
    assert not (bare / "yolo11x" / "configs").exists()
    served = prepare(bare)
    assert not {"yolo11x", "bright", "far", "own"} & set(served.server.models)
    assert (
        served.without_weights
        == without_weights(read_models(bare))
        == {
            "bright": "roadwork-export build bright",
            "far": "roadwork-export tier far --weights nobody/has-this",
            "own": "roadwork-export tier own",
            "yolo11x": "roadwork-export onnx yolo11x",
        }
    )


def test_a_profile_that_names_one_is_refused(bare: Path, tmp_path: Path) -> None:
    named = profile(tmp_path, models={**{n: {} for n in ("roadwork", "glance", "perception")}, "yolo11x": {}},
                    entries=["roadwork"])  # fmt: skip
    for change in pending(bare, [named]):
        change.write()
    with pytest.raises(RepositoryError, match=r"yolo11x/1/model.onnx is missing; build it with: roadwork-export onnx"):
        prepare(bare, named)


def test_a_tier_that_a_profile_names_is_left_out_with_the_reason(bare: Path, tmp_path: Path) -> None:
    tiers = prepare(bare, profile(tmp_path, tiers=["far", "own"])).server.tiers
    assert {tier.state for tier in tiers.values()} == {"absent"}
    assert tiers["far"].reason == (
        "nobody/has-this is not in this machine's Hugging Face cache, or not all of it; make it with: "
        "roadwork-export tier far --weights nobody/has-this"
    )


def test_one_that_is_brought_has_to_be_wired_and_one_that_goes_is_told(bare: Path) -> None:
    (bare / "yolo11x" / "1" / "model.onnx").touch()
    with pytest.raises(RepositoryError, match="run: roadwork-deploy wire"):
        prepare(bare)
    wire(bare)
    assert "yolo11x" in prepare(bare).server.models
    (bare / "yolo11x" / "1" / "model.onnx").unlink()
    with pytest.raises(RepositoryError, match=r"model.onnx is missing; .*\(or leave it out of perception with: roadw"):
        prepare(bare)
    wire(bare)
    assert "yolo11x" not in prepare(bare).server.models


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({}, "1/model.json is missing or is not a JSON object that names a model"),
        ({"1/model.json": {}}, "1/model.json is missing or is not a JSON object that names a model"),
        ({"1/model.json": {"model": "tier/1/nothing"}}, "tier/1/nothing is missing"),
        ({"1/model.json": {"model": "/nowhere/at/all"}}, "/nowhere/at/all is missing"),
        ({"1/model.json": {"model": "first/1"}}, "first/1 has no weights, or not all of them"),
        ({"1/model.json": {"model": "first/1", "load_format": "dummy"}}, "prompt.json is missing"),
    ],
)
def test_what_a_tier_lacks_is_named(repository: Path, files: dict[str, Any], missing: str) -> None:
    add_bare(repository, "tier", TIER, files)
    found = lack(read_models(repository)["tier"])
    assert found is not None
    assert found.what.endswith(missing)
    assert found.command.startswith("roadwork-export tier tier")


def test_the_cache_of_the_hub_is_asked_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--some--model"
    snapshot = folder / "snapshots" / "abc"
    assert not in_cache("some/model")
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    assert in_cache("some/model", weights=False)
    assert not in_cache("some/model")
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (snapshot / shards["a"]).touch()
    assert not in_cache("some/model")  # a download that was broken off
    (snapshot / shards["b"]).touch()
    assert in_cache("some/model")
    assert in_cache("some/model", "main")
    assert not in_cache("some/model", "other")
    assert not in_cache("not a/hub id")


def test_the_list_says_what_each_is_and_what_brings_it(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json", "--model-repository", str(bare)]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["perception"]["kind"], rows["perception"]["ready"]) == ("ensemble", True)
    assert (rows["far"]["kind"], rows["far"]["ready"]) == ("tier", False)
    found = rows["yolo11x"]  # of the catalogue: its terms and its own command
    assert found["licence"] == "AGPL-3.0"
    assert found["command"].endswith("--accept-licence AGPL-3.0")
    assert found["missing"] == "yolo11x/1/model.onnx is missing"
    assert found["terms"] == "what is served with it comes under its terms"
    assert main(["models", "--model-repository", str(bare)]) == 0
    text = capsys.readouterr().out
    assert "without weights (4)" in text
    assert "bright: scene model\n    roadwork-export build bright\n" in text
