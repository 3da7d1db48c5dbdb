"""`roadwork-deploy serve` as a person runs it, and the committed repository that it serves."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from roadwork_deploy.probe import probe, sample_image
from roadwork_deploy.server import EmbeddedServer

sys.path.append(str(Path(__file__).parent))
from watching import family, remaining

SERVE = [sys.executable, "-m", "roadwork_deploy.cli", "serve"]
FREE = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
GLANCE = ("canvas", "geometry", "scene_presence")


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen([*SERVE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_until(process: subprocess.Popen, word: str) -> str:
    """Output up to a line with the word; the test's own time limit bounds the wait."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if word in line:
            return text
    raise AssertionError(f"ended without {word!r}: {text}{process.stderr.read() if process.stderr else ''}")


def test_serve_prints_one_table_answers_and_leaves_nothing() -> None:
    process = start(*FREE)
    try:
        text = lines_until(process, "Ctrl-C")
        for name in (
            "decode",
            "glance",
            "perception",
            "everything",
            "roadwork",
            "scene",
            "sign_text",
            "yolox_nano",
            "centernet_nano",
        ):
            assert re.search(rf"│ {name} .*│ (yes|answers) +│", text), text
        url = re.search(r"gRPC (127\.0\.0\.1:\d+)", text)
        assert url is not None
        with grpc.InferenceServerClient(url[1]) as client:
            probe(client, "roadwork", 30)
        port = url[1].split(":")[1]
        second = subprocess.run([*SERVE, "--grpc-port", port], capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 2
        assert re.fullmatch(rf"roadwork-deploy: port {port} \(gRPC\) .*--grpc-port\n", second.stderr)
        members = family(process.pid)
        assert len(members) >= 12
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
        assert not remaining(members)
        assert not list(Path("/dev/shm").glob(f"roadwork_*_{process.pid}_*"))
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_is_broken_off_leaves_nothing(number: signal.Signals, wait_until: Callable) -> None:
    process = start(*FREE)
    try:
        wait_until(lambda: len(family(process.pid)) >= 3, 30, "tritonserver starts")
        members = family(process.pid)
        process.send_signal(number)
        assert process.wait(40) == 0
        assert not remaining(members)
        assert "Traceback" not in (process.stderr.read() if process.stderr else "")
    finally:
        process.kill()
        process.wait(10)


def test_a_server_that_dies_is_reported() -> None:
    process = start(*FREE)
    try:
        lines_until(process, "Ctrl-C")
        triton = next(
            pid for pid in family(process.pid) if Path(f"/proc/{pid}/comm").read_text().strip() == "tritonserver"
        )
        os.kill(triton, signal.SIGKILL)
        assert process.wait(40) == 1
        assert process.stderr is not None
        assert "tritonserver ended by itself" in process.stderr.read()
    finally:
        process.kill()
        process.wait(10)


def glance(server: EmbeddedServer, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        image = grpc.InferInput("image", [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[sample_image()]], dtype=object))
        wanted = [grpc.InferRequestedOutput(name) for name in outputs]
        result = client.infer("glance", [image], outputs=wanted, client_timeout=10)
        return {name: result.as_numpy(name) for name in outputs}


@pytest.mark.parametrize("outputs", [s for k in (1, 2, 3) for s in itertools.combinations(GLANCE, k)])
def test_no_choice_of_outputs_hangs_the_glance(server: EmbeddedServer, outputs: tuple[str, ...]) -> None:
    """Not even of one output, which Triton refuses where that output also feeds a step, as in other profiles."""
    began = time.monotonic()
    answer = glance(server, outputs)
    assert answer.keys() == set(outputs)
    assert all(array.shape[0] == 1 for array in answer.values())
    assert time.monotonic() - began < 5
    assert glance(server, GLANCE)["canvas"].shape == (1, 640, 640, 3)


def test_every_model_answers_a_real_inference(server: EmbeddedServer) -> None:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        for model in server.models:
            probe(client, model, 30)
