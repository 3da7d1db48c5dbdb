"""Knows a server's processes by a mark in their environment, and ends them also where this process is killed.

    python -m roadwork_bench.peering.keeping MARK

The child waits until its stdin ends, which happens however the parent ends, and kills what bears the mark.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

VARIABLE = "ROADWORK_PEER_JOB"
"""Environment variable with the mark. Every process that a server starts inherits it, whoever its parent is later."""

END_SECONDS = 15.0


def marked(mark: str) -> list[int]:
    """Living processes with this mark, but for this one."""
    wanted, found = f"{VARIABLE}={mark}".encode(), []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                if wanted in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
    return found


def kill_marked(mark: str) -> None:
    """Kill until none is left; those that are killed may just have started others."""
    end = time.monotonic() + END_SECONDS
    while (left := marked(mark)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


class Keeper:
    """The parent's end. `close` kills what is left and ends the child."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        # -S -E: it needs the standard library alone, and starts in a moment.
        command = [sys.executable, "-S", "-E", str(Path(__file__).resolve()), mark]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def close(self, process: subprocess.Popen[bytes]) -> None:
        """Ask `process` to end, wait for it, then kill what bears the mark."""
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
        if process.poll() is None:
            process.kill()
            process.wait(END_SECONDS)
        kill_marked(self._mark)
        assert self._child.stdin is not None
        self._child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(END_SECONDS)


def main() -> None:
    sys.stdin.read()
    kill_marked(sys.argv[1])


if __name__ == "__main__":
    main()
