"""TensorRT plans of exported models: built by the `tensorrt` package or by `trtexec`, and served in place of the ONNX.

A plan runs on the kind of GPU and with the version of TensorRT that it was built with, so both are in its name. All
networks are strongly typed (TensorRT 11 knows no others): the ONNX file says what is computed in which precision.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ExportError
from .family import SIDE

IMAGE = "nvcr.io/nvidia/tritonserver:25.06-py3"
"""Has trtexec and the TensorRT that it serves with; deploy/container/Dockerfile builds on the same."""
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
"""Where NVIDIA's images have it."""
CANVAS = "canvas"
LARGEST_BATCH = 256
BUILD_SECONDS = 4 * 3600.0
"""Building the largest networks takes tens of minutes; one that takes this long hangs."""


@dataclass(frozen=True)
class Profile:
    """Batches that a plan takes: from `low` to `high`, and it is fastest at `best`."""

    low: int
    best: int
    high: int

    @staticmethod
    def of(batches: Sequence[int]) -> Profile:
        """1, the middle and the largest of some batches; of an even number of them the upper middle.

        Raises:
            ExportError: there is none, or one is not from 1 to LARGEST_BATCH.
        """
        if not batches or min(batches) < 1 or max(batches) > LARGEST_BATCH:
            raise ExportError(f"batches are numbers from 1 to {LARGEST_BATCH}, such as 1,8,32")
        ordered = sorted(set(batches))
        return Profile(1, ordered[len(ordered) // 2], ordered[-1])

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the canvas, without the name: smallest, best, largest."""
        return tuple((batch, SIDE, SIDE, 3) for batch in (self.low, self.best, self.high))


@dataclass(frozen=True)
class Settings:
    """How a plan is built.

    Attributes:
        workspace_gb: most memory of the GPU that a layer may use; None leaves it to TensorRT.
        timing_cache: file with what earlier builds measured, read if it is there and written anew.
    """

    profile: Profile
    workspace_gb: float | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A built plan with the version of TensorRT that built it, such as 10.13."""

    data: bytes
    version: str


Tell = Callable[[str], None]


def plan_name(version: str, gpu: str, precision: str) -> str:
    """File name of a plan: model_trt10.13_nvidia-h100-80gb-hbm3_fp16.plan."""
    return f"model_trt{version}_{slug(gpu)}_{precision}.plan"


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def short(version: str) -> str:
    """10.13 of 10.13.3.9: plans of one minor version go together."""
    return ".".join(version.split(".")[:2])


def gpu_name() -> str:
    """Name of the GPU that plans are built for, the first that this process sees.

    Raises:
        ExportError: there is none.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", *(["-i", chosen] if chosen else [])]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        raise ExportError(
            f"a TensorRT plan is built on the GPU that serves it, and nvidia-smi finds none: {error}"
        ) from None
    if not found.strip():
        raise ExportError("a TensorRT plan is built on the GPU that serves it, and nvidia-smi finds none")
    return found.strip()


def at_hand() -> Callable[[Path, Settings, Tell], Plan] | None:
    """What builds a plan of an ONNX file here: the `tensorrt` package, else `trtexec`; None without either."""
    if importlib.util.find_spec("tensorrt") is not None:
        return functools.partial(build_with, importlib.import_module("tensorrt"))
    program = shutil.which("trtexec") or (TRTEXEC if Path(TRTEXEC).is_file() else None)
    return None if program is None else functools.partial(build_by_program, program)


def container_command(onnx: Path, plan: str, settings: Settings) -> str:
    """What builds a plan of this name beside the file, in the image of Triton. For a shell."""
    inside = Path("/model")
    arguments = program_arguments(inside / onnx.name, inside / plan, settings, inside)
    docker = ["docker", "run", "--rm", "--gpus", "all", "-v", f"{onnx.absolute().parent}:{inside}", IMAGE]
    return shlex.join([*docker, TRTEXEC, *arguments])


def program_arguments(onnx: Path, plan: Path, settings: Settings, caches: Path | None = None) -> list[str]:
    """Of trtexec. `caches` is where it sees the timing cache, if not where we do."""
    names = ("--minShapes", "--optShapes", "--maxShapes")
    shapes = ["x".join(str(n) for n in shape) for shape in settings.profile.shapes()]
    found = [f"--onnx={onnx}", f"--saveEngine={plan}"]
    found += [f"{name}={CANVAS}:{shape}" for name, shape in zip(names, shapes, strict=True)]
    # TensorRT 11 is always strict about types and takes the option all the same.
    found += ["--stronglyTyped", "--noTF32", "--skipInference"]
    if settings.workspace_gb is not None:
        found.append(f"--memPoolSize=workspace:{round(settings.workspace_gb * 1024)}M")
    if settings.timing_cache is not None:
        cache = settings.timing_cache.absolute() if caches is None else caches / settings.timing_cache.name
        found.append(f"--timingCacheFile={cache}")
    return found


def build_by_program(program: str, onnx: Path, settings: Settings, tell: Tell = print) -> Plan:
    """A plan by trtexec. Raises ExportError with its errors."""
    with tempfile.TemporaryDirectory(prefix="roadwork-plan-") as scratch:
        plan = Path(scratch) / "model.plan"
        if settings.timing_cache is not None:
            settings.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        command = [program, *program_arguments(onnx.absolute(), plan, settings)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS)
        except subprocess.TimeoutExpired:
            raise ExportError(f"{onnx}: trtexec has not built it in {BUILD_SECONDS / 3600:g} hours") from None
        said = ran.stdout + ran.stderr
        if ran.returncode != 0 or not plan.is_file():
            wrong = [line for line in said.splitlines() if "[E]" in line][:12] or said.splitlines()[-12:]
            raise ExportError("\n  ".join([f"{onnx}: trtexec cannot build it:", *wrong]))
        version = re.search(r"TensorRT v(\d+)", said)
        return Plan(plan.read_bytes(), banner_version(version.group(1)) if version else "unknown")


def banner_version(digits: str) -> str:
    """10.13 of 101303, 8.6 of 8601: what trtexec calls itself."""
    number = int(digits)
    return f"{number // 10000}.{number // 100 % 100}" if number >= 100000 else f"{number // 1000}.{number // 100 % 10}"


def build_with(trt: Any, onnx: Path, settings: Settings, tell: Tell = print, *, compute: str | None = None) -> Plan:
    """A plan by the module `tensorrt`, or by `tensorrt_rtx`, which has the same classes.

    Args:
        compute: GPU that TensorRT for RTX builds for, such as SM120; it needs no GPU then. None: the GPU at hand.

    Raises:
        ExportError: TensorRT cannot take the file.
    """
    logger = _logger(trt)
    builder = trt.Builder(logger)
    if builder is None:
        raise ExportError(f"TensorRT {trt.__version__} cannot start: {logger.last()}")
    network = parsed(trt, builder, onnx, logger)
    config = builder.create_builder_config()
    # A float32 layer is meant as one; what may be less exact is float16 in the file.
    config.clear_flag(trt.BuilderFlag.TF32)
    if compute is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, compute), 0)
    if settings.workspace_gb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(settings.workspace_gb * 2**30))
    profile = builder.create_optimization_profile()
    profile.set_shape(CANVAS, *settings.profile.shapes())
    config.add_optimization_profile(profile)
    cache = open_cache(config, settings.timing_cache, tell)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise ExportError("\n  ".join([f"{onnx}: TensorRT {trt.__version__} cannot build it:", *logger.wrong[:12]]))
    if settings.timing_cache is not None and cache is not None:
        _write(settings.timing_cache, bytes(config.get_timing_cache().serialize()))
    return Plan(bytes(data), short(trt.__version__))


def parsed(trt: Any, builder: Any, onnx: Path, logger: Any) -> Any:
    """The file as a network. Raises ExportError that names what TensorRT does not take."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        problems = [_problem(trt, parser.get_error(i)) for i in range(parser.num_errors)] or logger.wrong[:12]
        raise ExportError("\n  ".join([f"{onnx}: TensorRT {trt.__version__} does not take", *problems]))
    inputs = [network.get_input(i).name for i in range(network.num_inputs)]
    if inputs != [CANVAS]:
        raise ExportError(f"{onnx}: its inputs are {', '.join(inputs)}; a detector or scene model has {CANVAS}")
    return network


def _problem(trt: Any, error: Any) -> str:
    """One of the parser's errors in a line: node, operator, why."""
    where = f"{error.node_name() or f'node {error.node()}'} ({error.node_operator() or 'no operator'})"
    if error.code() == trt.ErrorCode.UNSUPPORTED_NODE:
        return f"{where}: an operator that it does not know, or not with these attributes"
    said = [line for line in str(error.desc()).splitlines() if "Invalid Node" not in line and line.strip()]
    return f"{where}: {said[0].strip() if said else error.desc()}"


def _logger(trt: Any) -> Any:
    """Keeps TensorRT's errors instead of printing everything."""

    class Kept(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.wrong: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.wrong.append(message.strip())

        def last(self) -> str:
            return self.wrong[-1] if self.wrong else "no reason given"

    return Kept()


def open_cache(config: Any, path: Path | None, tell: Tell) -> Any:
    """The timing cache in the builder's configuration; an empty one where the file is another GPU's or version's."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        tell(f"{path}: of another GPU or version of TensorRT; a new one takes its place")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def takes(onnx: Path, compute: str = "SM120") -> list[str]:
    """What keeps TensorRT from building a file, a line each; empty where it builds. By TensorRT for RTX, without a GPU.

    Raises:
        ModuleNotFoundError: it is not installed (tensorrt-rtx-cu13).
    """
    trt = importlib.import_module("tensorrt_rtx")
    try:
        build_with(trt, onnx, Settings(Profile(1, 4, 8)), lambda line: None, compute=compute)
    except ExportError as error:
        return str(error).splitlines()
    return []
