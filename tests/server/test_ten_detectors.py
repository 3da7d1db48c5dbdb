"""Ten detectors of seven families as one `perception`, with random weights: slow on a CPU, and all of them answer."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if any(importlib.util.find_spec(package) is None for package in ("torch", "transformers", "ultralytics", "rfdetr")):
    pytest.skip("the extra detectors is not installed", allow_module_level=True)

from roadwork_cascade.policy import load_policy, parse_policy, write_policy
from roadwork_client import RoadworkClient
from roadwork_deploy.repository import default_repository
from roadwork_deploy.serve import prepare
from roadwork_deploy.server import EmbeddedServer
from roadwork_export.scenes import render_scene

pytestmark = pytest.mark.timeout(900)
OWN = ("yolox_nano", "centernet_nano")
EXPORTED = ("yolo11n", "yolo12n", "yolo26n", "rfdetr_nano", "dfine_n", "rtdetr_v2_r18")
AGAIN = ("yolo11n", "dfine_n")  # each served a second time under another name, as another user's weights would be
SECONDS = 60.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, exported: Callable[[str], tuple[Path, Any]]) -> Path:
    """The committed repository with eight folders more, wired; stages wait as long as two cores need."""
    target = tmp_path_factory.mktemp("ten") / "model_repository"
    shutil.copytree(default_repository(), target, ignore=shutil.ignore_patterns("__pycache__", "tiny_*"))
    for name in EXPORTED:
        shutil.copytree(exported(name)[0], target / name, dirs_exist_ok=True)
    for name in AGAIN:
        again = target / f"{name}_again"
        shutil.copytree(exported(name)[0], again)
        text = (again / "config.pbtxt").read_text()
        (again / "config.pbtxt").write_text(text.replace(f'name: "{name}"', f'name: "{name}_again"', 1))
    command = [sys.executable, "-m", "roadwork_deploy.cli", "wire", "--model-repository", str(target)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    path = target / "roadwork" / "policy.yaml"
    data = load_policy(path).to_dict()
    data["deadline_ms"] = SECONDS * 1000
    for stage in data["stages"]:
        stage["deadline_ms"] = SECONDS * 1000
    write_policy(parse_policy(data), path)
    return target


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[EmbeddedServer]:
    with prepare(repository, "cpu", startup_timeout=300).server as server:
        yield server


def test_all_ten_answer_within_the_cascade(served: EmbeddedServer) -> None:
    image = render_scene(9_300_000, roadwork=True, width=960, height=600).image
    with RoadworkClient(served.grpc_url, deadline=SECONDS) as client:
        verdict = client.predict(image, all_stages=True, tiers=False)
    assert verdict.status == "ok", verdict.missing
    detectors = {answer.member for answer in verdict.answers if answer.stage == "perception"}
    assert detectors == {*OWN, *EXPORTED, *(f"{name}_again" for name in AGAIN)}
    assert len(detectors) == 10
    assert 0 <= verdict.probability <= 1


def test_the_same_network_under_two_names_says_the_same(served: EmbeddedServer) -> None:
    image = render_scene(9_300_001, roadwork=True, width=960, height=600).image
    with RoadworkClient(served.grpc_url, deadline=SECONDS) as client:
        answers = {a.member: a.raw for a in client.predict(image, all_stages=True, tiers=False).answers}
    for name in AGAIN:
        assert answers[f"{name}_again"] == pytest.approx(answers[name], abs=1e-3)
