"""The models without a server: the least that a request can cost on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
from roadwork_deploy.repository import members, read_config, read_models

from roadwork_bench.inprocess import load_module, onnx_session
from roadwork_bench.served import Block

T = TypeVar("T")


class BareLoop:
    """Decoder and ONNX sessions of a repository, called as directly as Python can.

    One image at a time: decode, the scene models, then all detectors and distance models at once, each in its own
    thread; the same order and the same threads inside a model as the server's. Saturated: as many workers as given,
    each of which takes one image through all models by itself with sessions of one thread, so that nothing is handed
    over or waited for.
    """

    def __init__(self, repository: Path, config_name: str) -> None:
        models = read_models(repository)
        models = {name: models[name] for name in members(models)}
        self._decode = load_module(repository / "decode" / "1" / "decoding.py", "decoding").decode_image
        files = {name: repository / name / "1" / "model.onnx" for name in models}
        self.threads = {name: _threads(model.folder, config_name) for name, model in models.items()}
        scenes = [name for name, model in models.items() if model.kind == "scene"]
        detectors = [name for name, model in models.items() if model.kind in ("boxes", "distance")]
        self._scenes = [_runner(onnx_session(files[name], self.threads[name])) for name in scenes]
        self._detectors = [_runner(onnx_session(files[name], self.threads[name])) for name in detectors]
        self._single = [_runner(onnx_session(path, 1)) for path in files.values()]
        self._pool = ThreadPoolExecutor(max(1, len(detectors)))
        cv2.setNumThreads(1)  # as `decode` does

    def close(self) -> None:
        self._pool.shutdown()

    def one(self, image: bytes) -> None:
        """One image, its detectors in parallel."""
        canvas = self._decode(image)[0][None]
        for run in self._scenes:
            run(canvas)
        first, *others = self._detectors
        # The calling thread takes one detector itself: handing all of them over would cost one wake-up more.
        waiting: list[Future] = [self._pool.submit(run, canvas) for run in others]
        first(canvas)
        for future in waiting:
            future.result()

    def alone(self, image: bytes) -> None:
        """One image in one thread."""
        canvas = self._decode(image)[0][None]
        for run in self._single:
            run(canvas)

    def block(self, images: Sequence[bytes], seconds: float, workers: int) -> Block:
        """Images for about `seconds`; `workers` 0 takes them one at a time with parallel detectors."""
        return run_block(self.one if workers == 0 else self.alone, images, seconds, max(1, workers))


def run_block(work: Callable[[T], Any], images: Sequence[T], seconds: float, workers: int) -> Block:
    """`workers` threads that each take the next image, or batch of them, until time is up."""
    latencies: list[float] = []
    start = time.perf_counter()
    end = start + seconds

    def loop(offset: int) -> None:
        index = offset
        while (before := time.perf_counter()) < end:
            work(images[index % len(images)])
            latencies.append(time.perf_counter() - before)
            index += workers

    if workers == 1:
        loop(0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            for future in [pool.submit(loop, offset) for offset in range(workers)]:
                future.result()
    return Block(latencies, time.perf_counter() - start)


def _runner(session: Any) -> Callable[[Any], Any]:
    return lambda canvas: session.run(None, {"canvas": canvas})


def _threads(folder: Path, config_name: str) -> int:
    """Threads inside an operator as the profile's configuration has them, 0 where it leaves them open."""
    path = folder / "configs" / f"{config_name}.pbtxt"
    config = read_config(path if path.is_file() else folder / "config.pbtxt")
    return int(config.parameters["intra_op_thread_count"].string_value or 0)
