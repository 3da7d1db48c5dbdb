"""The miner's detector: always a number in [0, 1], in time, and loud about trouble."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import math
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from roadwork_client.natix import Config, ConfigError, TritonDetector, to_score
from triton_double import VERDICT, TritonDouble


@pytest.fixture
def detector(triton: TritonDouble) -> Iterator[TritonDetector]:
    made = TritonDetector(config=Config(url=triton.url, deadline=2.0, fallback=0.25))
    yield made
    made.close()


def answering(triton: TritonDouble, probability: float, threshold: float) -> None:
    triton.behaviour = lambda ask: {
        **VERDICT,
        "probability": probability,
        "threshold": threshold,
        "roadwork": probability >= threshold,
    }


@pytest.mark.parametrize("threshold", [0.0, 1e-300, 0.01, 0.3, 0.5, 0.9, 1 - 1e-16, 1.0])
def test_the_threshold_becomes_one_half(threshold: float) -> None:
    grid = sorted(
        {*(i / 1000 for i in range(1001)), threshold, math.nextafter(threshold, 0), math.nextafter(threshold, 1)}
    )
    probabilities = [p for p in grid if 0 <= p <= 1]
    scores = [to_score(p, threshold) for p in probabilities]
    assert scores == sorted(scores)
    assert all(0 <= score <= 1 for score in scores)
    for probability, score in zip(probabilities, scores, strict=True):
        # As a validator sees it: over 0.5, in single precision too.
        assert (np.float32(score) > 0.5) == (score > 0.5) == (probability >= threshold)
    assert to_score(1.0, threshold) == 1.0
    assert to_score(0.0, threshold) == 0.0 or threshold == 0.0


def test_scores(detector: TritonDetector, triton: TritonDouble, photo: Image.Image) -> None:
    answering(triton, 0.8, 0.6)
    assert detector(photo) == pytest.approx(0.75)
    answering(triton, 0.3, 0.6)
    assert detector(photo) == pytest.approx(0.25)
    assert isinstance(detector(photo), float)


def test_a_threshold_of_its_own(triton: TritonDouble, photo: Image.Image) -> None:
    answering(triton, 0.8, 0.6)
    detector = TritonDetector(config=Config(url=triton.url, threshold=0.9))
    assert detector(photo) < 0.5


@pytest.mark.parametrize(
    "trouble",
    [
        lambda ask: ask.fail(grpc.StatusCode.INTERNAL, "INVALID_IMAGE: no"),
        lambda ask: ask.fail(grpc.StatusCode.UNAVAILABLE, "gone"),
        lambda ask: "no json",
        lambda ask: {**VERDICT, "probability": 7},
        lambda ask: {**VERDICT, "probability": None},
        lambda ask: {**VERDICT, "probability": math.nan},
        lambda ask: ask.wait(60) and None,
    ],
)
def test_trouble_is_answered_and_logged(
    triton: TritonDouble, photo: Image.Image, trouble: Any, caplog: pytest.LogCaptureFixture
) -> None:
    detector = TritonDetector(config=Config(url=triton.url, deadline=0.7, fallback=0.25))
    triton.behaviour = trouble
    start = time.monotonic()
    assert detector(photo) == 0.25
    assert time.monotonic() - start < 1.2
    assert any(record.levelno >= logging.ERROR and "NO VERDICT" in record.message for record in caplog.records)
    detector.close()
    assert detector(photo) == 0.25  # even when it is closed


def test_no_server_at_start_and_then_one(photo: Image.Image, caplog: pytest.LogCaptureFixture) -> None:
    with TritonDouble() as gone:
        pass
    detector = TritonDetector(config=Config(url=gone.url, deadline=1.0, fallback=0.0))
    assert "DOES NOT ANSWER" in caplog.text
    assert detector(photo) == 0.0


def test_images_that_are_none(detector: TritonDetector, triton: TritonDouble, jpeg: bytes) -> None:
    truncated = Image.open(io.BytesIO(jpeg[: len(jpeg) // 2]))
    for image in (truncated, None, "absent.jpg", b"", Image.new("F", (2, 2))):
        assert detector(image) == 0.25  # type: ignore[arg-type]
    assert len(triton.asked) == 1  # the health check at start


async def test_in_a_running_event_loop(detector: TritonDetector, photo: Image.Image) -> None:
    assert detector(photo) == pytest.approx(0.93)
    assert await detector.score_async(photo) == pytest.approx(0.93)


async def test_the_loop_stays_free_meanwhile(
    detector: TritonDetector, triton: TritonDouble, photo: Image.Image
) -> None:
    triton.behaviour = lambda ask: ask.wait(0.5) and None
    task = asyncio.create_task(detector.score_async(photo))
    ticks = 0
    while not task.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 20


async def test_forward_image_sends_the_original(detector: TritonDetector, triton: TritonDouble, jpeg: bytes) -> None:
    synapse = SimpleNamespace(image=base64.b64encode(jpeg).decode(), prediction=-1.0)
    assert await detector.forward_image(synapse) is synapse
    assert synapse.prediction == pytest.approx(0.93)
    assert triton.asked[-1].image == jpeg
    for image in ("%%%", "", None):
        broken = SimpleNamespace(image=image, prediction=-1.0)
        assert (await detector.forward_image(broken)).prediction == 0.25


def test_many_threads(detector: TritonDetector, photo: Image.Image) -> None:
    scores: list[float] = []
    threads = [threading.Thread(target=lambda: scores.append(detector(photo))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert scores == pytest.approx([0.93] * 20)


def test_yaml_needs_pyyaml_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "triton.yaml").touch()
    with pytest.raises(ImportError, match="pip install pyyaml"):
        TritonDetector(config_name=str(tmp_path / "triton.yaml"))


def test_configuration_from_yaml(tmp_path: Path, triton: TritonDouble) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "triton.yaml"
    path.write_text(f"url: {triton.url}\ndeadline: 3\nfallback: 0\nthreshold: 0.4\nheaders: {{x-key: a}}\n")
    detector = TritonDetector(config_name=str(path), device="cuda")
    assert detector.config == Config(url=triton.url, deadline=3, fallback=0.0, threshold=0.4, headers={"x-key": "a"})
    path.write_text("")
    assert Config.from_yaml(path) == Config()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fallback: 2", r"fallback: must be a number in \[0, 1\], not 2"),
        ("fallback: null", "fallback"),
        ("fallback: .nan", "fallback"),
        ("threshold: yes", "threshold"),
        ("deadline: 0", "deadline"),
        ("deadline: soon", "deadline"),
        ("urls: a:1", "urls: no such setting"),
        ("all_stages: 1", "all_stages"),
        ("headers: [1]", "headers"),
        ("tls: {roots: a}", "tls"),
        ("tls: {private_key: a}", "tls: mutual"),
        ("url: nowhere", "HOST:PORT"),
        ("tls: {root_certificates: absent.pem}", "absent.pem"),
        ("[1, 2]", "mapping"),
        ("a: [", "triton.yaml"),
    ],
)
def test_configurations_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    pytest.importorskip("yaml")
    path = tmp_path / "triton.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        TritonDetector(config_name=str(path))
    with pytest.raises(ConfigError, match="no such file"):
        TritonDetector(config_name="absent.yaml")


REGISTRY = """
class Registry:
    def __init__(self): self.data = {}
    def register_module(self, module_name=None):
        def register(cls):
            self.data[module_name or cls.__name__] = cls
            return cls
        return register
    def __getitem__(self, key): return self.data[key]
DETECTOR_REGISTRY = Registry()
"""
FEATURE_DETECTOR = """
from abc import ABC, abstractmethod
class FeatureDetector(ABC):
    def __init__(self, *args, **kwargs): raise AssertionError("would download weights")
    @abstractmethod
    def load_model(self): ...
    @abstractmethod
    def __call__(self, image): ...
"""


@pytest.mark.parametrize("tree", ["natix/miner", "base_miner"])
@pytest.mark.parametrize("inside", [False, True], ids=["imported by hand", "imported by the miner's package"])
def test_registers_with_the_miner(tmp_path: Path, triton: TritonDouble, tree: str, inside: bool) -> None:
    pytest.importorskip("yaml")
    detectors = tmp_path / tree / "detectors"
    (detectors / "configs").mkdir(parents=True)
    for folder in (detectors.parent.parent, detectors.parent):
        if folder != tmp_path:
            (folder / "__init__.py").touch()
    (detectors.parent / "registry.py").write_text(REGISTRY)
    (detectors / "feature_detector.py").write_text(FEATURE_DETECTOR)
    line = "import roadwork_client.natix\n" if inside else ""
    (detectors / "__init__.py").write_text(f"from .feature_detector import FeatureDetector\n{line}")
    (detectors / "configs" / "triton.yaml").write_text(f"url: {triton.url}\n")
    package = tree.replace("/", ".")
    script = f"""
        {"" if inside else "import roadwork_client.natix"}
        import {package}.detectors
        from {package}.registry import DETECTOR_REGISTRY
        from PIL import Image
        detector = DETECTOR_REGISTRY["TRITON"](config_name="triton.yaml", device="cpu")
        assert isinstance(detector, {package}.detectors.FeatureDetector)
        print(detector(Image.new("RGB", (224, 224))))
        detector.close()
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == pytest.approx(0.93)


def test_a_broken_miner_package_is_logged(tmp_path: Path) -> None:
    package = tmp_path / "base_miner"
    package.mkdir()
    (package / "__init__.py").write_text("import torch_that_is_not_here\n")
    run = subprocess.run(
        [sys.executable, "-c", "import roadwork_client.natix"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0
    assert "torch_that_is_not_here" in run.stderr
