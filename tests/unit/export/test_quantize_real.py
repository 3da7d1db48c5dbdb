"""`roadwork-export quantize` from end to end: llmcompressor in its environment, tritonserver, vLLM, the tiny tier.

Some minutes, and 1.5 GB for the environment where it is not there yet: only with ROADWORK_QUANTIZE=1.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from roadwork_export.quantize.environment import cache, ready

TIER = Path(__file__).parents[3] / "model_repository" / "tiny_vlm_s"
SECONDS = 1500

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("ROADWORK_QUANTIZE") != "1",
        reason="takes minutes, and a second torch the first time; set ROADWORK_QUANTIZE=1",
    ),
    pytest.mark.timeout(SECONDS + 100),
]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    shutil.copytree(TIER, tmp_path / "repository" / "tiny_vlm_s")
    return tmp_path / "repository"


def quantize(repository: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "roadwork_export.cli", "quantize", "tiny_vlm_s", "--repository", str(repository)]
    command += ["--calibrate", "8", "--compare", "8", "--json", str(repository.parent / "figures.json"), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_tier_is_compressed_served_compared_and_put_beside_the_first(repository: Path) -> None:
    before = tree(repository)
    done = quantize(repository, "--scheme", "w8a8-int8")
    assert done.returncode == 0, done.stderr
    assert "served by the engine" in done.stdout
    assert ready(cache() / "environment")
    after = tree(repository)
    assert {name: data for name, data in after.items() if name in before} == before
    folder = repository / "tiny_vlm_s_w8a8-int8"
    settings = json.loads((folder / "1" / "weights" / "config.json").read_text())["quantization_config"]
    assert settings["quant_method"] == "compressed-tensors"
    run = json.loads((repository.parent / "figures.json").read_text())["runs"]["tiny_vlm_s w8a8-int8"]
    assert run["engine_refuses"] is None
    assert 0 < run["check"]["mean_difference"] <= 0.02  # 0 would be the same weights
    assert run["weights"]["layers_after"] < 0.52 * run["weights"]["layers_before"]


def test_a_comparison_that_fails_leaves_the_repository_as_it_was(repository: Path) -> None:
    before = tree(repository)
    done = quantize(repository, "--scheme", "fp8-dynamic", "--replace", "--limit", "0.000001")
    assert done.returncode == 1, done.stderr
    assert "is over the limit 1e-06; the repository is as it was" in done.stderr
    assert tree(repository) == before
    draft = cache() / "drafts" / "tiny_vlm_s"
    assert (draft / "weights" / "model.safetensors").is_file()
    shutil.rmtree(draft)


def test_a_tier_is_replaced(repository: Path) -> None:
    done = quantize(repository, "--scheme", "fp8-dynamic", "--replace")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in repository.iterdir()] == ["tiny_vlm_s"]
    record = json.loads((repository / "tiny_vlm_s" / "quantized.json").read_text())
    assert (record["scheme"], record["compared_by"]) == ("fp8-dynamic", "served by the engine")
    again = quantize(repository, "--scheme", "fp8-dynamic")
    assert again.returncode == 2
    assert "compressed already (compressed-tensors)" in again.stderr
