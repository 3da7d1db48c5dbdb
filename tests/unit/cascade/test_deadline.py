"""Waiting always ends, and what remains is handed on."""

from __future__ import annotations

import asyncio
import time

import pytest
from roadwork_cascade.deadline import Deadline, bounded


async def late(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


async def stubborn() -> None:
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue


async def test_returns_what_comes_in_time() -> None:
    assert await bounded(late(0.0), 1.0) == "done"


async def test_ends_a_call_that_hangs() -> None:
    with pytest.raises(asyncio.TimeoutError):
        await bounded(late(60), 0.02)


async def test_does_not_wait_for_a_call_that_ignores_its_cancellation() -> None:
    start = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        await bounded(stubborn(), 0.02)
    assert time.monotonic() - start < 0.3


async def test_does_not_even_start_without_time() -> None:
    with pytest.raises(asyncio.TimeoutError):
        await bounded(late(0.0), 0.0)


async def test_hands_the_callers_cancellation_on() -> None:
    ended = asyncio.Event()

    async def call() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    task = asyncio.ensure_future(bounded(call(), 60))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 1)


async def test_a_callee_that_cancels_itself_does_not_look_like_the_caller_cancelled() -> None:
    async def call() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled from within"):
        await bounded(call(), 1.0)


def test_what_remains_shrinks_and_keeps_a_reserve() -> None:
    now = [100.0]
    deadline = Deadline(2.0, clock=lambda: now[0])
    assert deadline.work() == pytest.approx(1.95)
    now[0] += 1.0
    assert deadline.work() == pytest.approx(0.95)
    assert deadline.elapsed() == pytest.approx(1.0)
    now[0] += 5.0
    assert deadline.work() == 0.0


def test_the_reserve_of_a_short_deadline_is_a_tenth() -> None:
    assert Deadline(0.1, clock=lambda: 0.0).work() == pytest.approx(0.09)
