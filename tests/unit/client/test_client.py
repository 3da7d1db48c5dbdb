"""One request, over both clients: what goes out, what comes back, deadlines, cancelling, closing."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from typing import Any

import grpc
import pytest
from roadwork_client import (
    TLS,
    AsyncRoadworkClient,
    Cancelled,
    ClientClosed,
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
from roadwork_client.wire import SERVICE_CONFIG, server_share
from triton_double import VERDICT, Ask, TritonDouble


def ask_sync(url: str, image: Any, client: dict[str, Any], call: dict[str, Any]) -> Verdict:
    with RoadworkClient(url, **client) as roadwork:
        return roadwork.predict(image, **call)


def ask_async(url: str, image: Any, client: dict[str, Any], call: dict[str, Any]) -> Verdict:
    async def ask() -> Verdict:
        async with AsyncRoadworkClient(url, **client) as roadwork:
            return await roadwork.predict(image, **call)

    return asyncio.run(ask())


both = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])


@both
def test_request_and_verdict(ask: Any, triton: TritonDouble, jpeg: bytes) -> None:
    verdict = ask(triton.url, jpeg, {"headers": {"X-Key": "secret"}}, {"deadline": 4.0, "all_stages": True})
    assert verdict == Verdict.from_dict(VERDICT)
    (seen,) = triton.asked
    assert (seen.model, seen.outputs, seen.image) == ("roadwork", ["verdict"], jpeg)
    assert seen.options["all_stages"] is True
    assert 3000 < seen.options["deadline_ms"] < 4000 * 0.95
    assert 3.0 < seen.seconds_left <= 4.1
    assert seen.metadata["x-key"] == "secret"


@both
def test_the_policy_decides_on_stages_unless_told(ask: Any, triton: TritonDouble, jpeg: bytes) -> None:
    ask(triton.url, jpeg, {"model": "other", "deadline": 2.0}, {})
    (seen,) = triton.asked
    assert seen.model == "other"
    assert list(seen.options) == ["deadline_ms"]
    assert seen.seconds_left <= 2.1


@both
@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (grpc.StatusCode.INTERNAL, "INVALID_IMAGE: no", InvalidImage),
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_OPTIONS: no", InvalidOptions),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'roadwork' is not found", ModelNotReady),
    ],
)
def test_errors_are_translated(ask: Any, triton: TritonDouble, code: Any, text: str, kind: type[Exception]) -> None:
    triton.behaviour = lambda seen: seen.fail(code, text)
    with pytest.raises(kind):
        ask(triton.url, b"image", {}, {})
    assert len(triton.asked) == 1


@both
def test_late_answers_end_at_the_deadline(ask: Any, triton: TritonDouble) -> None:
    triton.behaviour = lambda seen: seen.wait(10) and None
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded) as raised:
        ask(triton.url, b"image", {}, {"deadline": 0.3})
    assert time.monotonic() - start < 2
    assert raised.value.retryable
    assert triton.cancelled.wait(5)


@both
@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf"), "soon", True])
def test_impossible_deadlines(ask: Any, triton: TritonDouble, deadline: Any) -> None:
    with pytest.raises(InvalidOptions, match="deadline"):
        ask(triton.url, b"image", {}, {"deadline": deadline})
    assert triton.asked == []


@both
def test_no_server(ask: Any, triton: TritonDouble) -> None:
    triton.stop()
    with pytest.raises(ServerUnavailable, match="roadwork-deploy serve") as raised:
        ask(triton.url, b"image", {}, {"deadline": 5.0})
    assert raised.value.retryable


@both
def test_server_that_goes_away_in_mid_request(ask: Any, triton: TritonDouble) -> None:
    def stop(seen: Ask) -> None:
        threading.Thread(target=triton.stop).start()
        seen.wait(5)

    triton.behaviour = stop
    with pytest.raises(RoadworkError) as raised:
        ask(triton.url, b"image", {}, {"deadline": 5.0})
    # The double cancels its calls where a process that dies breaks the connection; both must end at once.
    assert isinstance(raised.value, (ServerUnavailable, Cancelled))


@both
@pytest.mark.parametrize("verdict", ["{}", "no json", '{"schema": 1}'])
def test_answers_that_are_no_verdict(ask: Any, triton: TritonDouble, verdict: str) -> None:
    triton.behaviour = lambda seen: verdict
    with pytest.raises(ProtocolError):
        ask(triton.url, b"image", {}, {})


@both
def test_images_over_the_message_limit(ask: Any, triton: TritonDouble) -> None:
    with pytest.raises(InvalidImage, match="max_message_bytes"):
        ask(triton.url, bytes(3_000_000), {"max_message_bytes": 1_000_000}, {})
    assert ask(triton.url, bytes(20_000_000), {}, {}).roadwork


@both
def test_tls_verifies_the_server(ask: Any, tmp_path: Any, certificate: tuple[bytes, bytes]) -> None:
    key, chain = certificate
    credentials = grpc.ssl_server_credentials([(key, chain)])
    roots = tmp_path / "roots.pem"
    roots.write_bytes(chain)
    with TritonDouble(credentials=credentials) as triton:
        url = f"localhost:{triton.port}"
        assert ask(url, b"image", {"tls": TLS(root_certificates=roots)}, {}).roadwork
        with pytest.raises(ServerUnavailable):
            ask(url, b"image", {"tls": True}, {})  # the default roots do not know this certificate
        with pytest.raises(ServerUnavailable):
            ask(url, b"image", {}, {"deadline": 3.0})


def test_certificates_that_are_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pem"):
        RoadworkClient(tls=TLS(root_certificates="absent.pem"))


def test_mutual_tls_needs_both_files() -> None:
    with pytest.raises(ValueError, match="both"):
        TLS(private_key="key.pem")


@pytest.mark.parametrize("url", ["localhost", "http://localhost:8000", "localhost:", ":8001", "localhost:99999", ""])
@pytest.mark.parametrize("kind", [RoadworkClient, AsyncRoadworkClient])
def test_urls_that_are_none(url: str, kind: Any) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        kind(url)


def test_the_clients_have_one_shape() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in vars(kind).items()
            if callable(value) and (not name.startswith("_") or name == "__init__")
        }

    assert public(RoadworkClient) == public(AsyncRoadworkClient)


def test_metadata_and_health(triton: TritonDouble) -> None:
    with RoadworkClient(triton.url) as client:
        assert client.is_live()
        info = client.metadata()
        health = client.health()
    assert (info.server, info.version, info.model, info.model_versions) == ("triton", "2.51.0", "roadwork", ("1",))
    assert health.verdict.roadwork
    assert health.milliseconds > 0
    assert triton.asked[0].image.startswith(b"\xff\xd8")


async def test_metadata_and_health_async(triton: TritonDouble) -> None:
    async with AsyncRoadworkClient(triton.url) as client:
        assert await client.is_live()
        assert (await client.metadata()).model == "roadwork"
        assert (await client.health()).verdict.roadwork


async def test_cancelling_the_call_cancels_the_request(triton: TritonDouble) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(seen: Ask) -> None:
        loop.call_soon_threadsafe(started.set)
        seen.wait(10)

    triton.behaviour = work
    async with AsyncRoadworkClient(triton.url) as client:
        task = asyncio.create_task(client.predict(b"image"))
        await asyncio.wait_for(started.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(triton.cancelled.wait, 5)


def test_closing_ends_what_is_under_way(triton: TritonDouble) -> None:
    started = threading.Event()

    def work(seen: Ask) -> None:
        started.set()
        seen.wait(10)

    triton.behaviour = work
    client = RoadworkClient(triton.url)

    def close() -> None:
        started.wait(5)
        client.close()

    threading.Thread(target=close, daemon=True).start()
    with pytest.raises(Cancelled):
        client.predict(b"image")
    assert triton.cancelled.wait(5)
    with pytest.raises(ClientClosed):
        client.predict(b"image")
    client.close()


async def test_closing_ends_what_is_under_way_async(triton: TritonDouble) -> None:
    triton.behaviour = lambda seen: seen.wait(10) and None
    client = AsyncRoadworkClient(triton.url)
    task = asyncio.create_task(client.predict(b"image"))
    while not triton.asked:
        await asyncio.sleep(0.01)
    await client.close()
    with pytest.raises(Cancelled):
        await task
    with pytest.raises(ClientClosed):
        await client.predict(b"image")
    await client.close()


def test_the_margin_leaves_time_for_the_way_back() -> None:
    for seconds in (0.001, 0.02, 0.1, 1.0, 5.0, 60.0):
        assert 0 < server_share(seconds) < seconds
    assert server_share(1.0) == pytest.approx(0.9)
    assert server_share(60.0) == pytest.approx(59.75)


def test_channel_arguments() -> None:
    client = RoadworkClient("localhost:1", channel_args=[("grpc.keepalive_time_ms", 400_000)])
    arguments = dict(client._connection.channel_arguments()["channel_args"])
    assert arguments["grpc.keepalive_time_ms"] == 400_000
    own = dict(RoadworkClient("localhost:1")._connection.channel_arguments()["channel_args"])
    # More often than every 300 s, or without a call, and servers hang up.
    assert own["grpc.keepalive_time_ms"] > 300_000
    assert own["grpc.keepalive_permit_without_calls"] == 0
    assert own["grpc.max_send_message_length"] == own["grpc.per_rpc_retry_buffer_size"] >= 16 << 20
    policy = SERVICE_CONFIG["methodConfig"][0]["retryPolicy"]  # type: ignore[index]
    assert policy["maxAttempts"] == 2
    assert policy["retryableStatusCodes"] == ["UNAVAILABLE"]
