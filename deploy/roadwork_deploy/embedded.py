"""Makes a runnable tritonserver out of the `nvidia-pytriton` wheel, with no container.

The wheel carries the server, its Python backend, a stub for each Python version and the libraries that they need. What
is missing is a backend directory in which core finds all of it; this module assembles that once for each combination of
versions, in the user's cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from roadwork_deploy.errors import PlatformError

WHEEL = "nvidia-pytriton"
PYTHONS = ((3, 8), (3, 12))
BACKENDS = Path(__file__).resolve().parents[1] / "backends"
LIBPYTHON = Path(__file__).resolve().parents[1] / "libpython.sh"
INSTALL = "pip install 'roadwork[serve]'"


@dataclass(frozen=True)
class Embedded:
    """Where the parts of the embedded server are.

    `environment` is what tritonserver and its stubs need on top of the caller's own.
    """

    binary: Path
    backends: Path
    caches: Path
    environment: dict[str, str]


def assemble(cache: Path | None = None) -> Embedded:
    """The embedded server of this Python environment, assembled if it is not there yet.

    Args:
        cache: folder to assemble in; by default `$ROADWORK_CACHE`, or `roadwork` in the user's cache folder.

    Raises:
        PlatformError: wrong platform or Python, or a package is missing.
    """
    check_platform()
    if not BACKENDS.is_dir():
        raise PlatformError(f"{BACKENDS} is missing; install the checkout in place: pip install -e '.[serve]'")
    wheel = _wheel()
    triton = wheel / "pytriton" / "tritonserver"
    stub = (
        triton / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}" / "triton_python_backend_stub"
    )
    if not stub.is_file():
        raise PlatformError(
            f"{WHEEL} {metadata.version(WHEEL)} has no stub for Python {sys.version_info[0]}.{sys.version_info[1]}; "
            f"install again with Python 3.10, 3.11 or 3.12"
        )
    backends = _assemble(cache or cache_folder(), triton / "backends" / "python", stub)
    binary = triton / "bin" / "tritonserver"
    if not os.access(binary, os.X_OK):  # some installers drop the bit
        raise PlatformError(f"{binary} cannot be executed; run: chmod +x {binary}")
    return Embedded(binary, backends, triton / "caches", _environment(wheel / "nvidia_pytriton.libs"))


def check_platform() -> None:
    """Raise PlatformError unless this is Linux on x86-64 with a CPython that the wheel has a stub for."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise PlatformError(
            f"the embedded server runs on Linux x86_64, this is {system} {machine}; "
            "use deploy/container/ or a server on another machine"
        )
    version = sys.version_info[:2]
    if platform.python_implementation() != "CPython" or not PYTHONS[0] <= version <= PYTHONS[1]:
        raise PlatformError(
            f"the embedded server needs CPython {'.'.join(map(str, PYTHONS[0]))} to {'.'.join(map(str, PYTHONS[1]))}, "
            f"this is {platform.python_implementation()} {platform.python_version()}"
        )


def cache_folder() -> Path:
    """`$ROADWORK_CACHE`, or `roadwork` in the user's cache folder."""
    chosen = os.environ.get("ROADWORK_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roadwork"


def _wheel() -> Path:
    """Folder that `nvidia-pytriton` is installed in."""
    try:
        version = metadata.version("numpy")
        found = find_spec("pytriton")
    except metadata.PackageNotFoundError as error:
        raise PlatformError(f"package {error.name} is missing; run: {INSTALL}") from None
    if found is None or found.origin is None:
        raise PlatformError(f"package {WHEEL} is missing; run: {INSTALL}")
    if int(version.split(".")[0]) >= 2:
        # The stub of this release was built for NumPy 1: with NumPy 2 tensors arrive garbled.
        raise PlatformError(
            f"NumPy {version} does not work with tritonserver's Python stub; run: pip install 'numpy<2'"
        )
    for module, package in (("onnxruntime", "onnxruntime"), ("tritonclient.grpc", "tritonclient[grpc]")):
        if find_spec(module.split(".")[0]) is None:
            raise PlatformError(f"package {package} is missing; run: {INSTALL}")
    return Path(found.origin).parents[1]


def _environment(libraries: Path) -> dict[str, str]:
    """Variables for tritonserver; its stubs inherit them."""
    folders = [str(libraries), *_libpython_folder()]
    if os.environ.get("LD_LIBRARY_PATH"):
        folders.append(os.environ["LD_LIBRARY_PATH"])
    # The stub finds its site-packages through the python3 that is first on PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # ONNX Runtime's published builds report usage to their maker unless told not to.
    quiet = {"ORT_DISABLE_TELEMETRY": os.environ.get("ORT_DISABLE_TELEMETRY", "1")}
    return {"LD_LIBRARY_PATH": os.pathsep.join(folders), "PATH": path, **quiet}


def _libpython_folder() -> list[str]:
    """Folder of this Python's shared library, which the stub links; none where the system's loader finds it itself.

    Raises:
        PlatformError: there is none, as with a Python that was built without it.
    """
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    name = f"libpython{version}.so.1.0"
    # Relocatable Pythons tell the folder that they were built in, so look beside the interpreter as well. The last one
    # is where deploy/libpython.sh puts it.
    beside = [f"{sys.base_prefix}/lib", f"{sys.base_prefix}/lib64", f"{sys.prefix}/libpython"]
    for folder in (sysconfig.get_config_var("LIBDIR"), *beside):
        if folder and (Path(folder) / name).exists():
            return [str(folder)]
    try:
        ctypes.CDLL(name)
    except OSError:
        raise PlatformError(
            f"{name} is missing, which tritonserver's Python stub needs; on Debian and Ubuntu run: apt-get install "
            f"libpython{version}, or without root: sh {LIBPYTHON} {sys.executable} (or use a Python built with "
            "--enable-shared)"
        ) from None
    return []


def _assemble(cache: Path, python_backend: Path, stub: Path) -> Path:
    """A folder in `cache` that holds every backend, named by what went into it.

    Copies, not links: core refuses a library that a link leads out of the backend directory. It is put together under a
    temporary name and renamed, so two servers that start at once never see half of it.
    """
    parts = {"python/triton_python_backend_stub": stub}
    parts.update({f"python/{p.name}": p for p in python_backend.iterdir() if p.is_file()})
    for folder in sorted(p for p in BACKENDS.iterdir() if p.is_dir()):
        parts.update({f"{folder.name}/{p.name}": p for p in folder.glob("*.py")})
    target = cache / f"backends-{metadata.version(WHEEL)}-{_digest(parts)}"
    if target.is_dir():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".backends-", dir=cache))
    except OSError as error:
        raise PlatformError(
            f"{cache} cannot be written ({error.strerror}); set ROADWORK_CACHE to a folder that can"
        ) from None
    try:
        for name, source in parts.items():
            (draft / name).parent.mkdir(exist_ok=True)
            shutil.copy(source, draft / name)
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():  # another server that started now was not the reason
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _digest(parts: dict[str, Path]) -> str:
    """Short digest of what is assembled: contents of our few files, size and date of the wheel's libraries."""
    digest = hashlib.sha256(sys.version.encode())
    for name, path in sorted(parts.items()):
        digest.update(name.encode())
        if path.is_relative_to(BACKENDS):
            digest.update(path.read_bytes())
        else:
            status = path.stat()
            digest.update(f"{path}{status.st_size}{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:12]
