"""llmcompressor's own Python environment: it wants other versions of NumPy and compressed-tensors than the server.

One folder below the cache, `roadwork/quantize/environment`. A stamp that is written last says what it was made of:
where it is missing or says something else, the folder is removed and made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import ExportError
from .running import LateError, run

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
WANTED = "llmcompressor"
# Without what it asks for: its wheel on the package index wants torch's CUDA build, and is used beside the CPU's.
ALONE = "torchvision"
STAMP = "roadwork.json"
ROOM = 4 << 30
"""Bytes: torch's CPU build takes 1.5 GB with all else, and pip needs room to unpack."""
PIP_SECONDS, VENV_SECONDS, TRIAL_SECONDS, LOCK_SECONDS = 3600.0, 300.0, 300.0, 3600.0
NO_NETWORK = (
    "failed to establish a new connection",
    "name resolution",
    "name or service not known",
    "network is unreachable",
    "connection refused",
    "read timed out",
    "connect timeout",
    "newconnectionerror",
    "cannot connect to proxy",
    "(from versions: none)",
)
NO_ROOM = ("no space left on device", "disk quota exceeded")
TRIAL = """
import torchvision, llmcompressor, transformers
print("llmcompressor", llmcompressor.__version__, "with transformers", transformers.__version__)
"""
Tell = Callable[[str], None]


class EnvironmentFault(ExportError):
    """The environment cannot be made; one line that says why."""


def cache() -> Path:
    """Where the environment and drafts are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roadwork" / "quantize"


def fingerprint() -> dict[str, str]:
    """What an environment is made of; another one is another environment."""
    pinned = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    return {"constraints": pinned, "python": platform.python_version(), "machine": platform.machine()}


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def ready(folder: Path) -> bool:
    """Whether the environment is whole and made of what is wanted today."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return stamp == fingerprint() and python_of(folder).exists()


def ensure(tell: Tell, folder: Path | None = None) -> Path:
    """The environment's Python, made first where it is not there or not whole.

    Raises:
        EnvironmentFault: no network, no room, or what was installed does not work together.
    """
    folder = folder or cache() / "environment"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock"), LOCK_SECONDS, tell):
            if not ready(folder):
                _make(folder, tell)
    except OSError as error:
        raise EnvironmentFault(f"{folder}: cannot be written to: {error.strerror or error}") from None
    return python_of(folder)


@contextlib.contextmanager
def locked(path: Path, seconds: float, tell: Tell, command: str = "roadwork-export quantize") -> Iterator[None]:
    """Hold a file's lock, which every call of `command` takes; the kernel gives it back however this process ends.

    Raises:
        EnvironmentFault: another process has held it for `seconds`.
    """
    with path.open("w") as file:
        end = time.monotonic() + seconds
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise EnvironmentFault(f"{path}: another {command} holds it; wait for that one") from None
            if not waiting:
                tell(f"waiting for another {command}, which holds {path}")
                waiting = True
            time.sleep(0.2)
        yield


def _make(folder: Path, tell: Tell) -> None:
    if folder.exists():
        tell(f"{folder}: half made, or of other versions: made again")
        shutil.rmtree(folder)
    free = shutil.disk_usage(folder.parent).free
    if free < ROOM:
        raise EnvironmentFault(
            f"{folder.parent}: {free / 1e9:.1f} GB free, llmcompressor's environment needs {ROOM / 1e9:.1f} GB; make "
            "room, or name another place with XDG_CACHE_HOME"
        )
    tell(f"making llmcompressor's own environment in {folder} (1.5 GB, some minutes, once)")
    try:
        make_venv(folder)
        pip_install(folder, "llmcompressor and what it needs", (WANTED,), tell)
        pip_install(folder, "torchvision", ("--no-deps", ALONE), tell)
        _shim(folder)
        tell(f"{_try_out(folder)} is ready")
        (folder / STAMP).write_text(json.dumps(fingerprint()) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def make_venv(folder: Path) -> None:
    """An empty environment of this very Python. Raises EnvironmentFault."""
    command = [sys.executable, "-m", "venv", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=VENV_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise EnvironmentFault(f"python -m venv has not ended within {VENV_SECONDS:g} s") from None
    if done.returncode:
        raise EnvironmentFault(f"{folder}: python -m venv failed: {_last((done.stdout + done.stderr).splitlines())}")


def pip_install(folder: Path, what: str, packages: Sequence[str], tell: Tell, constraints: Path = CONSTRAINTS) -> None:
    """Install into an environment, within the constraints. Raises EnvironmentFault with why it failed."""
    # Each try that finds no network takes as long as its timeout: two are enough to tell.
    command = [str(python_of(folder)), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--retries", "2", "--timeout", "60", "--constraint", str(constraints), *packages]

    def hear(line: str) -> None:
        words = line.split()
        if words and words[0] == "Downloading" and line.endswith("MB)"):
            tell(f"  {words[1].rpartition('/')[2]} {' '.join(words[2:])}")
        elif line.startswith("Installing collected"):
            tell("  unpacking")

    tell(f"  {what}")
    try:
        ended = run(command, PIP_SECONDS, hear)
    except LateError:
        raise EnvironmentFault(f"pip has not installed {what} within {PIP_SECONDS:g} s") from None
    if ended.status:
        raise EnvironmentFault(why_pip_failed(what, ended.lines))


def why_pip_failed(what: str, lines: Sequence[str]) -> str:
    """One line from the last that pip wrote."""
    text = "\n".join(lines).lower()
    if any(sign in text for sign in NO_ROOM):
        return f"pip could not install {what}: the disk is full; make room, or name another place with XDG_CACHE_HOME"
    if any(sign in text for sign in NO_NETWORK):
        return (
            f"pip could not install {what}: no package index can be reached; the environment is made once, with a "
            "network (behind a proxy or with an index of your own: pip's configuration counts)"
        )
    errors = [line for line in lines if line.startswith("ERROR")] or list(lines)
    return f"pip could not install {what}: {_last(errors).removeprefix('ERROR: ')}"


def _shim(folder: Path) -> None:
    from roadwork_deploy.install_vllm import install_shim

    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    install_shim(folder / "lib" / version / "site-packages")


def _try_out(folder: Path) -> str:
    try:
        ended = run([str(python_of(folder)), "-c", TRIAL], TRIAL_SECONDS, lambda line: None)
    except LateError:
        raise EnvironmentFault(f"llmcompressor cannot be imported within {TRIAL_SECONDS:g} s") from None
    if ended.status:
        raise EnvironmentFault(f"llmcompressor is installed and does not work: {_last(ended.lines)}")
    return _last(ended.lines)


def _last(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")
