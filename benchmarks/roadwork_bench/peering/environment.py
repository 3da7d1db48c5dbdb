"""The peers' own Python environment: together they want other versions of many packages than the server.

What computes (ONNX Runtime, NumPy, the decoder's libraries) is installed in the very versions of this environment, so
that no side is faster by its library. A stamp that is written last says what it was made of: where it is missing or
says something else, the folder is removed and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from roadwork_export.quantize.environment import EnvironmentFault, locked, make_venv, pip_install, python_of
from roadwork_export.quantize.running import LateError, run

from roadwork_bench.errors import BenchError

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
FRAMEWORKS = ("bentoml", "fastapi", "litserve", "ray[serve]", "uvicorn[standard]")
SAME = (
    "ensemble-boxes",
    "jsonschema",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "pillow",
    "pyyaml",
    "simplejpeg",
)
"""What the peers compute with, in this environment's versions."""
STAMP = "roadwork.json"
ROOM = 3 << 30
"""Bytes: the environment takes 1.2 GB, and pip needs room to unpack."""
LOCK_SECONDS, LIST_SECONDS = 3600.0, 60.0
COMMAND = "roadwork-bench peers"
LIST = "import json; from importlib.metadata import distributions as d; "
LIST += "print(json.dumps({p.metadata['Name'].lower(): p.version for p in d()}))"
Tell = Callable[[str], None]


def default_folder() -> Path:
    """Below the cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roadwork" / "peers"


def same_versions() -> list[str]:
    """Requirements of what has to be the same. Raises BenchError for one that is not installed here."""
    try:
        return [f"{name}=={metadata.version(name)}" for name in SAME]
    except metadata.PackageNotFoundError as error:
        raise BenchError(f"{error.name} is not installed here; install this package with its extra bench") from None


def fingerprint() -> dict[str, str]:
    """What an environment is made of; another one is another environment."""
    pinned = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    made = {"constraints": pinned, "same": " ".join(same_versions())}
    return {**made, "python": platform.python_version(), "machine": platform.machine()}


def ensure(tell: Tell, folder: Path | None = None) -> Path:
    """The environment's Python, made first where it is not there or not whole.

    Raises:
        BenchError: no network, no room, a folder of something else, or pip failed; with the command that failed.
    """
    folder = folder or default_folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f"{folder.name}.lock"), LOCK_SECONDS, tell, COMMAND):
            if not _ready(folder):
                _make(folder, tell)
    except EnvironmentFault as error:
        raise BenchError(f"the peers' environment cannot be made: {error}") from None
    except OSError as error:
        raise BenchError(f"{folder}: cannot be written to: {error.strerror or error}") from None
    return python_of(folder)


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Versions of these packages there. Raises BenchError where that Python does not run."""
    try:
        ended = run([str(python), "-I", "-c", LIST], LIST_SECONDS, lambda line: None)
    except (LateError, OSError) as error:
        raise BenchError(f"{python}: does not run ({error})") from None
    if ended.status:
        raise BenchError(f"{python}: does not run ({ended.lines[-1] if ended.lines else 'no message'})")
    found = json.loads(ended.lines[-1])
    return {name: found[name] for name in names if name in found}


def _ready(folder: Path) -> bool:
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return stamp == fingerprint() and python_of(folder).exists()


def _make(folder: Path, tell: Tell) -> None:
    if folder.exists():
        # Named by whoever calls: only what is recognised as an environment is removed.
        if any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
            raise BenchError(f"{folder} holds something else than an environment; name another one with --environment")
        tell(f"{folder}: half made, or of other versions: made again")
        shutil.rmtree(folder)
    free = shutil.disk_usage(folder.parent).free
    if free < ROOM:
        raise BenchError(
            f"{folder.parent}: {free / 1e9:.1f} GB free, the peers' environment needs {ROOM / 1e9:.1f} GB; make room, "
            "or name another place with --environment"
        )
    tell(f"making the peers' own environment in {folder} (1.2 GB, some minutes, once)")
    packages = [*FRAMEWORKS, *same_versions()]
    try:
        make_venv(folder)
        try:
            pip_install(folder, "the peers and what they need", packages, tell, CONSTRAINTS)
        except EnvironmentFault as error:
            command = f"pip install --constraint {CONSTRAINTS.name} {' '.join(packages)}"
            raise BenchError(f"the peers' environment cannot be made: {error} (command: {command})") from None
        (folder / STAMP).write_text(json.dumps(fingerprint()) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
