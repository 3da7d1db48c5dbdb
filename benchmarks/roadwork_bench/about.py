"""What a figure was measured with: machine, versions, commit and command, without names of hosts or home folders."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "roadwork",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "simplejpeg",
    "nvidia-pytriton",
    "rapidocr",
    "torch",
    "torchvision",
)


def about(command: str) -> dict[str, Any]:
    """Belongs into every result file."""
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": _commit(),
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "system": platform.system()},
        "versions": {"python": platform.python_version(), **_versions()},
    }


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The command as one can type it again in the checkout."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return shlex.join(["roadwork-bench", *(_relative(word) for word in words)])


def _relative(word: str) -> str:
    """Beside or inside the checkout, relative to it; elsewhere the name alone, as the rest is this machine's."""
    flag, equals, value = word.rpartition("=")
    if not os.path.isabs(value):
        return word
    inside = Path(value).is_relative_to(CHECKOUT.parent)
    return f"{flag}{equals}{os.path.relpath(value, CHECKOUT) if inside else Path(value).name}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """First 12 digits, with `+` where tracked files differ from it; None outside a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(CHECKOUT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
