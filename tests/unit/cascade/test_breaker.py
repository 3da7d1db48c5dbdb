"""The circuit breaker: failure rate over a window, one probe when half open, cancellation is no failure."""

from __future__ import annotations

import pytest
from roadwork_cascade.breaker import Breaker, Breakers


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def breaker(time: Time) -> Breaker:
    return Breaker(window=6, minimum=3, failure_rate=0.5, open_seconds=10, clock=time)


def call(breaker: Breaker, ok: bool | None) -> bool:
    permit = breaker.admit()
    if permit is None:
        return False
    with permit:
        if ok is not None:
            (permit.success if ok else permit.failure)()
    return True


@pytest.fixture
def opened(breaker: Breaker) -> Breaker:
    for _ in range(3):
        call(breaker, False)
    return breaker


def test_stays_closed_under_the_minimum_of_calls(breaker: Breaker) -> None:
    call(breaker, False)
    call(breaker, False)
    assert breaker.state == "closed"


def test_opens_at_the_failure_rate(opened: Breaker) -> None:
    assert opened.state == "open"
    assert opened.retry_in == 10
    assert opened.admit() is None


def test_opens_on_a_mixed_window_and_not_on_rare_failures(breaker: Breaker) -> None:
    for ok in (True, True, True, True, False, False):
        call(breaker, ok)
    assert breaker.state == "closed"
    call(breaker, False)  # the window is now three good and three bad
    assert breaker.state == "open"


def test_old_calls_leave_the_window(breaker: Breaker) -> None:
    for ok in (True, True, False, *[True] * 5, False, False):
        call(breaker, ok)
    assert breaker.state == "closed"


def test_is_half_open_after_the_pause_and_lets_one_probe_through(opened: Breaker, time: Time) -> None:
    time.now = 10
    assert opened.state == "half_open"
    assert opened.admit() is not None
    assert opened.admit() is None


def test_closes_when_the_probe_succeeds_and_forgets_the_past(opened: Breaker, time: Time) -> None:
    time.now = 10
    call(opened, True)
    assert opened.state == "closed"
    call(opened, False)
    call(opened, False)
    assert opened.state == "closed"


def test_opens_again_when_the_probe_fails(opened: Breaker, time: Time) -> None:
    time.now = 10
    call(opened, False)
    assert opened.state == "open"
    time.now = 19
    assert opened.admit() is None
    time.now = 20
    assert opened.state == "half_open"


def test_a_cancelled_call_is_no_failure(breaker: Breaker) -> None:
    for _ in range(20):
        call(breaker, None)
    assert breaker.state == "closed"


def test_a_cancelled_probe_gives_its_place_to_the_next(opened: Breaker, time: Time) -> None:
    time.now = 10
    call(opened, None)
    assert opened.state == "half_open"
    assert call(opened, True)
    assert opened.state == "closed"


def test_a_probe_that_was_lost_is_replaced_in_the_end(opened: Breaker, time: Time) -> None:
    time.now = 10
    assert opened.admit() is not None
    time.now = 20
    assert opened.admit() is not None


def test_a_late_result_of_a_call_begun_before_the_opening_is_not_taken_for_the_probe(
    breaker: Breaker, time: Time
) -> None:
    early = breaker.admit()
    assert early is not None
    for _ in range(3):
        call(breaker, False)
    early.success()
    assert breaker.state == "open"
    time.now = 10
    assert breaker.admit() is not None


def test_a_permit_counts_once(breaker: Breaker) -> None:
    permit = breaker.admit()
    assert permit is not None
    permit.failure()
    permit.failure()
    permit.failure()
    assert breaker.state == "closed"


def test_each_model_has_its_own(time: Time) -> None:
    breakers = Breakers(window=6, minimum=1, failure_rate=0.5, open_seconds=10, clock=time)
    call(breakers["one"], False)
    call(breakers["other"], True)
    assert breakers.states() == {"one": "open", "other": "closed"}


@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_success_alone_never_opens(time: Time, rate: float) -> None:
    breaker = Breaker(window=3, minimum=1, failure_rate=rate, open_seconds=1, clock=time)
    for _ in range(5):
        call(breaker, True)
    assert breaker.state == "closed"


def test_a_closed_breaker_is_trusted_until_a_failure_and_again_after_a_success() -> None:
    breaker = Breaker(window=20, minimum=5, failure_rate=0.5, open_seconds=10.0)
    assert breaker.trusted
    for answered in (False, True):
        permit = breaker.admit()
        assert permit is not None
        permit.success() if answered else permit.failure()
        assert breaker.state == "closed"
        assert breaker.trusted is answered
