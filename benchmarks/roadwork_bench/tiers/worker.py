"""Child processes that answer one JSON object a line: the engine, and the clients of the served tier.

They are processes of their own because a load generator in the process that it measures, or beside an engine's event
loop, would be part of the figure.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from roadwork_bench.errors import BenchError

LOG_LINES = 12
END_SECONDS = 20


def claim_stdout() -> IO[str]:
    """In the child, before anything else: the way to the parent. What libraries print goes to stderr from here on."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def answer_lines(out: IO[str], handle: Callable[[dict[str, Any]], dict[str, Any]], ready: Mapping[str, Any]) -> None:
    """In the child: say `ready`, then answer each line until stdin ends."""
    print(json.dumps(dict(ready)), file=out, flush=True)
    for line in sys.stdin:
        try:
            found = handle(json.loads(line))
        except Exception as error:  # the parent decides; this process may well go on
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=out, flush=True)


class Worker:
    """The parent's end of a child.

    Args:
        module: run with `python -m`.
        arguments: of it.
        log: file that takes its stderr.
        environment: variables on top of the present ones.
    """

    def __init__(
        self, module: str, arguments: list[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = module.rpartition(".")[2]
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # it is ended as a group: an engine starts processes of its own
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(dict(message)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def receive(self, timeout: float) -> dict[str, Any]:
        """The next answer. Raises BenchError: none in time, the child has ended, or it could not do it."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise BenchError(f"{self.name}: no answer in {timeout:g} s ({self._tail()})") from None
        if not line:
            raise self._gone()
        found = dict(json.loads(line))
        if "error" in found:
            raise BenchError(f"{self.name}: {found['error']}")
        return found

    def ask(self, message: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        self.send(message)
        return self.receive(timeout)

    def close(self) -> None:
        """End it: stdin closes, and it is killed if that is not enough."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def _gone(self) -> BenchError:
        time.sleep(0.2)
        return BenchError(f"{self.name} ended (status {self._process.poll()}): {self._tail()}")

    def _tail(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-LOG_LINES:])
