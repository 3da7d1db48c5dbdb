"""Runs inside the engine's own processes: none may outlive the process that started it, and why one failed is told.

vLLM's engine core notices neither a SIGKILL of its parent nor tells the parent why it could not start ("see root cause
above"). `install` makes vLLM start its processes through the functions of this module.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
import weakref
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
REASON_FILE = "ROADWORK_ENGINE_REASON"


def install() -> None:
    """Put this module's functions in front of vLLM's. The modules of this folder must be importable in the children,
    which multiprocessing's spawn sees to: it hands `sys.path` on.
    """
    from vllm.v1.engine.core import EngineCoreProc

    if EngineCoreProc.run_engine_core is not run_engine_core:
        global _run_engine_core
        _run_engine_core = EngineCoreProc.run_engine_core
        EngineCoreProc.run_engine_core = staticmethod(run_engine_core)  # type: ignore[method-assign]


def _install_workers() -> None:
    from vllm.v1.executor.multiproc_executor import WorkerProc

    if WorkerProc.worker_main is not worker_main:
        global _worker_main
        _worker_main = WorkerProc.worker_main
        WorkerProc.worker_main = staticmethod(worker_main)  # type: ignore[method-assign]


_run_engine_core: Any = None
_worker_main: Any = None


def run_engine_core(*args: Any, **kwargs: Any) -> None:
    """vLLM's engine core, in a process that dies with its parent."""
    _enter()
    install()
    _install_workers()
    _leave_after(_run_engine_core, *args, **kwargs)


def worker_main(*args: Any, **kwargs: Any) -> None:
    """vLLM's worker (one a GPU), in a process that dies with its engine core."""
    _enter()
    _install_workers()
    from vllm.v1.executor.multiproc_executor import WorkerProc

    begin = WorkerProc.__init__

    def told(self: Any, *args: Any, **kwargs: Any) -> None:  # vLLM's worker_main keeps what goes wrong here to itself
        try:
            begin(self, *args, **kwargs)
        except Exception as error:
            _tell(error)
            raise

    WorkerProc.__init__ = told  # type: ignore[method-assign]
    _leave_after(_worker_main, *args, **kwargs)


def _leave_after(work: Any, *args: Any, **kwargs: Any) -> None:
    """End the process as soon as vLLM has released its devices. Taking torch's operators apart one by one, which an
    orderly end of the interpreter does, takes longer than vLLM waits before it kills.
    """
    status = 1
    try:
        work(*args, **kwargs)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        _tell(error)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def spare_the_exit() -> None:
    """Leave out, in this process, what torch would take apart at the interpreter's end (some seconds)."""
    registry = getattr(weakref.finalize, "_registry", {})
    for finalizer in list(registry):
        work = getattr(registry.get(finalizer), "func", None)
        if work is not None and work.__module__ == "torch.library":
            finalizer.atexit = False


def _enter() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # it died before the kernel was told


def _tell(error: BaseException) -> None:
    """Leave word for the process that waits for this one; the first word is the root cause."""
    path = os.environ.get(REASON_FILE)
    if not path:
        return
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(f"{type(error).__name__}: {error}")
    except OSError:
        pass  # there is one already, or nobody waits any more


def read_reason(path: Path) -> str | None:
    """What `_tell` has written, on one line."""
    try:
        return " ".join(path.read_text(encoding="utf-8").split()) or None
    except OSError:
        return None
