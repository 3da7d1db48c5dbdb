"""Florence-2 as a member of kind text on the real server: its signature, its errors, a verdict with it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from roadwork_cascade.policy import load_policy, parse_policy, write_policy
from roadwork_client import RoadworkClient
from roadwork_deploy.repository import default_repository
from roadwork_deploy.server import EmbeddedServer
from roadwork_export.family import Weights
from roadwork_export.florence2.making import make
from tritonclient.utils import InferenceServerException

NAME = "florence2_base"
MODELS = ("decode", "glance", "scene", "roadwork")
Infer = Callable[..., dict[str, np.ndarray]]


def add_policy(path: Path) -> None:
    """The committed one with Florence-2 instead of sign_text, no detectors and time for everything."""
    data = load_policy(path).to_dict()
    stages = []
    for stage in data["stages"]:
        if stage["name"] == "perception":
            continue
        if stage["name"] == "sign_text":
            stage["members"] = {NAME: {**stage["members"].pop("sign_text"), "nothing": 0.4}}
        stages.append({**stage, "accept": None, "reject": None, "when": None, "deadline_ms": 30_000.0})
    data |= {"stages": stages, "together": None, "routes": [], "tiers": [], "deadline_ms": 60_000.0, "fitted": None}
    write_policy(parse_policy(data), path)


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("florence") / "repository"
    for name in (*MODELS, "sign_text"):
        source = default_repository() / name
        shutil.copytree(source, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert make(NAME, repository, weights=Weights(seed=1), size="tiny").passed
    add_policy(repository / "roadwork" / "policy.yaml")
    with EmbeddedServer(repository, [*MODELS, NAME], probes=["roadwork"], drain=2) as server:
        yield server


def street() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((640, 360)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_it_answers_as_sign_text_does(florence: EmbeddedServer, infer: Infer) -> None:
    image = np.array([street()], np.object_)
    answer = infer(florence, NAME, image=image)
    assert answer["presence"].dtype == np.float32
    assert answer["presence"].tolist() == [0.0]  # random weights read nothing
    assert answer["words"].shape == (1,)
    assert json.loads(answer["words"][0]) == []
    with pytest.raises(InferenceServerException, match="INVALID_IMAGE: "):
        infer(florence, NAME, image=np.array([b"no image"], np.object_))
    assert infer(florence, NAME, image=image)["presence"].shape == (1,)


def test_a_policy_with_it_gives_a_verdict(florence: EmbeddedServer) -> None:
    with RoadworkClient(florence.grpc_url, deadline=60) as client:
        verdict = client.predict(street(), all_stages=True)
    assert verdict.status == "ok", verdict.missing
    answers = {answer.member: answer for answer in verdict.answers}
    assert answers[NAME].kind == "text"
    assert answers[NAME].raw == 0.0
    assert answers[NAME].probability == pytest.approx(0.4)
    assert verdict.versions.models[NAME] == "1"
