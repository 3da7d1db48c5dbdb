"""All networks in one process: the same answers as each by itself gives, and what happens when one fails."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper
from roadwork_deploy.errors import DeployError
from roadwork_deploy.repository import OUTPUTS, default_repository, members, read_models
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.wire import wire
from tritonclient.utils import InferenceServerException

SIDE = 640
MEMBERS = members(read_models(default_repository()))


def canvas(*values: int) -> np.ndarray:
    return np.stack([np.full((SIDE, SIDE, 3), value, np.uint8) for value in values])


def street(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    picture = cv2.resize(noise, (640, 360), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def images(*given: bytes) -> np.ndarray:
    return np.array([[image] for image in given], dtype=object)


def add_mean(repository: Any, name: str, most: int) -> None:
    """A scene model that says how bright the canvas is, and fails when its brightest value is over `most`."""
    repository.add_onnx(
        name,
        [
            helper.make_node("Cast", ["canvas"], ["light"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["light"], ["mean"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("ReduceMax", ["light"], ["max"], axes=[0, 1, 2, 3], keepdims=0),
            helper.make_node("Cast", ["max"], ["brightest"], to=TensorProto.INT64),
            helper.make_node("Gather", ["zeros", "brightest"], ["zero"], axis=0),
            helper.make_node("Add", ["mean", "zero"], ["sum"]),
            helper.make_node("Reshape", ["sum", "column"], ["presence"]),
        ],
        {"canvas": (TensorProto.UINT8, ["batch", SIDE, SIDE, 3])},
        {"presence": (TensorProto.FLOAT, ["batch", 1])},
        initializers=[
            helper.make_tensor("zeros", TensorProto.FLOAT, [most + 1], [0.0] * (most + 1)),
            helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1]),
        ],
        max_batch_size=8,
    )


@pytest.fixture(scope="module")
def small(module_repository: Any) -> Iterator[EmbeddedServer]:
    """`calm` takes any canvas, `nervous` fails on bright ones."""
    for name in ("decode", "networks"):
        shutil.copytree(
            default_repository() / name,
            module_repository.path / name,
            ignore=shutil.ignore_patterns("__pycache__", "configs"),
        )
    add_mean(module_repository, "calm", 255)
    add_mean(module_repository, "nervous", 200)
    wire(module_repository.path)
    with EmbeddedServer(module_repository.path, ["decode", "networks"], probes=["decode"]) as server:
        yield server


def test_they_answer_as_each_does_by_itself(server: EmbeddedServer, infer: Callable) -> None:
    image = images(street(1))
    decoded = infer(server, "decode", image=image)
    together = infer(server, "everything", image=image)
    np.testing.assert_array_equal(together.pop("canvas"), decoded["canvas"])
    np.testing.assert_array_equal(together.pop("geometry"), decoded["geometry"])
    for name, kind in MEMBERS.items():
        alone = infer(server, name, canvas=decoded["canvas"])
        for output in OUTPUTS[kind]:
            np.testing.assert_array_equal(together.pop(f"{name}_{output}"), alone[output], err_msg=f"{name} {output}")
    assert not together


def test_a_canvas_is_taken_as_well_and_in_batches(server: EmbeddedServer, infer: Callable) -> None:
    several = np.concatenate([infer(server, "decode", image=images(street(n)))["canvas"] for n in range(3)])
    found = infer(server, "perception", canvas=several)
    for name, kind in MEMBERS.items():
        if kind == "boxes":
            for row in range(3):
                alone = infer(server, name, canvas=several[row : row + 1])["scores"]
                np.testing.assert_allclose(found[f"{name}_scores"][row : row + 1], alone, atol=1e-5)


def test_many_at_a_time_get_each_their_own(small: EmbeddedServer, infer: Callable) -> None:
    def ask(value: int) -> float:
        outputs = ["calm_presence", "nervous_presence"] if value % 2 else ["calm_presence"]
        return float(infer(small, "networks", outputs=outputs, canvas=canvas(value))["calm_presence"][0, 0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(60))) == pytest.approx(list(range(60)), abs=0.5)


def test_one_that_fails_is_named_and_fails_nobody_else(small: EmbeddedServer, infer: Callable) -> None:
    both = ["calm_presence", "nervous_presence"]

    def ask(value: int) -> str:
        began = time.monotonic()
        try:
            return f"{infer(small, 'networks', outputs=both, canvas=canvas(value))['nervous_presence'][0, 0]:.0f}"
        except InferenceServerException as error:
            assert time.monotonic() - began >= 0.1  # told at once, it could end the server
            return str(error.message())

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(ask, [250 if n % 3 == 0 else n for n in range(24)]))
    for n, text in enumerate(told):
        assert text.startswith("nervous: ") if n % 3 == 0 else text == str(n)


def test_a_network_of_which_nothing_is_wanted_is_not_asked(small: EmbeddedServer, infer: Callable) -> None:
    found = infer(small, "networks", outputs=["calm_presence"], canvas=canvas(250, 10))  # nervous would fail
    assert found["calm_presence"].reshape(-1).tolist() == pytest.approx([250, 10], abs=0.5)
    only = infer(small, "networks", outputs=["canvas", "geometry"], image=images(street(2)))
    assert only["canvas"].shape == (1, SIDE, SIDE, 3)


def test_an_image_that_cannot_be_used_is_refused(small: EmbeddedServer, infer: Callable) -> None:
    with pytest.raises(InferenceServerException, match="INVALID_IMAGE") as refused:
        infer(small, "networks", image=images(b"no image"))
    assert "of 1" not in str(refused.value)
    with pytest.raises(InferenceServerException, match="INVALID_IMAGE: image 1 of 2: "):
        infer(small, "networks", image=images(street(1), street(2)[:300]))


def test_a_network_without_its_file_is_named_at_load(
    small: EmbeddedServer, module_repository: Any, tmp_path: Path
) -> None:
    root = tmp_path / "repository"
    shutil.copytree(module_repository.path, root)
    (root / "calm" / "1" / "model.onnx").unlink()
    with (
        pytest.raises(DeployError, match=r"calm/1/model.onnx is missing; build it with: roadwork-export build calm"),
        EmbeddedServer(root, ["decode", "networks"], probes=["decode"]),
    ):
        pass
