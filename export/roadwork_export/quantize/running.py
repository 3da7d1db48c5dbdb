"""A program that is listened to line by line, with a deadline, and that leaves nothing running."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

KEPT_LINES = 60
END_SECONDS = 10.0


class LateError(Exception):
    """It did not end in time, and was killed."""


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status, and the last lines that it wrote, errors among them."""

    status: int
    lines: tuple[str, ...]


def run(
    command: Sequence[str], seconds: float, hear: Callable[[str], None], environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a program to its end; `hear` gets each line of its output and its errors as it comes.

    It is the leader of a process group, which is killed when `seconds` are over or this call is left by an exception,
    Ctrl-C among them.

    Raises:
        LateError: not ended after `seconds`.
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # closed below, where it had to be killed
            for line in process.stdout:
                lines.put(line.rstrip())
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    end = time.monotonic() + seconds
    try:
        while True:
            try:
                line = lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise LateError(f"not ended after {seconds:g} s") from None
            if line is None:
                break
            if line.strip():
                kept.append(line)
                hear(line)
        try:
            status = process.wait(max(END_SECONDS, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise LateError("its output ended and it did not") from None
        return Ended(status, tuple(kept))
    finally:
        with contextlib.suppress(ProcessLookupError):  # also what it has started and left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_SECONDS)
        reader.join(END_SECONDS)
        assert process.stdout is not None
        process.stdout.close()
