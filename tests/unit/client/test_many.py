"""Many images: order, memory, errors as values, leaving early."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from roadwork_client import AsyncRoadworkClient, InvalidImage, InvalidOptions, Result, RoadworkClient
from triton_double import VERDICT, Ask, TritonDouble


def numbered(ask: Ask) -> dict[str, Any]:
    """The image's number as the decider's name; later ones are faster."""
    number = int(ask.image)
    if number % 7 == 3:
        ask.fail(grpc.StatusCode.INTERNAL, f"INVALID_IMAGE: number {number}")
    ask.wait(0.03 if number % 4 == 0 else 0.001)
    return {**VERDICT, "decided_by": f"number {number}"}


def check(results: list[Result], count: int) -> None:
    assert [result.index for result in results] == list(range(count))
    assert [result.image for result in results] == [b"%d" % number for number in range(count)]
    for result in results:
        if result.index % 7 == 3:
            assert isinstance(result.error, InvalidImage)
            assert result.verdict is None
            with pytest.raises(InvalidImage):
                result.unwrap()
        else:
            assert result.unwrap().decided_by == f"number {result.index}"


def images(count: int) -> Iterator[bytes]:
    return (b"%d" % number for number in range(count))


def test_results_come_in_order_and_errors_are_values(triton: TritonDouble) -> None:
    triton.behaviour = numbered
    with RoadworkClient(triton.url) as client:
        check(list(client.predict_many(images(60), in_flight=6)), 60)
    assert 2 <= triton.most_running <= 6


@pytest.mark.parametrize("lazily", [False, True])
async def test_results_come_in_order_and_errors_are_values_async(triton: TritonDouble, lazily: bool) -> None:
    async def drip() -> AsyncIterator[bytes]:
        for image in images(60):
            yield image

    triton.behaviour = numbered
    async with AsyncRoadworkClient(triton.url) as client:
        source = drip() if lazily else images(60)
        check([result async for result in client.predict_many(source, in_flight=6)], 60)
    assert 2 <= triton.most_running <= 6


class Counted:
    """Arrays that are counted while anything holds them."""

    def __init__(self) -> None:
        self.alive = 0
        self.most = 0

    def arrays(self, count: int) -> Iterator[np.ndarray]:
        for _ in range(count):
            array = np.zeros((64, 64, 3), np.uint8)
            weakref.finalize(array, self._gone)
            self.alive += 1
            self.most = max(self.most, self.alive)
            yield array
            del array

    def _gone(self) -> None:
        self.alive -= 1


def test_no_more_than_in_flight_are_held(triton: TritonDouble) -> None:
    triton.keep = False
    counted = Counted()
    with RoadworkClient(triton.url) as client:
        for result in client.predict_many(counted.arrays(60), in_flight=5):
            assert result.unwrap()
            del result
    # One more for the source itself, which makes the next before it lets go of the last.
    assert counted.most <= 6
    gc.collect()
    assert counted.alive == 0


async def test_no_more_than_in_flight_are_held_async(triton: TritonDouble) -> None:
    triton.keep = False
    counted = Counted()
    async with AsyncRoadworkClient(triton.url) as client:
        async for result in client.predict_many(counted.arrays(60), in_flight=5):
            assert result.unwrap()
            del result
    assert counted.most <= 7


def test_ready_results_do_not_wait_for_a_slow_source(triton: TritonDouble) -> None:
    def slow() -> Iterator[bytes]:
        for _ in range(4):
            yield b"image"
            time.sleep(0.2)

    start = time.monotonic()
    with RoadworkClient(triton.url) as client:
        first = next(client.predict_many(slow(), in_flight=4))
    assert first.index == 0
    assert time.monotonic() - start < 0.55


def test_leaving_early_cancels_the_rest(triton: TritonDouble) -> None:
    triton.behaviour = lambda ask: ask.wait(10 if ask.image == b"1" else 0) and None
    with RoadworkClient(triton.url) as client:
        results = client.predict_many(images(100), in_flight=2)
        assert next(results).verdict
        results.close()  # type: ignore[attr-defined]
        assert triton.cancelled.wait(5)
    assert len(triton.asked) <= 2


async def test_leaving_early_cancels_the_rest_async(triton: TritonDouble) -> None:
    triton.behaviour = lambda ask: ask.wait(10 if ask.image == b"1" else 0) and None
    async with AsyncRoadworkClient(triton.url) as client:
        results = client.predict_many(images(100), in_flight=2)
        assert (await anext(results)).verdict
        await results.aclose()  # type: ignore[attr-defined]
        assert await asyncio.to_thread(triton.cancelled.wait, 5)


def test_unusable_images_are_never_sent(triton: TritonDouble) -> None:
    with RoadworkClient(triton.url) as client:
        results = list(client.predict_many(["absent.jpg", b"image", b""]))
    assert [type(result.error) for result in results] == [InvalidImage, type(None), InvalidImage]
    assert len(triton.asked) == 1


@pytest.mark.parametrize("arguments", [{"in_flight": 0}, {"deadline": -1}])
def test_mistakes_that_concern_all_are_raised(triton: TritonDouble, arguments: dict[str, Any]) -> None:
    with RoadworkClient(triton.url) as client, pytest.raises(InvalidOptions):
        list(client.predict_many([b"image"], **arguments))


def test_errors_of_the_source_come_through(triton: TritonDouble) -> None:
    def broken() -> Iterator[bytes]:
        yield b"image"
        raise OSError("camera unplugged")

    with RoadworkClient(triton.url) as client, pytest.raises(OSError, match="unplugged"):
        list(client.predict_many(broken()))
