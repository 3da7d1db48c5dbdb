"""Runs tritonserver as its only child and leaves nothing behind, whatever happens to whoever asked for it.

Started by `EmbeddedServer` as `python -I -S supervisor.py --lifeline FD --drain SECONDS --shm-prefix NAME -- COMMAND`;
standard library only, so that it starts in milliseconds. It ends tritonserver when
  - it gets SIGTERM or SIGINT: tritonserver drains, then leaves;
  - the other end of the lifeline pipe closes, which the kernel does even when the parent is killed with -9.
Afterwards it ends every process that tritonserver has left, and removes their shared memory. If the supervisor itself
is killed with -9, the kernel kills tritonserver (PR_SET_PDEATHSIG), whose stubs notice and leave.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
STRAY_SECONDS = 5.0
SHARED_MEMORY = Path("/dev/shm")


def main(arguments: list[str] | None = None) -> int:
    """Run the command to its end; its exit status, or 128 + signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lifeline", type=int, required=True, help="descriptor of a pipe that closes with the parent")
    parser.add_argument("--drain", type=float, required=True, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--shm-prefix", required=True, help="names of shared memory to remove at the end")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphaned stubs become children of this process, so none can hide
    wake, poke = os.pipe()
    os.set_blocking(poke, False)
    signal.set_wakeup_fd(poke)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)

    def die_with_supervisor() -> None:
        os.setpgid(0, 0)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    child = subprocess.Popen(options.command, stdin=subprocess.DEVNULL, preexec_fn=die_with_supervisor)
    _wait(child, options.lifeline, wake, options.drain)
    _end_strays(child.pid)
    remove_shared_memory(options.shm_prefix)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wait(child: subprocess.Popen, lifeline: int, wake: int, drain: float) -> None:
    """Return when the child has ended by itself or has been ended."""
    deadline: float | None = None
    watched = [lifeline, wake]
    while child.poll() is None:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], timeout)
        if deadline is not None and time.monotonic() >= deadline:
            child.kill()
            child.wait()
            return
        stop = False
        _reap_adopted(child.pid)
        if wake in ready:
            stop = any(number != signal.SIGCHLD for number in os.read(wake, 64))
        if lifeline in ready:
            watched.remove(lifeline)
            stop = True
        if stop and deadline is None:
            deadline = time.monotonic() + drain
            child.send_signal(signal.SIGTERM)


def _reap_adopted(own: int) -> None:
    """Take leave of orphans that have ended: each would keep its entry in the process table while the server runs."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == own:  # tritonserver's end is `poll`'s to take
            return
        os.waitpid(found.si_pid, 0)


def _end_strays(group: int) -> None:
    """Wait a moment for the stubs to leave, then kill what is left, in the group or out of it."""
    deadline = time.monotonic() + STRAY_SECONDS
    while _children_left():
        if time.monotonic() >= deadline:
            _kill_group(group)
            for pid in _children():
                _kill(pid)
        time.sleep(0.02)
        if time.monotonic() >= deadline + STRAY_SECONDS:
            print("supervisor: a process that tritonserver started cannot be killed", file=sys.stderr)
            return


def _children_left() -> bool:
    """Reap what has ended; whether any child, also an adopted one, is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def remove_shared_memory(prefix: str) -> None:
    """Remove the regions whose names begin so; those of other servers begin otherwise."""
    for path in SHARED_MEMORY.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
