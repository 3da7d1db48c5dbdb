"""deploy/libpython.sh: where libpython comes from when the Python has none. Interpreter, apt and dpkg are stand-ins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from roadwork_deploy.embedded import LIBPYTHON

NAME = "libpython3.11.so.1.0"
APT = """
case "$*" in
    *update*) touch {folder}/updated ;;
    *"download {package}") [ {lists} = there ] || [ -e {folder}/updated ] || exit 100; touch {package}_1_amd64.deb ;;
    *) exit 100 ;;
esac
"""
DPKG = f'case "$2" in *.deb) mkdir -p "$3/usr/lib" && echo library > "$3/usr/lib/{NAME}" ;; *) exit 2 ;; esac'


def run(folder: Path, *, missing: str, apt: str = "exit 100") -> subprocess.CompletedProcess[str]:
    """The script's end, for an interpreter that says `missing` of itself."""
    for name, body in (("python", f'echo "{missing}"'), ("apt-get", apt), ("dpkg-deb", DPKG)):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["sh", str(LIBPYTHON), str(folder / "python")],
        env={"PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_the_python_of_these_tests_needs_nothing() -> None:
    done = subprocess.run(["sh", str(LIBPYTHON), sys.executable], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("lists", ["there", "empty"])
@pytest.mark.parametrize("package", ["libpython3.11", "libpython3.11t64"])
def test_it_is_taken_from_the_package(tmp_path: Path, package: str, lists: str) -> None:
    apt = APT.format(folder=tmp_path, package=package, lists=lists)
    done = run(tmp_path, missing=f"3.11 /usr {tmp_path}/environment", apt=apt)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "environment" / "libpython" / NAME).read_text() == "library\n"
    assert (tmp_path / "updated").exists() == (lists == "empty")
    assert not list(tmp_path.glob("tmp.*"))


def test_without_packages_one_line_says_what_to_run(tmp_path: Path) -> None:
    done = run(tmp_path, missing=f"3.11 /usr {tmp_path}/environment")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "run: sudo apt-get update && sudo apt-get install libpython3.11\n" in done.stderr
    assert not (tmp_path / "environment").exists()


def test_a_python_that_is_not_the_systems_gets_no_library_of_the_system(tmp_path: Path) -> None:
    done = run(tmp_path, missing=f"3.11 /opt/python {tmp_path}/environment")
    assert done.returncode == 1
    assert "PYTHON=/usr/bin/python3" in done.stderr
