"""The client and its command against a real tritonserver."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from roadwork_client import (
    AsyncRoadworkClient,
    DeadlineExceeded,
    InvalidImage,
    InvalidOptions,
    ModelNotReady,
    ProtocolError,
    RoadworkClient,
    RoadworkError,
    ServerUnavailable,
    Verdict,
)
from roadwork_client.natix import Config, TritonDetector
from roadwork_deploy.server import EmbeddedServer

# Seconds for one request on a machine that others use too.
PATIENCE = 60.0
SLOW_VERDICT: dict[str, Any] = {
    "schema": 1,
    "probability": 0.25,
    "roadwork": False,
    "threshold": 0.5,
    "status": "ok",
    "decided_by": "glance",
    "image": {"width": 8, "height": 8},
    "milliseconds": 1.0,
    "tokens": {"input": 0, "output": 0},
    "cost": 0.0,
    "currency": "USD",
    "versions": {"policy": "none", "models": {}},
    **{name: [] for name in ("boxes", "words", "answers", "tiers", "missing", "stages")},
}


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def street() -> Image.Image:
    """A street as simple as can be, with a row of cones."""
    image = Image.new("RGB", (1280, 720), "#9db8d2")
    draw = ImageDraw.Draw(image)
    draw.polygon([(0, 720), (1280, 720), (760, 330), (520, 330)], fill="#5a5a5a")
    draw.polygon([(630, 720), (650, 720), (641, 330), (639, 330)], fill="#e8e8e8")
    for step in range(6):
        x, foot, size = 260 + 55 * step, 680 - 60 * step, 90 - 13 * step
        draw.polygon([(x - size // 3, foot), (x + size // 3, foot), (x, foot - size)], fill="#ff6a13")
        draw.line([(x - size // 6, foot - size // 2), (x + size // 6, foot - size // 2)], fill="white", width=size // 7)
    return image


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[RoadworkClient]:
    with RoadworkClient(server.grpc_url, deadline=PATIENCE) as made:
        yield made


def check(verdict: Verdict) -> None:
    assert 0.0 <= verdict.probability <= 1.0
    assert verdict.roadwork is (verdict.probability >= verdict.threshold)
    assert verdict.stages
    json.loads(verdict.to_json())


def test_verdict_on_a_drawn_image(client: RoadworkClient, street: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "street.png"
    street.save(path)
    for image in (street, np.asarray(street), path, str(path), encoded(street), encoded(street, "WEBP")):
        verdict = client.predict(image)
        check(verdict)
        assert verdict.image is not None
        assert (verdict.image.width, verdict.image.height) == street.size
    everything = client.predict(street, all_stages=True)
    assert {answer.stage for answer in everything.answers} | {absent.stage for absent in everything.missing} >= {
        "glance",
        "perception",
    }


def test_the_real_verdict_matches_schema_and_dataclass(client: RoadworkClient, street: Image.Image) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import roadwork_cascade

    schema = json.loads((Path(roadwork_cascade.__file__).parent / "verdict.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(client.predict(street, all_stages=True).to_dict())


def test_boxes_are_in_pixels_of_the_upright_original(client: RoadworkClient, street: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    street.save(buffer, "JPEG", exif=exif)
    verdict = client.predict(buffer.getvalue())
    assert verdict.image is not None
    assert (verdict.image.width, verdict.image.height) == (street.height, street.width)
    for box in verdict.boxes:
        assert -1 <= box.box[0] <= box.box[2] <= street.height + 1
        assert -1 <= box.box[1] <= box.box[3] <= street.width + 1


def bad_images(street: Image.Image) -> dict[str, bytes]:
    jpeg = encoded(street)
    return {
        "text": b"this is no image",
        "zeros": bytes(1000),
        "truncated": jpeg[: len(jpeg) // 3],
        "header only": jpeg[:20],
        "gif": encoded(street, "GIF"),
        "base64 of nothing": b"aGVsbG8=",
    }


@pytest.mark.parametrize("name", ["text", "zeros", "truncated", "header only", "gif", "base64 of nothing"])
def test_bad_images_are_the_callers_error(client: RoadworkClient, street: Image.Image, name: str) -> None:
    with pytest.raises(InvalidImage) as raised:
        client.predict(bad_images(street)[name])
    assert not raised.value.retryable
    assert "\n" not in str(raised.value)


def test_bad_options_are_the_callers_error(client: RoadworkClient, street: Image.Image) -> None:
    with pytest.raises(InvalidOptions):
        client.predict(street, deadline=0)
    from roadwork_client import wire

    deadline = wire.Deadline(PATIENCE)
    arguments = client._connection.infer_arguments(encoded(street), deadline, wire.Wishes())
    arguments["inputs"][1] = wire._text_input("options", b'{"deadline_ms": "soon"}')
    with pytest.raises(InvalidOptions, match="deadline_ms"):
        client._ask(PATIENCE, lambda **_: client._triton.infer(**arguments))


def test_a_model_that_is_not_served(server: EmbeddedServer, street: Image.Image) -> None:
    with RoadworkClient(server.grpc_url, model="absent") as client, pytest.raises(ModelNotReady) as raised:
        client.predict(street)
    assert "absent" in str(raised.value)
    with RoadworkClient(server.grpc_url, model="decode") as client, pytest.raises(ProtocolError):
        client.predict(street)


def test_a_port_that_speaks_something_else(server: EmbeddedServer, street: Image.Image) -> None:
    with RoadworkClient(server.http_url, deadline=5.0) as client, pytest.raises((ServerUnavailable, DeadlineExceeded)):
        client.predict(street)


def test_short_deadlines_end_in_time(client: RoadworkClient, street: Image.Image) -> None:
    data = encoded(street)
    for deadline in (0.001, 0.01, 0.05):
        start = time.monotonic()
        with contextlib.suppress(DeadlineExceeded):
            check(client.predict(data, deadline=deadline, all_stages=True))
        assert time.monotonic() - start < deadline + 0.5
    assert client.predict(data, deadline=PATIENCE)


def mixed(street: Image.Image, count: int) -> Iterator[bytes]:
    """Good images of three formats, and a bad one in five."""
    good = [encoded(street), encoded(street.resize((224, 224))), encoded(street.convert("L"), "PNG")]
    bad = list(bad_images(street).values())
    for number in range(count):
        yield bad[number % len(bad)] if number % 5 == 4 else good[number % len(good)]


def check_mixed(results: list[Any]) -> None:
    assert [result.index for result in results] == list(range(200))
    for result in results:
        if result.index % 5 == 4:
            assert isinstance(result.error, InvalidImage), result.error
        else:
            check(result.unwrap())


def test_200_mixed_requests_in_flight(client: RoadworkClient, street: Image.Image) -> None:
    check_mixed(list(client.predict_many(mixed(street, 200), in_flight=200, deadline=280)))


async def test_200_mixed_requests_in_flight_async(server: EmbeddedServer, street: Image.Image) -> None:
    async with AsyncRoadworkClient(server.grpc_url) as client:
        check_mixed([r async for r in client.predict_many(mixed(street, 200), in_flight=200, deadline=280)])


async def test_cancelled_requests_leave_a_working_server(server: EmbeddedServer, street: Image.Image) -> None:
    data = encoded(street)
    async with AsyncRoadworkClient(server.grpc_url, deadline=PATIENCE) as client:
        tasks = [asyncio.create_task(client.predict(data, all_stages=True)) for _ in range(30)]
        await asyncio.sleep(0.1)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if number % 2 == 0:
                assert isinstance(outcome, (asyncio.CancelledError, Verdict))
            else:
                assert isinstance(outcome, Verdict), outcome
        assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) >= 5
        check((await client.health()).verdict)


def test_health_and_metadata(client: RoadworkClient, server: EmbeddedServer) -> None:
    health = client.health(all_stages=True)
    check(health.verdict)
    info = client.metadata()
    assert (info.url, info.server, info.model, info.model_versions) == (server.grpc_url, "triton", "roadwork", ("1",))


def test_miners_detector(server: EmbeddedServer, street: Image.Image) -> None:
    detector = TritonDetector(config=Config(url=server.grpc_url, deadline=PATIENCE))
    score = detector(street.resize((224, 224)))
    assert math.isfinite(score)
    assert 0.0 <= score <= 1.0
    detector.close()


# Servers that go away: small ones of the test's own, with a stand-in for the cascade that takes its time.


@pytest.fixture
def slow(repository: Any) -> Iterator[EmbeddedServer]:
    """A server whose `roadwork` answers after 3 s."""
    signature = (
        "input [{ name: 'image' data_type: TYPE_STRING dims: [1] }, "
        "{ name: 'options' data_type: TYPE_STRING dims: [1] optional: true }] "
        "output [{ name: 'verdict' data_type: TYPE_STRING dims: [1] }]"
    )
    answer = {"verdict": json.dumps(SLOW_VERDICT)}
    repository.add_stand_in("roadwork", signature=signature, max_batch_size=0, DELAY=3.0, ANSWER=answer)
    with EmbeddedServer(repository.path, ["roadwork"], drain=8.0) as started:
        yield started


def ask_while(server: EmbeddedServer, happens: Any, deadline: float) -> Verdict | RoadworkError:
    """Send a request, let `happens` happen 0.7 s later, and return how the request ended."""
    outcome: list[Verdict | RoadworkError] = []

    def ask() -> None:
        with RoadworkClient(server.grpc_url) as client:
            try:
                outcome.append(client.predict(b"image", deadline=deadline))
            except RoadworkError as error:
                outcome.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.7)
    happens()
    thread.join(deadline + 10)
    assert outcome, "the request has not ended"
    return outcome[0]


def test_server_killed_in_mid_request(slow: EmbeddedServer) -> None:
    start = time.monotonic()
    error = ask_while(slow, slow.kill, 30)
    assert isinstance(error, ServerUnavailable), error
    assert error.retryable
    assert slow.grpc_url in str(error)
    assert time.monotonic() - start < 10  # not the deadline: the broken connection is noticed


def test_server_stopped_in_mid_request_answers_first(slow: EmbeddedServer) -> None:
    outcome = ask_while(slow, slow.close, 30)
    # Draining lets it finish; a server that hangs up instead must be a clear, retryable error.
    assert isinstance(outcome, Verdict) or (isinstance(outcome, ServerUnavailable) and outcome.retryable), outcome
    with RoadworkClient(slow.grpc_url) as client, pytest.raises(ServerUnavailable):
        client.predict(b"image", deadline=5)


def test_deadline_while_the_server_works(slow: EmbeddedServer) -> None:
    start = time.monotonic()
    with RoadworkClient(slow.grpc_url) as client, pytest.raises(DeadlineExceeded):
        client.predict(b"image", deadline=0.5)
    assert time.monotonic() - start < 2


# The command.


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "roadwork_client.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_command(server: EmbeddedServer, street: Image.Image, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    street.save(folder / "a.jpg")
    street.save(folder / "b.png")
    out = tmp_path / "out"
    done = run("predict", folder, "--url", server.grpc_url, "--json", "--overlay", out, "--deadline", "60")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["a.jpg", "b.png"]
    assert all({"probability", "roadwork", "status", "decided_by", "boxes", "words"} <= set(line) for line in lines)
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg", "b.png"]

    (folder / "c.jpg").write_bytes(b"no image")
    mixed_run = run("predict", folder, "--url", server.grpc_url, "--deadline", "60")
    assert mixed_run.returncode == 1
    assert "failed:" in mixed_run.stdout.splitlines()[2]

    assert run("health", "--url", server.grpc_url).returncode == 0
    shutil.rmtree(folder)
    assert run("predict", folder, "--url", server.grpc_url).returncode == 1


def test_command_without_server(tmp_path: Path, street: Image.Image) -> None:
    street.save(tmp_path / "a.jpg")
    for words in (("predict", tmp_path), ("health",)):
        absent = run(*words, "--url", "127.0.0.1:9")
        assert absent.returncode == 2
        assert "no server answers at 127.0.0.1:9" in absent.stderr
        assert absent.stdout == ""


def test_command_health_wants_a_real_answer(slow: EmbeddedServer) -> None:
    assert run("health", "--url", slow.grpc_url, "--deadline", "1").returncode == 1
