"""`roadwork-bench networks`: detectors and scene models through the server against their own sessions, called bare.

Canvases lie in shared memory, as perf_analyzer's `--shared-memory system` has them: what is compared is the server and
its backend, not a network between client and server.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import tritonclient.grpc as grpc
import tritonclient.utils.shared_memory as shm
from roadwork_deploy.profile import Profile, Share, load_profile
from roadwork_deploy.repository import Model, read_models, without_weights
from roadwork_deploy.serve import prepare
from roadwork_deploy.wire import wire
from roadwork_export.errors import first_line
from tritonclient.utils import InferenceServerException

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.bare import run_block
from roadwork_bench.errors import BenchError
from roadwork_bench.inprocess import load_module, onnx_session
from roadwork_bench.medians import median_interval, shown
from roadwork_bench.output import save_report, saying
from roadwork_bench.pairs import in_pairs
from roadwork_bench.served import REQUEST_SECONDS, Block

CANVAS = (640, 640, 3)
SLOTS = 2
"""Different batches that requests take in turn."""
WARM_SECONDS = 1.0
MATRIX = 4096
PERCEPTION = "perception"

Step = Callable[[float], Block]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", help="folders of the repository")
    parser.add_argument("--batch", default="1,8,32", help="images a request")
    parser.add_argument("--in-flight", type=int, default=4, help="requests on their way when saturated")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each block")
    parser.add_argument("--pairs", type=int, default=4, help="blocks of each side, in turn")
    parser.add_argument("--together", action="store_true", help="also all of them at once, as `perception`")
    parser.add_argument(
        "--one-server", action="store_true",
        help="load all of them into one server, at the same time: quicker, and needs the memory of all",
    )  # fmt: skip
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--out", type=Path, help="write the figures to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    batches = [int(word) for word in arguments.batch.split(",")]
    profile = load_profile(arguments.profile)
    device = "GPU" if profile.device == "gpu" else "CPU"
    report: dict[str, Any] = {"about": about(command), "profile": profile.name, "device": device}
    report["matrix_product_tflops"] = round(matrix_rate(device) / 1e12, 2)
    saying(f"{device}: matrix products at {report['matrix_product_tflops']} TFLOP/s")
    canvases = some_canvases(max(batches) * SLOTS)
    report["networks"], report["failed"] = {}, {}

    def save() -> None:
        if arguments.out:  # after each network: a long run that breaks off keeps what it has
            save_report(report, arguments.out)

    if arguments.one_server:
        in_one_server(arguments, profile, batches, canvases, report, save)
    else:
        one_by_one(arguments, profile, batches, canvases, report, save)
    print(summary(report))
    return 1 if report["failed"] else 0


def one_by_one(
    arguments: argparse.Namespace, profile: Profile, batches: list[int], canvases: np.ndarray, report: dict[str, Any],
    save: Callable[[], None],
) -> None:  # fmt: skip
    """A server for each network, and one for all of them together."""
    for name in arguments.names:
        try:
            with only(arguments.model_repository, [name], profile) as (repository, alone):
                bare = Bare(repository, name, alone)
                with prepare(repository, alone).server as server:
                    report["networks"][name] = measure(server.grpc_url, bare, batches, canvases, arguments, report)
        except Exception as error:  # whatever its runtime raises: one of many does not end the others' run
            report["failed"][name] = first_line(error)
            saying(f"{name}: {report['failed'][name]}")
        save()
    if arguments.together and report["networks"]:
        with (
            only(arguments.model_repository, list(report["networks"]), profile) as (repository, all_of_them),
            prepare(repository, as_perception(all_of_them)).server as server,
        ):
            report["together"] = together(server.grpc_url, batches, canvases, arguments, report)
        save()


def in_one_server(
    arguments: argparse.Namespace, profile: Profile, batches: list[int], canvases: np.ndarray, report: dict[str, Any],
    save: Callable[[], None],
) -> None:  # fmt: skip
    """All networks in one server, asked one after the other and then together. Those whose sessions do not run bare are
    left out.
    """
    with only(arguments.model_repository, arguments.names, profile) as (repository, every):
        opened = open_all(repository, every, batches, canvases, report["failed"])
    if not opened:
        return
    with only(arguments.model_repository, list(opened), profile) as (repository, every):
        saying(f"starting a server with {len(opened)} networks")
        before = time.monotonic()
        server = prepare(repository, as_perception(every) if arguments.together else every).server
        with server:
            report["start_seconds"] = round(time.monotonic() - before, 1)
            for name in list(opened):
                bare = opened.pop(name)  # what it holds of the GPU's memory goes with it
                try:
                    report["networks"][name] = measure(server.grpc_url, bare, batches, canvases, arguments, report)
                except Exception as error:  # whatever its runtime raises: one of many does not end the others' run
                    report["failed"][name] = first_line(error)
                    saying(f"{name}: {report['failed'][name]}")
                save()
            if arguments.together and not report["failed"]:
                report["together"] = together(server.grpc_url, batches, canvases, arguments, report)
                save()


def open_all(
    repository: Path, profile: Profile, batches: list[int], canvases: np.ndarray, failed: dict[str, str]
) -> dict[str, Bare]:
    """Sessions that have run each batch once, all at the same time: first runs of a shape are slow on a GPU."""

    def opened(name: str) -> Bare | None:
        try:
            bare = Bare(repository, name, profile)
            for batch in batches:
                bare(canvases[:batch])
        except Exception as error:  # whatever its runtime raises: one of many does not end the others' run
            failed[name] = first_line(error)
            saying(f"{name}: {failed[name]}")
            return None
        return bare

    names = list(profile.entries)
    saying(f"opening {len(names)} networks")
    with ThreadPoolExecutor(len(names)) as pool:
        found = dict(zip(names, pool.map(opened, names), strict=True))
    return {name: bare for name, bare in found.items() if bare is not None}


def as_perception(profile: Profile) -> Profile:
    """The profile with the ensemble of its networks too."""
    entries = (*profile.entries, PERCEPTION)
    return dataclasses.replace(profile, entries=entries, models={**profile.models, PERCEPTION: Share()})


class Bare:
    """A network's own session, as the server's backend opens it."""

    def __init__(self, repository: Path, name: str, profile: Profile) -> None:
        path = repository / name / "1" / "model.onnx"
        self.name = name
        self.operations = operations_of(path)
        self._session = bare_session(path, read_models(repository)[name], profile)

    def __call__(self, canvases: np.ndarray) -> None:
        self._session.run(None, {"canvas": canvases})


@contextmanager
def only(repository: Path, names: Sequence[str], profile: Profile) -> Iterator[tuple[Path, Profile]]:
    """A repository with these folders alone, wired, and the profile without all else."""
    with tempfile.TemporaryDirectory(prefix="roadwork-networks-") as folder:
        copy = Path(folder) / "model_repository"
        for name in names:
            if not (repository / name / "config.pbtxt").is_file():
                raise BenchError(f"{repository / name}: no such model; roadwork-export onnx {name} writes it")
            shutil.copytree(repository / name, copy / name)
        (copy / PERCEPTION / "1").mkdir(parents=True)
        wire(copy)
        models = read_models(copy)
        for name, command in without_weights(models).items():
            raise BenchError(f"{name} has no weights here; bring them with: {command}")
        strange = [name for name in names if models[name].kind is None]
        if strange:
            raise BenchError(f"{', '.join(strange)}: not a detector or scene model")
        shares = {name: profile.plan(models)[name] for name in names}
        yield copy, dataclasses.replace(profile, entries=tuple(names), models=shares, tiers=())


def measure(
    url: str, bare: Bare, batches: list[int], canvases: np.ndarray, arguments: argparse.Namespace,
    report: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """One network at each batch: alone and saturated through the server, and bare."""
    operations = bare.operations
    found: dict[str, Any] = {"gigaflops": round(operations / 1e9, 2) if operations else None, "batches": {}}
    for batch in batches:
        with Requests(url, bare.name, batch, canvases) as requests:
            saying(f"{bare.name}, batch {batch}")
            slots = [canvases[i * batch : (i + 1) * batch] for i in range(SLOTS)]

            def alone(seconds: float, slots: list[np.ndarray] = slots) -> Block:
                return run_block(bare, slots, seconds, 1)

            alone(min(WARM_SECONDS, arguments.seconds))
            requests.block(min(WARM_SECONDS, arguments.seconds), arguments.in_flight)

            def pairs(in_flight: int, requests: Requests = requests, alone: Step = alone) -> list[tuple[Block, Block]]:
                return in_pairs(
                    lambda _: requests.block(arguments.seconds, in_flight),
                    lambda _: alone(arguments.seconds),
                    arguments.pairs,
                )

            one, many = pairs(1), pairs(arguments.in_flight)
            found["batches"][str(batch)] = compared(one, many, batch, arguments.in_flight)
    if operations:
        found["limit_images_per_second"] = round(report["matrix_product_tflops"] * 1e12 / operations, 1)
    return found


def together(
    url: str, batches: list[int], canvases: np.ndarray, arguments: argparse.Namespace, report: dict[str, Any]
) -> dict[str, Any]:
    """All at once as `perception`, against what the bare sessions would reach one after the other on one device."""
    found = {}
    for batch in batches:
        with Requests(url, PERCEPTION, batch, canvases) as requests:
            saying(f"all of them, batch {batch}")
            requests.block(WARM_SECONDS, arguments.in_flight)
            blocks = [requests.block(arguments.seconds, arguments.in_flight) for _ in range(arguments.pairs)]
        rates = [n["batches"][str(batch)]["bare_images_per_second"] for n in report["networks"].values()]
        combined = 1 / sum(1 / rate for rate in rates)
        reached = float(np.median([block.throughput * batch for block in blocks]))
        found[str(batch)] = {
            "images_per_second": round(reached, 2),
            "bare_combined": round(combined, 2),
            "share": round(reached / combined, 3),
        }
    return found


class Requests:
    """Requests of `batch` canvases to one model, from shared memory."""

    def __init__(self, url: str, model: str, batch: int, canvases: np.ndarray) -> None:
        self.model = model
        self.client = grpc.InferenceServerClient(url)
        size = batch * int(np.prod(CANVAS))
        self.name = f"roadwork_bench_{time.monotonic_ns()}"
        self.region = shm.create_shared_memory_region(self.name, f"/{self.name}", size * SLOTS)
        self.inputs = []
        for slot in range(SLOTS):
            shm.set_shared_memory_region(self.region, [canvases[slot * batch : (slot + 1) * batch]], slot * size)
            tensor = grpc.InferInput("canvas", [batch, *CANVAS], "UINT8")
            tensor.set_shared_memory(self.name, size, slot * size)
            self.inputs.append([tensor])
        self.client.register_system_shared_memory(self.name, f"/{self.name}", size * SLOTS)

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *raised: object) -> None:
        # The server lets go of an answered request's inputs a moment later.
        for _ in range(50):
            try:
                self.client.unregister_system_shared_memory(self.name)
                break
            except InferenceServerException:
                time.sleep(0.1)
        self.client.close()
        shm.destroy_shared_memory_region(self.region)

    def block(self, seconds: float, in_flight: int) -> Block:
        """Latency of each request; all of them are waited for."""

        def ask(inputs: list[Any]) -> None:
            self.client.infer(self.model, inputs, client_timeout=REQUEST_SECONDS)

        try:
            return run_block(ask, self.inputs, seconds, in_flight)
        except InferenceServerException as error:
            raise BenchError(f"the server failed a request: {error}") from error


def bare_session(path: Path, model: Model, profile: Profile) -> ort.InferenceSession:
    """A session as the server's backend opens it with this profile."""
    if profile.device == "gpu":
        ort.preload_dlls()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(
            str(path), options, providers=["CUDAExecutionProvider"], provider_options=[cuda_options(model, profile)]
        )
        if "CUDAExecutionProvider" not in session.get_providers():
            raise BenchError("ONNX Runtime could not start CUDA; install onnxruntime-gpu and the libraries it names")
        return session
    share = profile.plan({model.name: model})[model.name]
    return onnx_session(path, share.threads or 0)


def cuda_options(model: Model, profile: Profile) -> dict[str, str]:
    """What the server's backend reads from the model's parameters with those of the profile over them."""
    given = {key: value.string_value for key, value in model.config.parameters.items()}
    given |= profile.plan({model.name: model})[model.name].parameters
    settings = load_module(CHECKOUT / "deploy" / "backends" / "onnxruntime" / "ort_settings.py", "ort_settings")
    parameters = {key: {"string_value": text} for key, text in given.items()}
    return dict(settings.read_settings({"name": model.name, "parameters": parameters}).cuda_options)


def compared(
    one: list[tuple[Block, Block]], many: list[tuple[Block, Block]], batch: int, in_flight: int
) -> dict[str, Any]:
    """Figures of a batch. Latencies of one request, in milliseconds; rates in images a second."""
    served = np.concatenate([block.latencies for block, _ in one]) * 1000
    bare = np.concatenate([block.latencies for _, block in one]) * 1000
    return {
        "served_ms_p50": round(float(np.quantile(served, 0.5)), 2),
        "served_ms_p95": round(float(np.quantile(served, 0.95)), 2),
        "bare_ms_p50": round(float(np.quantile(bare, 0.5)), 2),
        "bare_ms_p95": round(float(np.quantile(bare, 0.95)), 2),
        "latency_ratio": median_interval([a.median / b.median for a, b in one]),
        "in_flight": in_flight,
        "served_images_per_second": round(float(np.median([a.throughput * batch for a, _ in many])), 2),
        "bare_images_per_second": round(float(np.median([b.throughput * batch for _, b in many])), 2),
        "throughput_ratio": median_interval([a.throughput / b.throughput for a, b in many]),
    }


def some_canvases(count: int) -> np.ndarray:
    """uint8 [count, 640, 640, 3]: rendered scenes, mirrored and shifted so that no two are the same."""
    from roadwork_export.canvas import rendered

    scenes = rendered(8, 9_200_000)
    return np.stack([np.roll(scenes[i % 8], 7 * (i // 8), axis=1) for i in range(count)])


def operations_of(path: Path) -> float | None:
    """Floating point operations an image, as the export counted them; None where the file does not say."""
    metadata = {p.key: p.value for p in onnx.load(str(path), load_external_data=False).metadata_props}
    return float(metadata["gigaflops"]) * 1e9 if "gigaflops" in metadata else None


def matrix_rate(device: str) -> float:
    """Floating point operations a second of a large matrix product: float32 on a CPU, bfloat16 on a GPU by torch."""
    import torch

    on_gpu = device == "GPU"
    side = 2 * MATRIX if on_gpu else MATRIX // 4
    kind = {"device": "cuda", "dtype": torch.bfloat16} if on_gpu else {"dtype": torch.float32}
    a, b = torch.randn(side, side, **kind), torch.randn(side, side, **kind)  # type: ignore[arg-type]

    def product(times: int) -> float:
        before = time.perf_counter()
        for _ in range(times):
            a @ b
        if on_gpu:
            torch.cuda.synchronize()
        return (time.perf_counter() - before) / times

    product(5)
    return 2.0 * side**3 / min(product(10) for _ in range(3))


def summary(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{name}: not measured: {reason}" for name, reason in report["failed"].items()]
    for name, found in report["networks"].items():
        limit = found.get("limit_images_per_second")
        lines.append(f"{name}: arithmetic limit {limit} images/s" if limit else name)
        for batch, figures in found["batches"].items():
            lines += [
                f"  batch {batch}: {figures['served_ms_p50']} ms (p95 {figures['served_ms_p95']}), bare "
                f"{figures['bare_ms_p50']} (p95 {figures['bare_ms_p95']}); {figures['served_images_per_second']} "
                f"images/s, bare {figures['bare_images_per_second']}: {shown(figures['throughput_ratio'])}",
            ]
    for batch, figures in report.get("together", {}).items():
        lines.append(
            f"all at once, batch {batch}: {figures['images_per_second']} images/s, {figures['share']:.0%} of the bare "
            f"sessions' combined {figures['bare_combined']}"
        )
    return "\n".join(lines)
