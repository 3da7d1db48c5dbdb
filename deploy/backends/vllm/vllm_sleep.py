"""An engine that nobody asks gives its GPU memory back, and the next request wakes it.

Everything here runs on the engine's loop. A request holds the engine awake for as long as it lasts, so that none meets
an engine that is falling asleep: it waits for the end of that, and the first one wakes it for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Literal, Protocol

State = Literal["awake", "falling asleep", "asleep", "waking"]
LEVELS: dict[State, int] = {"awake": 0, "falling asleep": 1, "asleep": 2, "waking": 3}
"""How the metrics page gives a state."""
MOST_SECONDS = 300.0
"""For falling asleep or waking: weights of tens of gigabytes are copied, or read from a disk again."""


class CannotWake(Exception):
    """The engine sleeps and cannot be woken now; one line that says why. It may be tried again."""


class Bed(Protocol):
    """What falls asleep and wakes up; implemented over vLLM's engine."""

    async def sleep(self) -> None:
        """Give the memory back. Any error means that the engine is not to be used any more."""

    async def wake_up(self) -> None:
        """Take the memory again. Raises `CannotWake` where it still sleeps; any other error as in `sleep`."""


class Sleeper:
    """When an engine sleeps.

    Args:
        after: seconds without a request until it falls asleep.
        bed: of the engine.
        broken: called with one line when the engine is not to be used any more; `start` makes a new beginning.
        told: called with each new state, and with the seconds that it took to wake up.
    """

    def __init__(
        self, after: float, bed: Bed, broken: Callable[[str], None], told: Callable[[State, float | None], None]
    ) -> None:
        self.state: State = "awake"
        self._after = after
        self._bed = bed
        self._broken = broken
        self._told = told
        self._users = 0
        self._running = False
        self._timer: asyncio.TimerHandle | None = None
        self._change: asyncio.Task[str] | None = None

    def start(self) -> None:
        """Begin with an engine that has just been started and is awake."""
        self._running = True
        self._set("awake")
        self._arm()

    def stop(self) -> None:
        """Neither sleep nor wake it any more: it is being ended, or has died. Requests that wait for it are told."""
        self._running = False
        self._disarm()
        if self._change is not None:
            self._change.cancel()

    @contextlib.asynccontextmanager
    async def awake(self) -> AsyncIterator[None]:
        """Hold the engine awake. A request that gives up while it waits does not keep others from waking it.

        Raises:
            CannotWake: it cannot be woken, or is being ended.
        """
        self._users += 1
        self._disarm()
        try:
            while self.state != "awake":
                await self._turn()
            yield
        finally:
            self._users -= 1
            self._arm()

    async def _turn(self) -> None:
        """Wait for the change that is under way; begin to wake where there is none."""
        if not self._running:
            raise CannotWake("it is being stopped")
        change = self._change or self._begin("waking")
        try:
            problem = await asyncio.shield(change)
        except asyncio.CancelledError:
            if change.cancelled():
                raise CannotWake("it is being stopped") from None
            raise  # the request itself was
        if problem:
            raise CannotWake(problem)

    def _begin(self, state: State) -> asyncio.Task[str]:
        self._set(state)
        change = asyncio.get_running_loop().create_task(self._wake() if state == "waking" else self._fall())
        change.add_done_callback(self._changed)
        self._change = change
        return change

    def _changed(self, change: asyncio.Task[str]) -> None:
        if self._change is change:
            self._change = None
        self._arm()

    async def _fall(self) -> str:
        """What went wrong; empty where nothing did."""
        try:
            await asyncio.wait_for(self._bed.sleep(), MOST_SECONDS)
        except Exception as error:
            return self._give_up("did not fall asleep", error)
        self._set("asleep")
        return ""

    async def _wake(self) -> str:
        began = time.monotonic()
        try:
            await asyncio.wait_for(self._bed.wake_up(), MOST_SECONDS)
        except CannotWake as error:
            self._set("asleep")
            return str(error)
        except Exception as error:
            return self._give_up("did not wake up", error)
        self._set("awake", time.monotonic() - began)
        return ""

    def _give_up(self, what: str, error: Exception) -> str:
        said = " ".join(str(error).split())
        text = f"it {what}: {type(error).__name__}{': ' if said else ''}{said}"
        self._running = False
        self._change = None  # `broken` may end in `stop`, which must not cancel this very task
        self._broken(text)
        return text

    def _arm(self) -> None:
        if self._running and not self._users and self._timer is None and self.state == "awake":
            self._timer = asyncio.get_running_loop().call_later(self._after, self._nobody_came)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _nobody_came(self) -> None:
        self._timer = None
        if self._running and not self._users and self._change is None and self.state == "awake":
            self._begin("falling asleep")

    def _set(self, state: State, seconds: float | None = None) -> None:
        self.state = state
        self._told(state, seconds)
