"""A few threads that share all work of a process, the oldest request's first."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Work = Callable[[], None]


class Crew:
    """`threads` workers. Work of an older request goes before that of a younger one, whenever it was put in.

    So as many pieces run as there are threads, no request waits behind a younger one, and no thread is idle while
    anything is left to do.
    """

    def __init__(self, threads: int, failed: Callable[[BaseException], None]) -> None:
        """`failed` is told of an error that a piece of work lets out; the worker goes on with the next."""
        if threads < 1:
            raise ValueError(f"a crew has at least one thread, got {threads}")
        self._waiting: queue.PriorityQueue[tuple[float, int, Work | None]] = queue.PriorityQueue()
        self._failed = failed
        self._workers = [threading.Thread(target=self._run, name=f"crew-{n}", daemon=True) for n in range(threads)]
        for worker in self._workers:
            worker.start()

    def put(self, request: int, step: int, work: Work) -> None:
        """Have `work` done: of `request`, counted as they came, the `step`-th; no two are alike in both."""
        self._waiting.put((request, step, work))

    def close(self, seconds: float) -> None:
        """End the workers after what is waiting, and wait for them for at most `seconds`."""
        for number in range(len(self._workers)):
            self._waiting.put((float("inf"), number, None))
        for worker in self._workers:
            worker.join(seconds / len(self._workers))

    def _run(self) -> None:
        while True:
            _, _, work = self._waiting.get()
            if work is None:
                return
            try:
                work()
            except BaseException as error:
                self._failed(error)
