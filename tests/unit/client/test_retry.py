"""gRPC's own second attempt: where it comes, where it does not, and where it stops."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from roadwork_client import (
    AsyncRoadworkClient,
    ModelNotReady,
    RoadworkClient,
    ServerBusy,
    ServerError,
    ServerUnavailable,
)
from triton_double import Ask, Behaviour, TritonDouble


def failing(times: int, code: grpc.StatusCode, text: str = "Exceeds maximum queue size") -> Behaviour:
    """Fail the first `times` requests."""
    count = iter(range(1_000_000))

    def behave(ask: Ask) -> None:
        if next(count) < times:
            ask.fail(code, text)

    return behave


@pytest.mark.parametrize("size", [1_000, 3_000_000], ids=["small", "larger than gRPC's retry buffer"])
def test_unavailable_is_tried_once_more(triton: TritonDouble, size: int) -> None:
    triton.behaviour = failing(1, grpc.StatusCode.UNAVAILABLE)
    with RoadworkClient(triton.url) as client:
        assert client.predict(bytes(size)).roadwork
    assert len(triton.asked) == 2


def test_unavailable_is_tried_once_more_async(triton: TritonDouble) -> None:
    triton.behaviour = failing(1, grpc.StatusCode.UNAVAILABLE)

    async def ask() -> bool:
        async with AsyncRoadworkClient(triton.url) as client:
            return (await client.predict(b"image")).roadwork

    assert asyncio.run(ask())
    assert len(triton.asked) == 2


def test_two_attempts_and_no_more(triton: TritonDouble) -> None:
    triton.behaviour = failing(9, grpc.StatusCode.UNAVAILABLE)
    with RoadworkClient(triton.url) as client, pytest.raises(ServerBusy):
        client.predict(b"image")
    assert len(triton.asked) == 2


@pytest.mark.parametrize(
    ("code", "kind"), [(grpc.StatusCode.INTERNAL, ServerError), (grpc.StatusCode.NOT_FOUND, ModelNotReady)]
)
def test_other_failures_are_not_tried_again(triton: TritonDouble, code: grpc.StatusCode, kind: type[Exception]) -> None:
    triton.behaviour = failing(9, code, "unknown model is not found" if code.name == "NOT_FOUND" else "broken")
    with RoadworkClient(triton.url) as client, pytest.raises(kind):
        client.predict(b"image")
    assert len(triton.asked) == 1


def test_an_overloaded_server_is_not_asked_twice_for_long(triton: TritonDouble) -> None:
    triton.behaviour = failing(1_000, grpc.StatusCode.UNAVAILABLE)
    with RoadworkClient(triton.url) as client:
        results = list(client.predict_many([b"image"] * 40, in_flight=4))
    assert all(isinstance(result.error, ServerBusy) for result in results)
    # Throttled: 10 tokens, no second attempt once half are gone.
    assert 40 <= len(triton.asked) <= 50


def test_second_attempts_stay_within_the_deadline(triton: TritonDouble) -> None:
    def slow(ask: Ask) -> None:
        ask.wait(0.3)
        ask.fail(grpc.StatusCode.UNAVAILABLE, "going away")

    triton.behaviour = slow
    start = time.monotonic()
    with RoadworkClient(triton.url) as client, pytest.raises((TimeoutError, ServerUnavailable)):
        client.predict(b"image", deadline=0.45)
    assert time.monotonic() - start < 1.5
