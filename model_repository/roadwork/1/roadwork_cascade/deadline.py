"""One deadline for a request, handed on as what remains, and a wait that always ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

RESERVE_SECONDS = 0.05
RESERVE_SHARE = 0.1

T = TypeVar("T")


class Deadline:
    """`seconds` from now. A reserve (50 ms, at most a tenth) is kept back from `work` to fuse, write and send."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._end = self._start + seconds
        self._reserve = min(RESERVE_SECONDS, seconds * RESERVE_SHARE)

    def elapsed(self) -> float:
        """Seconds since the request began."""
        return self._clock() - self._start

    def work(self) -> float:
        """Seconds that may still be spent on asking models; 0 when there are none."""
        return max(0.0, self._end - self._reserve - self._clock())


async def bounded(coroutine: Coroutine[Any, Any, T], seconds: float) -> T:
    """Await `coroutine` for at most `seconds`; past that cancel it and raise `asyncio.TimeoutError`.

    Unlike `asyncio.wait_for`, it does not wait for the cancelled coroutine to end: one that ignores its cancellation
    (a blocking call in a thread) cannot hold the request up.
    """
    if seconds <= 0:
        coroutine.close()
        raise asyncio.TimeoutError
    task = asyncio.ensure_future(coroutine)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        _abandon(task)
        raise
    if not done:
        _abandon(task)
        raise asyncio.TimeoutError
    if task.cancelled():
        # The callee cancelled itself. Raised as it is, it would look like the cancellation of this very request.
        raise RuntimeError("the call was cancelled from within")
    return task.result()


def _abandon(task: asyncio.Task[Any]) -> None:
    task.cancel()
    # Fetch the late exception, or asyncio reports it as never retrieved.
    task.add_done_callback(lambda late: late.cancelled() or late.exception())
