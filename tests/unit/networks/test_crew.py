"""Threads that share the networks of all requests: the oldest request first, and none idle while there is work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from crew import Crew

PATIENCE = 10.0


@pytest.fixture
def failures() -> list[BaseException]:
    return []


@pytest.fixture
def pair(failures: list[BaseException]) -> Iterator[Crew]:
    crew = Crew(2, failures.append)
    yield crew
    crew.close(PATIENCE)


def test_the_oldest_request_goes_first_whenever_its_work_comes() -> None:
    crew = Crew(1, print)
    started, go, order = threading.Event(), threading.Event(), []

    def hold() -> None:
        started.set()
        assert go.wait(PATIENCE)

    crew.put(1, 0, hold)
    assert started.wait(PATIENCE)
    for request, step in ((3, 0), (2, 0), (2, 1), (1, 2), (1, 1)):
        crew.put(request, step, lambda what=(request, step): order.append(what))
    go.set()
    crew.close(PATIENCE)  # after what is waiting
    assert order == [(1, 1), (1, 2), (2, 0), (2, 1), (3, 0)]


def test_as_much_runs_at_a_time_as_there_are_threads(pair: Crew) -> None:
    met = threading.Barrier(2)
    done = threading.Semaphore(0)

    def meet() -> None:
        met.wait(PATIENCE)  # broken, were the two not under way together
        done.release()

    pair.put(1, 0, meet)
    pair.put(1, 1, meet)
    assert done.acquire(timeout=PATIENCE)
    assert done.acquire(timeout=PATIENCE)


def test_work_that_fails_takes_no_thread_with_it(pair: Crew, failures: list[BaseException]) -> None:
    def fail() -> None:
        raise MemoryError("no room")

    for step in range(6):
        pair.put(1, step, fail)
    done = threading.Event()
    pair.put(2, 0, done.set)
    assert done.wait(PATIENCE)
    pair.close(PATIENCE)
    assert [str(error) for error in failures] == ["no room"] * 6


def test_closing_does_not_wait_for_ever() -> None:
    crew, go = Crew(1, print), threading.Event()
    crew.put(1, 0, lambda: bool(go.wait(PATIENCE)))
    began = time.monotonic()
    crew.close(0.2)
    assert time.monotonic() - began < PATIENCE / 2
    go.set()


def test_a_crew_has_somebody() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Crew(0, print)
