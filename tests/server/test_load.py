"""`roadwork-bench load` with the real perf_analyzer against the real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from roadwork_bench.cli import main
from roadwork_bench.errors import BenchError
from roadwork_bench.overhead import rendered_scenes
from roadwork_bench.perf.loader import fetch, loader_folder
from roadwork_bench.perf.program import find_program
from roadwork_deploy.server import EmbeddedServer

LOADS = ["--in-flight", "1,2", "--seconds", "1.5"]


@pytest.fixture(scope="module", autouse=True)
def perf_analyzer() -> None:
    """Found, or put together as a user would; a system on which neither is possible has nothing to test."""
    try:
        find_program()
    except BenchError:
        try:
            fetch(loader_folder())
        except BenchError as error:
            pytest.skip(f"perf_analyzer cannot run here: {error}")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(rendered_scenes(4)[1::2]):  # those without roadwork: the glance is enough
        (folder / f"{number}.jpg").write_bytes(image)
    return folder


def test_a_sweep_of_the_cascade_is_kept_and_gone_on_with(
    server: EmbeddedServer, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "load.json"
    sent = [
        "load",
        "roadwork",
        "--url",
        server.grpc_url,
        "--images",
        str(images),
        "--out",
        str(out),
        "--seconds",
        "1.5",
    ]
    sent += ["--options", '{"tiers": false}']
    assert main([*sent, "--in-flight", "1"]) == 0
    assert main([*sent, "--in-flight", "1,2", "--resume"]) == 0
    told = capsys.readouterr()
    assert "1 in flight: measured before" in told.err
    report = json.loads(out.read_text())
    assert [point["value"] for point in report["points"]] == [1, 2]
    for point in report["points"]:
        assert point["failed"] == 0
        assert sum(point["statuses"].values()) == point["requests"] > 0
        ms = point["milliseconds"]
        assert 0 < ms["p50"] <= ms["p90"] <= ms["p95"] <= ms["p99"]
        assert {"roadwork", "glance", "networks"} <= point["models"].keys()  # through BLS and an ensemble
        assert point["models"]["networks"]["compute_infer_ms"] > 0
    assert "networks" in told.out


@pytest.mark.parametrize(
    ("model", "load"), [("roadwork_stream", ["--rate", "12"]), ("perception", ["--in-flight", "2"])]
)
def test_streams_and_canvases_are_driven_too(
    server: EmbeddedServer, images: Path, tmp_path: Path, model: str, load: list[str]
) -> None:
    out = tmp_path / "load.json"
    sent = ["load", model, "--url", server.grpc_url, "--images", str(images), "--out", str(out), "--seconds", "3"]
    assert main([*sent, *load]) == 0
    report = json.loads(out.read_text())
    (point,) = report["points"]
    assert point["quantiles_of"] == "every request"
    if model == "roadwork_stream":
        assert point["first_milliseconds"]["p50"] <= point["milliseconds"]["p50"]
        assert point["answers_a_request"] > 1
    else:
        assert report["settings"]["tensors"] == "system shared memory"


def test_failed_requests_are_counted_and_told(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    assert main(["load", "decode", "--url", server.grpc_url, "--images", str(folder), *LOADS]) == 1
    assert "FAILED at 1 in flight" in capsys.readouterr().out


def test_what_cannot_be_asked_is_one_line(
    server: EmbeddedServer, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = ["--images", str(images), *LOADS]
    assert main(["load", "perceptoin", "--url", server.grpc_url, *sent]) == 2
    assert "does not serve model 'perceptoin'; did you mean 'perception'" in capsys.readouterr().err
    assert main(["load", "roadwork", "--url", "127.0.0.1:9", *sent]) == 2
    assert "no Triton server answers at 127.0.0.1:9" in capsys.readouterr().err
    assert main(["load", "roadwork", "--url", server.grpc_url, "--images", str(tmp_path), *LOADS]) == 2
    assert "no .jpeg, .jpg, .png, .webp files" in capsys.readouterr().err


SEER = (
    "input [{ name: 'image' data_type: TYPE_STRING dims: [1] }] output [{ name: 'y' data_type: TYPE_FP32 dims: [4] }]"
)


def test_a_server_that_goes_away_leaves_what_was_measured(
    repository: Any, tmp_path: Path, wait_until: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    repository.add_stand_in("seer", signature=SEER, max_batch_size=0, DELAY=0.01)
    folder, out = tmp_path / "images", tmp_path / "load.json"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"any bytes")
    with EmbeddedServer(repository.path, ["seer"], probes=[]) as server:

        def end() -> None:
            wait_until(out.exists, 60, "the first point is kept")
            server.kill()

        killer = threading.Thread(target=end)
        killer.start()
        try:
            sent = ["load", "seer", "--url", server.grpc_url, "--images", str(folder), "--out", str(out)]
            assert main([*sent, "--seconds", "3", "--in-flight", "1,2,4"]) == 2
        finally:
            killer.join(70)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("roadwork-bench load: ")
    assert "the server does not answer" in told
    assert f"points are kept in {out}; --resume goes on" in told
    assert json.loads(out.read_text())["points"][0]["value"] == 1
