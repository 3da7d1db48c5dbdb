"""Circuit breakers: remember for a while who failed, so that no request waits for a model known to be down.

Failure rate over a window of the last calls (M. Nygard, "Release It!", 2nd ed. 2018, "Circuit Breaker"; the window as
in resilience4j's count-based sliding window). State lives in this process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal

State = Literal["closed", "half_open", "open"]


class Permit:
    """Leave to make one call; a context manager. Leaving it without a word (a cancelled call) counts as neither."""

    def __init__(self, breaker: Breaker, generation: int, probe: bool) -> None:
        self._breaker = breaker
        self._generation = generation
        self._probe = probe
        self._told = False

    def success(self) -> None:
        """The call was answered."""
        self._tell(True)

    def failure(self) -> None:
        """The call failed, and the model is to blame."""
        self._tell(False)

    def release(self) -> None:
        """The call ended for a reason that says nothing about the model (cancelled, the caller's own haste)."""
        self._tell(None)

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _tell(self, ok: bool | None) -> None:
        if not self._told:
            self._told = True
            self._breaker._record(ok, self._generation, self._probe)


class Breaker:
    """The breaker of one model.

    Closed: all calls go through; it opens when at least `minimum` of the last `window` calls are known and the share
    that failed is `failure_rate` or more. Open: none go through for `open_seconds`. Half open: one probe at a time goes
    through; its success closes the breaker and forgets the past, its failure opens it again.
    """

    def __init__(
        self,
        *,
        window: int,
        minimum: int,
        failure_rate: float,
        open_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls: deque[bool] = deque(maxlen=window)
        self._minimum = minimum
        self._failure_rate = failure_rate
        self._open_seconds = open_seconds
        self._clock = clock
        self._opened_at: float | None = None
        self._probe_since: float | None = None
        # Counts the openings and closings: a call that began before the last one must not be judged by its late result.
        self._generation = 0

    @property
    def state(self) -> State:
        """`closed`, `open`, or `half_open` once `open_seconds` have passed."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._clock() - self._opened_at >= self._open_seconds else "open"

    @property
    def trusted(self) -> bool:
        """Closed, and the last call that is known was answered."""
        return self._opened_at is None and (not self._calls or self._calls[-1])

    @property
    def retry_in(self) -> float:
        """Seconds until a probe may go through; 0 unless open."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._open_seconds - self._clock())

    def admit(self) -> Permit | None:
        """Leave for one call, or None: the model is not to be asked now."""
        state = self.state
        if state == "closed":
            return Permit(self, self._generation, probe=False)
        if state == "open" or self._probing():
            return None
        self._probe_since = self._clock()
        return Permit(self, self._generation, probe=True)

    def _probing(self) -> bool:
        # A probe that was lost (its task was destroyed with its loop) must not keep the breaker open for ever.
        return self._probe_since is not None and self._clock() - self._probe_since < max(self._open_seconds, 1.0)

    def _record(self, ok: bool | None, generation: int, probe: bool) -> None:
        if generation != self._generation:
            return
        if probe:
            self._probe_since = None
            if ok is True:
                self._switch(opened_at=None)
            elif ok is False:
                self._switch(opened_at=self._clock())
            return
        if ok is None:
            return
        self._calls.append(ok)
        failures = len(self._calls) - sum(self._calls)
        if len(self._calls) >= self._minimum and failures and failures / len(self._calls) >= self._failure_rate:
            self._switch(opened_at=self._clock())

    def _switch(self, opened_at: float | None) -> None:
        self._opened_at = opened_at
        self._probe_since = None
        self._calls.clear()
        self._generation += 1


class Breakers:
    """A breaker for each model name, made when first asked for."""

    def __init__(
        self,
        *,
        window: int,
        minimum: int,
        failure_rate: float,
        open_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = lambda: Breaker(
            window=window, minimum=minimum, failure_rate=failure_rate, open_seconds=open_seconds, clock=clock
        )
        self._breakers: dict[str, Breaker] = {}

    def __getitem__(self, model: str) -> Breaker:
        if model not in self._breakers:
            self._breakers[model] = self._make()
        return self._breakers[model]

    def states(self) -> dict[str, State]:
        """State of every breaker made so far, by model."""
        return {model: breaker.state for model, breaker in self._breakers.items()}
