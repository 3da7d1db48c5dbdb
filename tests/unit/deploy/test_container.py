"""The container's files, held against repository, profile and tritonserver: no container engine has run them."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest
import tomllib
import yaml
from roadwork_client.cli import main as roadwork
from roadwork_deploy.embedded import assemble
from roadwork_deploy.profile import load_profile
from roadwork_deploy.repository import read_models, without_weights

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "container"
# What ONNX Runtime 1.22, the one of the image's release, reads at most.
IMAGE_OPSET, IMAGE_IR = 23, 10

SIZE, TIME = r"^\d+[kmg]b$", r"^(\d+(ms|s|m|h))+$"
TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
# The part of the Compose specification that the file uses; nothing else may be in it.
COMPOSE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["services"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["image", "build", "command", "volumes", "ports", "healthcheck", "shm_size"],
                "properties": {
                    "build": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["context", "dockerfile"],
                        "properties": {"context": {"type": "string"}, "dockerfile": {"type": "string"}},
                    },
                    "image": {"type": "string"},
                    "command": TEXTS,
                    "volumes": {**TEXTS, "items": {"type": "string", "pattern": r"^[^:]+:/[^:]+:ro$"}},
                    "ports": {**TEXTS, "items": {"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}},
                    "shm_size": {"type": "string", "pattern": SIZE},
                    "init": {"type": "boolean"},
                    "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
                    "stop_grace_period": {"type": "string", "pattern": TIME},
                    "healthcheck": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["test"],
                        "properties": {
                            "test": {"type": "array", "items": {"type": "string"}, "minItems": 2},
                            "retries": {"type": "integer", "minimum": 1},
                            **{k: {"type": "string", "pattern": TIME} for k in ("interval", "timeout", "start_period")},
                        },
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    data = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    assert isinstance(data, dict)
    return data


@pytest.fixture(scope="module")
def server(compose: dict[str, Any]) -> dict[str, Any]:
    return dict(compose["services"]["server"])


@pytest.fixture(scope="module")
def flags(server: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each flag of the command."""
    return [tuple(part.removeprefix("--").split("=", 1)) for part in server["command"][1:]]  # type: ignore[misc]


def test_compose_is_of_the_specification(compose: dict[str, Any]) -> None:
    jsonschema.validate(compose, COMPOSE)


def test_every_path_is_there(server: dict[str, Any]) -> None:
    context = (FOLDER / server["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / server["build"]["dockerfile"]).is_file()
    for volume in server["volumes"]:
        source, target, _ = volume.split(":")
        assert (FOLDER / source).resolve() == ROOT / "model_repository"
        assert f"--model-repository={target}" in server["command"]


def test_tritonserver_knows_every_flag(server: dict[str, Any], flags: list[tuple[str, str]]) -> None:
    embedded = assemble()
    text = subprocess.run(
        [embedded.binary, "--help"],
        env={**embedded.environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    known = set(re.findall(r"^ +--([a-z0-9-]+)", text.stdout + text.stderr, re.MULTILINE))
    assert server["command"][0] == "tritonserver"
    assert len(known) > 50
    assert {name for name, _ in flags} <= known


def test_the_models_are_those_of_the_profile(flags: list[tuple[str, str]]) -> None:
    profile = load_profile("cpu")
    assert ("model-control-mode", "explicit") in flags
    assert ("model-config-name", profile.config_name) in flags
    plan = profile.plan(read_models(ROOT / "model_repository"))
    assert [value for name, value in flags if name == "load-model"] == list(plan)
    settings = [value for name, value in flags if name == "backend-config"]
    assert f"python,shm-default-byte-size={profile.budget.instance_bytes}" in settings
    assert f"python,shm-growth-byte-size={profile.budget.growth_bytes}" in settings


def test_the_members_are_all_that_are_in_the_repository() -> None:
    folders = read_models(ROOT / "model_repository")
    # Tiers join by themselves, those that a user chose: their engine is not in this image. Nobody has brought the
    # weights of most other folders.
    have = {name for name, model in folders.items() if model.backend != "vllm"} - set(without_weights(folders))
    assert set(load_profile("cpu").plan(folders)) == have


def test_shared_memory_holds_every_instance(server: dict[str, Any]) -> None:
    profile = load_profile("cpu")
    number, unit = re.fullmatch(r"(\d+)([kmg])b", server["shm_size"]).groups()  # type: ignore[union-attr]
    size = int(number) * 1024 ** (" kmg".index(unit))
    instances = sum(share.instances or 1 for share in profile.models.values())
    assert size >= 2 * instances * profile.budget.instance_bytes


def test_ports_and_health_are_tritons(server: dict[str, Any]) -> None:
    assert [port.split(":")[2] for port in server["ports"]] == ["8000", "8001", "8002"]
    kind, program, *arguments = server["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "roadwork")
    assert arguments[0] == "health"
    assert arguments[arguments.index("--url") + 1].endswith(":8001")
    with pytest.raises(SystemExit) as left:
        roadwork(["health", "--help"])
    assert left.value.code == 0


def test_requirements_are_the_serve_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    have = {line for line in lines if line and not line.startswith("#")}
    left_out = ("roadwork[", "nvidia-pytriton", "rich")
    assert have == {wanted for wanted in extras["serve"] if not wanted.startswith(left_out)}


def test_the_dockerfile_copies_what_is_there_and_not_ignored() -> None:
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    kept = [line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [shlex.split(line)[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    assert copied
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists(), source
        assert any(source == entry or source.startswith(f"{entry}/") for entry in kept), source
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["where"]
    assert set(packages) <= {source for sources in copied for source in sources}
    assert re.search(r"^ARG TRITON=25\.\d\d-py3$", text, re.MULTILINE)
    assert "/models/roadwork/1" in text
    assert (ROOT / "model_repository" / "roadwork" / "1" / "roadwork_cascade").is_dir()


def test_the_onnx_files_are_of_versions_that_the_image_reads() -> None:
    files = list((ROOT / "model_repository").glob("*/[0-9]*/model.onnx"))
    assert files
    for path in files:
        model = onnx.load(path, load_external_data=False)
        assert model.ir_version <= IMAGE_IR, path
        assert all(entry.version <= IMAGE_OPSET for entry in model.opset_import if entry.domain in ("", "ai.onnx")), (
            path
        )


def test_no_model_folder_brings_a_backend_of_its_own() -> None:
    """In the image core finds the C++ backend first; a model folder with its own would be served by that instead."""
    assert not list((ROOT / "model_repository").glob("*/libtriton_*.so"))
