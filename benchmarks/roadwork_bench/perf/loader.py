"""Puts perf_analyzer together on a system that is too old for it; `python -m roadwork_bench.perf.loader [FOLDER]`.

Its wheel needs glibc 2.38. On a Debian (or a system whose apt reaches a Debian mirror) whose glibc is older, this
unpacks the libraries of Debian 13 into a folder of the user's, with nothing installed and no root; perf_analyzer is
then started through that folder's own `ld-linux-x86-64.so.2`. The wheel comes by pip, as pip is configured here; the
libraries come by apt, from the mirror that apt is configured for, and apt checks their signatures.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from roadwork_deploy.embedded import cache_folder

from roadwork_bench.errors import BenchError
from roadwork_bench.output import saying

VERSION = "2.60.0"
NEEDS_GLIBC = (2, 38)
SUITE = "trixie"
PACKAGES = ("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libssl3t64", "libzstd1")
LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
LINKER = "ld-linux-x86-64.so.2"
BINARY = Path("perf_analyzer/bin/perf_analyzer")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
STEP_SECONDS = 300.0
CONTAINER = "docker run --rm --network host -v $PWD:/work -w /work nvcr.io/nvidia/tritonserver:26.01-py3-sdk"
ELSEWHERE = f"take perf_analyzer from NVIDIA's container instead: {CONTAINER} perf_analyzer ..."


def loader_folder() -> Path:
    """Where the loader is kept: beside what else the project keeps in the user's cache."""
    return cache_folder() / f"perf_analyzer-{VERSION}"


def loader_command(folder: Path) -> list[str] | None:
    """How perf_analyzer is started out of a folder that `fetch` has made; None where it is not whole."""
    linker, binary = folder / LIBRARIES / LINKER, folder / BINARY
    if not (linker.is_file() and binary.is_file()):
        return None
    return [str(linker), "--library-path", str(folder / LIBRARIES), str(binary)]


def glibc() -> tuple[int, int]:
    """Version of the C library that this Python runs on; (0, 0) where it is another library."""
    name, version = platform.libc_ver()
    words = version.split(".")
    return (int(words[0]), int(words[1])) if name == "glibc" and len(words) > 1 else (0, 0)


def fetch(folder: Path) -> list[str]:
    """Make the loader's folder, in one step; how perf_analyzer is started from it.

    Raises:
        BenchError: this system cannot; the message says what is missing and what to do instead.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise BenchError(f"perf_analyzer is for Linux x86_64, this is {platform.system()} {platform.machine()}")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise BenchError(f"{program} is not here, which the loader needs; {ELSEWHERE}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".loader-", dir=folder.parent) as name:
        draft = Path(name) / "loader"
        draft.mkdir()
        _unpack_wheel(Path(name) / "wheel", draft)
        _unpack_libraries(Path(name) / "apt", draft)
        command = loader_command(draft)
        if command is None:
            raise BenchError(f"{SUITE}'s libc6 holds no {LIBRARIES / LINKER}; {ELSEWHERE}")
        _run([*command, "--version"], f"perf_analyzer does not start with {SUITE}'s libraries")
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    made = loader_command(folder)
    assert made is not None
    return made


def _unpack_wheel(folder: Path, target: Path) -> None:
    saying(f"perf_analyzer {VERSION}: its wheel, by pip")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Without the platform pip would take the empty release that is there for every other system.
    wanted = ["--only-binary=:all:", "--platform", "manylinux_2_38_x86_64", "--dest", str(folder)]
    _run([*pip, *wanted, f"perf-analyzer=={VERSION}"], "pip cannot get perf_analyzer's wheel")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    (target / BINARY).chmod(0o755)


def _unpack_libraries(folder: Path, target: Path) -> None:
    """Of `SUITE`, by an apt that has lists, cache and sources of its own and shares the rest of its configuration."""
    saying(f"libraries of Debian {SUITE}, by apt")
    lists, packages = folder / "lists", folder / "packages"
    for made in (lists / "partial", folder / "cache" / "archives" / "partial", packages):
        made.mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(sources(debian_mirrors()))
    settings = {
        "Dir::State": folder,
        "Dir::State::lists": lists,
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Acquire::Languages": "none",
        "APT::Architecture": "amd64",
        # Who runs this may be root in a container where apt's own user cannot write to our folder.
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", "-qq", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
    _run([*apt, "update"], f"apt cannot read Debian {SUITE}")
    _run([*apt, "download", *PACKAGES], f"apt cannot download from Debian {SUITE}", packages)
    for package in sorted(packages.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(target)], f"{package.name} cannot be unpacked")


def debian_mirrors() -> list[str]:
    """Addresses of the Debian archives that apt is configured for here, those named `debian` first.

    Raises:
        BenchError: there is none.
    """
    words = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"]
    lines = _run(words, "apt does not say which mirrors it uses").splitlines()
    sites = {line.split()[0] for line in lines if line.strip()}
    found = sorted(site.rstrip("/") for site in sites if site.rstrip("/").endswith("/debian"))
    if not found:
        raise BenchError(f"apt is configured for no Debian archive here, so there is no {SUITE} to take; {ELSEWHERE}")
    return found


def sources(mirrors: Sequence[str], keyring: Path = KEYRING) -> str:
    """Content of a sources.list with `SUITE` of the first of these mirrors.

    Raises:
        BenchError: Debian's keys are not here, so that nothing could be checked.
    """
    if not keyring.is_file():
        raise BenchError(f"{keyring} is missing; install debian-archive-keyring, or {ELSEWHERE}")
    return f"deb [arch=amd64 signed-by={keyring}] {mirrors[0]} {SUITE} main\n"


def _run(words: Sequence[str], problem: str, folder: Path | None = None) -> str:
    """Standard output; a BenchError with the program's last line where it fails."""
    environment = {**os.environ, "LC_ALL": "C", "PIP_NO_INPUT": "1"}
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{problem}: no end after {STEP_SECONDS:g} s; {ELSEWHERE}") from None
    except OSError as error:
        raise BenchError(f"{problem}: {error.strerror}; {ELSEWHERE}") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise BenchError(f"{problem}: {last[0]}; {ELSEWHERE}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m roadwork_bench.perf.loader", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help=f"default: {loader_folder()}")
    folder = parser.parse_args(arguments).folder or loader_folder()
    try:
        command = fetch(folder.absolute())
    except (BenchError, OSError) as error:
        print(f"roadwork_bench.perf.loader: {error}", file=sys.stderr)
        return 2
    print(f"perf_analyzer {VERSION} starts with:\n{' '.join(command)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
