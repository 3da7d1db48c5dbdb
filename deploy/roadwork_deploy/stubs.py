"""The processes in which tritonserver's Python backend runs models: one stub an instance."""

from __future__ import annotations

import contextlib
from pathlib import Path

STUB = "triton_python_backend_stub"


def stub_model(pid: int) -> str | None:
    """The model of a stub, None for any other process. Its first argument is <repository>/<model>/<version>/<file>."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has just ended
        return None
    return Path(words[1]).parts[-3] if Path(words[0]).name == STUB and len(Path(words[1]).parts) > 2 else None


def stubs_of(server: int) -> dict[int, str]:
    """Process -> model, of every living stub that the process `server` has started."""
    try:
        tasks = list(Path(f"/proc/{server}/task").iterdir())
    except OSError:  # it has just ended
        return {}
    children: list[str] = []
    for task in tasks:
        with contextlib.suppress(OSError):  # a thread that has just ended; another one has its children now
            children += (task / "children").read_text().split()
    found = {int(pid): stub_model(int(pid)) for pid in children}
    return {pid: model for pid, model in found.items() if model is not None}
