"""The models of a repository in this very process: an `Engine` (docs/contracts.md) with no server.

Decoding and reading signs use the repository's own Python files, ONNX models run in ONNX Runtime, and ensembles are
followed by their `config.pbtxt`: what is measured or recorded here is what the server serves.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from roadwork_cascade.engine import INVALID_IMAGE, EngineError, EngineTimeout, ModelUnavailable, Piece
from roadwork_deploy.repository import Model, read_models

from roadwork_bench.opening import load_module, onnx_session

Arrays = dict[str, np.ndarray]

SIGN_MILLISECONDS = 30_000.0
"""Time that reading signs may take here, in place of the served bound: a recorded score must not depend on what else
this machine was doing."""


class InProcessEngine:
    """Runs models of `repository`; `files` gives some members other ONNX files (those of a fold).

    `run` is synchronous and may be called from several threads; `infer` is the cascade's protocol on top of it. Models
    are loaded when they are first asked.
    """

    def __init__(self, repository: Path, *, files: Mapping[str, Path] | None = None, threads: int = 0) -> None:
        self.repository = repository
        self.models: dict[str, Model] = read_models(repository)
        self._files = dict(files or {})
        self._threads = threads
        self._runners: dict[str, Callable[[Mapping[str, np.ndarray]], Arrays]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="inprocess")

    def __enter__(self) -> InProcessEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the sessions."""
        self._pool.shutdown()
        self._runners.clear()

    def onnx_file(self, model: str) -> Path:
        """The file that the model runs."""
        return self._files.get(model, self.repository / model / "1" / "model.onnx")

    def members(self) -> dict[str, str]:
        """Kind of every model that has one by its signature and weights, and `sign_text` where it is there."""
        kinds: dict[str, str] = {
            name: model.kind for name, model in self.models.items() if model.kind and self.onnx_file(name).is_file()
        }
        if "sign_text" in self.models:
            kinds["sign_text"] = "text"
        return kinds

    def digest(self, model: str) -> str:
        """First 12 hex digits of the SHA-256 of the files that make the model's answers."""
        folder = self.repository / model
        paths = [self.onnx_file(model)]
        if model == "sign_text":
            paths = sorted([*folder.glob("1/*.py"), *folder.glob("*.yaml")])
        return _digest(tuple(paths))

    def run(self, model: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """All outputs of a model that is no ensemble. Raises EngineError."""
        with self._lock:
            if model not in self._runners:
                self._runners[model] = self._load(model)
        try:
            return self._runners[model](inputs)
        except EngineError:
            raise
        except Exception as error:
            if type(error).__name__ == "InvalidImage":
                raise EngineError(f"{INVALID_IMAGE}{error}") from None
            raise EngineError(f"{model}: {type(error).__name__}: {error}") from error

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> Arrays:
        """See `roadwork_cascade.engine.Engine`."""
        try:
            return await asyncio.wait_for(self._ask(model, inputs), timeout)
        except asyncio.TimeoutError:
            raise EngineTimeout(f"{model}: no answer within {timeout * 1000:.0f} ms") from None

    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        images: Sequence[bytes],
        sampling: Mapping[str, Any],
        stream: bool,
        timeout: float,
    ) -> AsyncIterator[Piece]:
        """Tiers have an engine of their own, which does not run here: the cascade goes on without them."""
        raise ModelUnavailable(f"{model}: vision-language tiers are not run in process")
        yield  # an asynchronous generator, as the protocol wants

    async def _ask(self, model: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        config = self.models.get(model)
        if config is not None and config.ensemble:
            return await self._ensemble(config, inputs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.run, model, inputs)

    async def _ensemble(self, model: Model, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """All steps whose inputs are there run at once, as Triton does it."""
        tensors: Arrays = dict(inputs)
        waiting = list(model.config.ensemble_scheduling.step)
        while waiting:
            ready = [step for step in waiting if set(step.input_map.values()) <= set(tensors)]
            if not ready:
                raise EngineError(f"{model.name}: no step can run with {', '.join(sorted(tensors))}")
            given = [{name: tensors[source] for name, source in step.input_map.items()} for step in ready]
            answers = await asyncio.gather(
                *(self._ask(step.model_name, part) for step, part in zip(ready, given, strict=True))
            )
            for step, answer in zip(ready, answers, strict=True):
                tensors.update({target: answer[name] for name, target in step.output_map.items()})
                waiting.remove(step)
        return tensors

    def _load(self, model: str) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
        if model == "decode":
            decoding = load_module(self.repository / "decode" / "1" / "decoding.py", "decoding")
            return functools.partial(_decode, decoding.decode_image)
        if model == "sign_text":
            return self._load_sign_text()
        if self.models.get(model) is None and model not in self._files:
            raise ModelUnavailable(f"{model} is not in {self.repository}")
        session = onnx_session(self.onnx_file(model), self._threads)
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))

    def _load_sign_text(self) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
        load_module(self.repository / "decode" / "1" / "decoding.py", "decoding")
        folder = self.repository / "sign_text" / "1"
        load_module(folder / "matching.py", "matching")
        reading = load_module(folder / "reading.py", "reading")
        given = {k: v.string_value for k, v in self.models["sign_text"].config.parameters.items()}
        settings = reading.Settings(
            max_milliseconds=SIGN_MILLISECONDS,
            find_megapixels=float(given["find_megapixels"]),
            read_side=int(given["read_side"]),
            max_lines=int(given["max_lines"]),
            threads=int(given["threads"]),
        )
        reader, lock = reading.SignReader(settings=settings), threading.Lock()

        def read(inputs: Mapping[str, np.ndarray]) -> Arrays:
            with lock:  # RapidOCR keeps state
                result = reader.read(inputs["image"].reshape(-1)[0])
            words = json.dumps([asdict(word) for word in result.words], ensure_ascii=False)
            return {
                "presence": np.array([result.presence], np.float32),
                "words": np.array([words.encode()], np.object_),
            }

        return read


def image_tensor(data: bytes) -> np.ndarray:
    """Encoded bytes as the object array [1, 1] that `decode` takes."""
    tensor = np.empty((1, 1), np.object_)
    tensor[0, 0] = data
    return tensor


def _decode(decode_image: Callable[[bytes], Any], inputs: Mapping[str, np.ndarray]) -> Arrays:
    canvas, geometry = decode_image(inputs["image"].reshape(-1)[0])
    return {"canvas": canvas[np.newaxis], "geometry": geometry[np.newaxis]}


@functools.lru_cache(maxsize=256)
def _digest(paths: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise ModelUnavailable(f"{path} is missing")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
