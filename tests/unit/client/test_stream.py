"""Streams: events as they come, many at a time over one client, errors, deadlines and leaving early."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from roadwork_client import (
    AsyncRoadworkClient,
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    Event,
    InvalidImage,
    InvalidOptions,
    ModelNotReady,
    ProtocolError,
    RoadworkClient,
    ServerUnavailable,
)
from roadwork_client.cli import main
from triton_double import EVENTS, VERDICT, Ask, TritonDouble, event

Collect = Callable[..., list[Event]]


def collect_sync(url: str, image: bytes, **options: Any) -> list[Event]:
    with RoadworkClient(url) as client:
        return list(client.stream(image, **options))


def collect_async(url: str, image: bytes, **options: Any) -> list[Event]:
    async def collect() -> list[Event]:
        async with AsyncRoadworkClient(url) as client:
            return [event async for event in client.stream(image, **options)]

    return asyncio.run(collect())


@pytest.fixture(params=[collect_sync, collect_async], ids=["sync", "async"])
def collect(request: pytest.FixtureRequest) -> Collect:
    return request.param


def test_events_come_in_order_and_end_with_the_verdict(triton: TritonDouble, jpeg: bytes, collect: Collect) -> None:
    events = collect(triton.url, jpeg, deadline=3.0, tiers=["fast"], max_tokens=100, max_cost=0.5, all_stages=True)
    assert [event.event for event in events] == [told["event"] for told in EVENTS]
    assert [event.sequence for event in events] == list(range(7))
    accepted, perceived, escalated, partial, _, tier, last = events
    assert (accepted.progress, perceived.stage, perceived.probability) == (0.0, "glance", 0.6)
    assert (escalated.route, escalated.climb) == ("medium", ("fast", "precise"))
    assert (partial.tier_name, partial.text) == ("reason", EVENTS[3]["text"])
    assert tier.tier is not None
    assert (tier.tier_name, tier.tier.member) == ("fast", "tiny_vlm_s")
    assert last.verdict is not None
    assert last.verdict.to_dict() == VERDICT
    assert last.probability == 0.93
    assert dict(last.data) == EVENTS[6]
    (ask,) = triton.asked
    assert (ask.model, ask.image, ask.outputs) == ("roadwork_stream", jpeg, ["event"])
    assert ask.options.pop("deadline_ms") == pytest.approx(2750, abs=100)
    assert ask.options == {"tiers": ["fast"], "max_tokens": 100, "max_cost": 0.5, "all_stages": True}
    assert 2.5 < ask.seconds_left <= 3.1  # gRPC rounds deadlines up


def test_an_event_is_there_before_the_next(triton: TritonDouble, jpeg: bytes) -> None:
    gate = threading.Event()

    def behave(ask: Ask) -> Iterator[Any]:
        yield EVENTS[0]
        gate.wait(5)
        yield EVENTS[6]

    triton.behaviour = behave
    with RoadworkClient(triton.url) as client:
        events = client.stream(jpeg)
        assert next(events).event == "accepted"
        gate.set()
        assert next(events).event == "verdict"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_many_streams_over_one_client_do_not_mix(triton: TritonDouble, jpeg: bytes, kind: str) -> None:
    def behave(ask: Ask) -> list[Any]:
        tokens = ask.options["max_tokens"]
        said = [event(k, "partial", 0.5, tier="reason", text=f"{tokens};") for k in range(10)]
        return [part for pair in zip(said, [0.005] * 10, strict=True) for part in pair] + [EVENTS[6]]

    triton.behaviour = behave

    def check(number: int, events: list[Event]) -> None:
        assert [event.text for event in events[:-1]] == [f"{number};"] * 10
        assert events[-1].verdict

    if kind == "sync":
        with RoadworkClient(triton.url) as client:
            told: dict[int, list[Event]] = {}

            def take(number: int) -> None:
                told[number] = list(client.stream(jpeg, max_tokens=number))

            threads = [threading.Thread(target=take, args=(number,)) for number in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    else:

        async def take_all() -> dict[int, list[Event]]:
            async with AsyncRoadworkClient(triton.url) as client:

                async def take(number: int) -> list[Event]:
                    return [event async for event in client.stream(jpeg, max_tokens=number)]

                return dict(enumerate(await asyncio.gather(*(take(number) for number in range(12)))))

        told = asyncio.run(take_all())
    assert len(told) == 12
    for number, events in told.items():
        check(number, events)
    assert triton.most_running > 4


@pytest.mark.parametrize(
    ("told", "error", "said"),
    [
        (["INVALID_IMAGE: truncated"], InvalidImage, "truncated"),
        ([EVENTS[0], "INVALID_OPTIONS: tiers: no tier 'x'"], InvalidOptions, "no tier 'x'"),
        (["Request for unknown model: 'roadwork_stream' is not found"], ModelNotReady, "roadwork_stream"),
        ([EVENTS[0]], ProtocolError, "ended without a verdict"),
        ([{"schema": 2}], ProtocolError, "schema 2"),
        ([{"event": "x"}], ProtocolError, "no event"),
    ],
)
def test_errors_are_those_of_predict(
    triton: TritonDouble, jpeg: bytes, collect: Collect, told: list[Any], error: type[Exception], said: str
) -> None:
    triton.behaviour = lambda ask: told
    with pytest.raises(error, match=said):
        collect(triton.url, jpeg)


def test_options_that_are_none_are_refused_before_anything_is_sent(
    triton: TritonDouble, jpeg: bytes, collect: Collect
) -> None:
    for options in ({"tiers": "fast"}, {"max_tokens": -1}, {"max_cost": float("nan")}, {"deadline": 0}):
        with pytest.raises(InvalidOptions):
            collect(triton.url, jpeg, **options)
    assert triton.asked == []


def test_a_deadline_ends_a_stream(triton: TritonDouble, jpeg: bytes, collect: Collect) -> None:
    triton.behaviour = lambda ask: [EVENTS[0], 5.0, EVENTS[6]]
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        collect(triton.url, jpeg, deadline=0.3)
    assert time.monotonic() - start < 2.0


def test_no_server(triton: TritonDouble, jpeg: bytes, collect: Collect) -> None:
    triton.stop()
    with pytest.raises(ServerUnavailable):
        collect(triton.url, jpeg, deadline=2.0)


def test_a_server_that_breaks_off(triton: TritonDouble, jpeg: bytes, collect: Collect) -> None:
    triton.behaviour = lambda ask: ask.fail(grpc.StatusCode.UNAVAILABLE, "gone")
    with pytest.raises(ServerUnavailable, match="gone"):
        collect(triton.url, jpeg, deadline=3.0)


def test_leaving_the_loop_cancels_on_the_server(triton: TritonDouble, jpeg: bytes) -> None:
    triton.behaviour = lambda ask: [EVENTS[0], 5.0, EVENTS[6]]
    with RoadworkClient(triton.url) as client:
        events = client.stream(jpeg)
        next(events)
        events.close()  # type: ignore[attr-defined]
        assert triton.cancelled.wait(2.0)


async def test_closing_or_cancelling_cancels_on_the_server(triton: TritonDouble, jpeg: bytes) -> None:
    triton.behaviour = lambda ask: [EVENTS[0], 5.0, EVENTS[6]]
    async with AsyncRoadworkClient(triton.url) as client:
        async with aclosing(client.stream(jpeg)) as events:
            await anext(events)
        assert await asyncio.to_thread(triton.cancelled.wait, 2.0)
        triton.cancelled.clear()

        async def take() -> None:
            async for _ in client.stream(jpeg):
                pass

        task = asyncio.create_task(take())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(triton.cancelled.wait, 2.0)


def test_closing_the_client_ends_its_streams(triton: TritonDouble, jpeg: bytes) -> None:
    triton.behaviour = lambda ask: [EVENTS[0], 5.0, EVENTS[6]]
    client = RoadworkClient(triton.url)
    events = client.stream(jpeg)
    next(events)
    client.close()
    with pytest.raises(Cancelled):
        next(events)
    with pytest.raises(ClientClosed):
        client.stream(jpeg)


def test_the_command_shows_a_line_a_step(
    triton: TritonDouble, jpeg: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg)
    assert main(["stream", "--url", triton.url, "--tiers", "fast,precise", "--max-tokens", "9", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ms  ")[1].split()[0] for line in lines] == [
        *("accepted", "perceived", "escalated", "thinks", "tier", "verdict")
    ]
    assert "100%" in lines[-1]
    assert "escalated medium: fast, precise" in lines[2]
    assert "two cones beside a lane that is closed" in lines[3]
    assert "fast yes 0.80 (70+1 tokens, 1e-06)" in lines[4]
    assert "0.930  roadwork" in lines[5]
    assert triton.asked[0].options["tiers"] == ["fast", "precise"]
    assert triton.asked[0].options["max_tokens"] == 9


def test_the_command_writes_an_event_a_line_as_json(
    triton: TritonDouble, jpeg: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg)
    assert main(["stream", "--url", triton.url, "--json", "--tiers", "none", str(path), "absent.jpg"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[:-1] == [{"image": str(path), **told} for told in EVENTS]
    assert "no such file" in lines[-1]["error"]
    assert triton.asked[0].options["tiers"] is False
    triton.behaviour = lambda ask: ["INVALID_IMAGE: truncated"]
    assert main(["stream", "--url", triton.url, str(path)]) == 1
    assert "failed: the server cannot use this image: truncated" in capsys.readouterr().out
