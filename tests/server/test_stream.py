"""`roadwork_stream` on the committed repository: an event a step, many streams at a time, errors, early leavers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from roadwork_client import DeadlineExceeded, Event, InvalidImage, InvalidOptions, RoadworkClient
from roadwork_deploy.probe import sample_image
from roadwork_deploy.server import EmbeddedServer

IMAGE = sample_image()


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[RoadworkClient]:
    with RoadworkClient(server.grpc_url, deadline=20.0) as client:
        yield client


def test_events_end_with_the_verdict_that_predict_gives(client: RoadworkClient) -> None:
    events = list(client.stream(IMAGE, tiers=False, all_stages=True))
    assert [event.event for event in events if event.event != "tier"] == [
        *("accepted", "perceived", "perceived", "perceived"),
        *(["escalated"] if any(event.event == "escalated" for event in events) else []),
        "verdict",
    ]
    assert [event.sequence for event in events] == list(range(len(events)))
    assert [event.progress for event in events] == sorted(event.progress for event in events)
    verdict = events[-1].verdict
    assert verdict is not None
    plain = client.predict(IMAGE, tiers=False, all_stages=True)
    assert (verdict.probability, verdict.status, verdict.boxes) == (plain.probability, plain.status, plain.boxes)
    assert verdict.status == "ok"


def test_many_streams_over_one_client(client: RoadworkClient) -> None:
    told: dict[int, list[Event]] = {}

    def take(number: int) -> None:
        told[number] = list(client.stream(IMAGE, tiers=False))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 12
    for events in told.values():
        assert [event.sequence for event in events] == list(range(len(events)))
        assert events[-1].verdict is not None


def test_errors_carry_their_prefix(client: RoadworkClient) -> None:
    with pytest.raises(InvalidImage, match="GIF"):
        list(client.stream(b"GIF89a" + bytes(40)))
    with pytest.raises(InvalidOptions, match="tiers: no tier 'nobody'"):
        list(client.stream(IMAGE, tiers=["nobody"]))
    assert list(client.stream(IMAGE))[-1].verdict is not None


def test_a_stream_that_is_left_or_too_late_harms_no_other(client: RoadworkClient) -> None:
    for _ in range(10):
        events = client.stream(IMAGE, all_stages=True, tiers=False)
        next(events)
        events.close()  # type: ignore[attr-defined]
        try:
            late = list(client.stream(IMAGE, deadline=0.002))[-1].verdict
        except DeadlineExceeded:
            continue
        assert late is not None  # the server was quick enough to say that it had no time
        assert late.status == "timed_out"
    start = time.monotonic()
    assert list(client.stream(IMAGE))[-1].verdict is not None
    assert time.monotonic() - start < 10.0
