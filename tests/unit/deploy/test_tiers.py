"""What can be said of a tier before anything is started, and how a failed load is told."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from roadwork_deploy import install_vllm, tiers
from roadwork_deploy.install_vllm import SHIM_NAME, install_shim, missing
from roadwork_deploy.logs import load_error
from roadwork_deploy.probe import ProbeError, probe_tier


def make(repository: Path, name: str, model: str, backend: str = "vllm", weights: bool = False) -> Path:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(f'backend: "{backend}"')
    (repository / name / "1" / "model.json").write_text(json.dumps({"model": model}))
    if weights:
        (repository / model).mkdir()
        (repository / model / "model.safetensors").touch()
    return repository / name


def test_what_is_missing_is_named_and_nothing_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers.importlib.util, "find_spec", lambda _: object())
    make(tmp_path, "good", "good/1/weights", weights=True)
    make(tmp_path, "hub", "nobody/has-this")
    make(tmp_path, "bare", "bare/1/weights")
    make(tmp_path, "other", "x", backend="python")
    (make(tmp_path, "broken", "x") / "1" / "model.json").write_text("{")
    (make(tmp_path, "odd", "x") / "config.pbtxt").write_text("?")
    found = tiers.find_tiers(tmp_path, ["good", "hub", "bare", "other", "broken", "odd", "nowhere"])
    assert found["good"].state == "waiting"
    assert {name for name, tier in found.items() if tier.state == "absent"} == set(found) - {"good"}
    assert found["bare"].reason.endswith("bare/1/weights is missing; make it with: roadwork-export tier bare")
    assert found["hub"].reason.endswith("; make it with: roadwork-export tier hub --weights nobody/has-this")
    assert "backend is 'python', a tier's is 'vllm'" in found["other"].reason
    assert "model.json is missing or is not a JSON object" in found["broken"].reason
    assert str(found["nowhere"]).startswith("tier nowhere is left out: ")
    assert all("\n" not in tier.reason for tier in found.values())


def test_a_tier_without_a_prompt_is_not_started_for_a_cascade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers.importlib.util, "find_spec", lambda _: object())
    folder = make(tmp_path, "good", "good/1/weights", weights=True)
    found = tiers.find_tiers(tmp_path, ["good"], prompts=True)["good"]
    assert found.reason == f"{folder / 'prompt.json'} is missing; make it with: roadwork-export tier good"
    (folder / "prompt.json").write_text("{}")
    assert tiers.find_tiers(tmp_path, ["good"], prompts=True)["good"].state == "waiting"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"prompt": "?"}', '{"prompt": 1, "sampling": {}}'])
def test_a_prompt_that_cannot_be_used_is_a_tiers_failure(tmp_path: Path, text: str) -> None:
    (tmp_path / "prompt.json").write_text(text)
    with pytest.raises(ProbeError, match=r"prompt\.json cannot be used: \w+Error"):
        probe_tier(None, "tier", 1.0, tmp_path / "prompt.json")


def test_without_vllm_its_installation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers.importlib.util, "find_spec", lambda _: None)
    make(tmp_path, "good", "good/1/weights", weights=True)
    reason = tiers.find_tiers(tmp_path, ["good"])["good"].reason
    assert reason == "vLLM is not installed; run: python -m roadwork_deploy.install_vllm"


def test_a_failed_load_becomes_one_line() -> None:
    message = (
        "load failed for model 'tier': version 1 is at UNAVAILABLE state: Internal: TritonModelException: tier: the "
        "engine does not start\n\nAt:\n  /x/model.py(68): initialize\n;\n"
    )
    assert load_error(message) == "tier: the engine does not start"
    assert load_error("failed to load 'tier', failed to poll from model repository") == (
        "failed to load 'tier', failed to poll from model repository"
    )


def test_an_installation_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **settings: float) -> None:
        raise subprocess.TimeoutExpired("python", settings["timeout"])

    monkeypatch.setattr(install_vllm.subprocess, "run", hang)
    with pytest.raises(install_vllm.InstallError, match="cannot be imported within 300 s"):
        install_vllm.try_out()
    with pytest.raises(install_vllm.InstallError, match="pip has not installed vLLM within 3600 s"):
        install_vllm._pip("2 of 2: vLLM", "vllm")


def test_other_versions_are_missing_and_local_builds_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.13.0+cpu", "numpy": "2.0.0"}
    monkeypatch.setattr("roadwork_deploy.install_vllm.metadata.version", versions.__getitem__)
    requirements = tmp_path / "needs.txt"
    requirements.write_text("# words\nnumpy==1.26.4\ntorch==2.13.0\nopenai>=2\n")
    assert missing(requirements) == ["numpy"]


def test_the_shim_is_copied_where_every_interpreter_finds_it(tmp_path: Path) -> None:
    install_shim(tmp_path)
    install_shim(tmp_path)
    assert (tmp_path / f"{SHIM_NAME}.pth").read_text() == f"import {SHIM_NAME}\n"
    assert "find_spec" in (tmp_path / f"{SHIM_NAME}.py").read_text()
