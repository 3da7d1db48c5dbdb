"""All ONNX networks of the repository and the decoder in one process, for machines without a GPU.

An ensemble hands the canvas to a process for each network: on few cores most of what that costs is processes that take
turns, each of which finds a cold cache. Here the networks of all requests share as many threads as there are cores, one
network a thread, as in a plain loop. What each network is, its own folder says; the ensembles that ask this model are
those of the other profiles, with the same tensors.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from crew import Crew

TIMED_RUNS = 3  # of each network at load
CLOSE_SECONDS = 5.0
# A network's failure is told no sooner than this after its request came, for the reason that the onnxruntime backend's
# constant of this name has: an ensemble may have steps beside this one.
FAILURE_SECONDS = 0.1
# Requests that are here beside those that are computed: the next one's canvas is ready when a thread is.
AHEAD = 1


@dataclass(eq=False)
class Asked:
    """One request: what it wants, what has been found of it, and how many networks are still to answer."""

    number: int
    request: Any
    sender: Any
    wanted: frozenset[str]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    left: int = 0
    error: Any = None
    came: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)


class TritonPythonModel:
    """`image` STRING [b, 1] or `canvas` UINT8 [b, 640, 640, 3] to each network's outputs, `<network>_<output>`.

    From an image also to `canvas` and `geometry` FP32 [b, 5], as `decode` has them. Only networks of which something is
    wanted are run. A network that fails takes the request with it, as a step of an ensemble does.
    """

    def initialize(self, args: dict[str, str]) -> None:
        settings = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        repository = Path(args["model_repository"]).parent
        sys.path.insert(0, str(repository / "decode" / "1"))
        import decoding

        self._decoding = decoding
        self._limits = decoding.Limits(
            max_bytes=int(float(settings["max_mebibytes"]) * 2**20),
            max_pixels=int(float(settings["max_megapixels"]) * 1e6),
        )
        cv2.setNumThreads(1)
        sessions = {name: open_session(repository / name) for name in settings["models"].split(",")}
        blank = np.zeros((1, decoding.CANVAS_SIZE, decoding.CANVAS_SIZE, 3), np.uint8)
        seconds = {name: seconds_of(session, blank) for name, session in sessions.items()}
        self._sessions = {name: sessions[name] for name in sorted(seconds, key=lambda name: -seconds[name])}
        self._outputs = {
            name: {f"{name}_{output.name}" for output in session.get_outputs()}
            for name, session in self._sessions.items()
        }
        threads = int(settings["threads"]) or len(os.sched_getaffinity(0))
        self._room = threading.Semaphore(threads + AHEAD)
        self._crew = Crew(threads, lambda error: pb_utils.Logger.log_error(f"networks: {error!r}"))
        self._count = 0
        pb_utils.Logger.log_info(f"networks: {', '.join(self._sessions)}, longest first, on {threads} threads")

    def execute(self, requests: Sequence[Any]) -> None:
        """Take them in; each is answered when it is ready. Returns when there is room for another one."""
        for request in requests:
            self._room.acquire()
            self._count += 1
            wanted = frozenset(request.requested_output_names())
            asked = Asked(self._count, request, request.get_response_sender(), wanted)
            self._crew.put(asked.number, 0, lambda asked=asked: self._begin(asked))
        with self._room:
            return

    def finalize(self) -> None:
        self._crew.close(CLOSE_SECONDS)

    def _begin(self, asked: Asked) -> None:
        """Make the canvas, hand out all networks but the longest, and go on with that one."""
        try:
            self._prepare(asked)
        except Exception as error:
            asked.error = self._refusal(error)
            self._answer(asked)
            return
        names = [name for name, outputs in self._outputs.items() if outputs & asked.wanted]
        asked.left = len(names)
        if not names:
            self._answer(asked)
            return
        for step, name in enumerate(names[1:], start=1):
            self._crew.put(asked.number, step, lambda name=name: self._look(asked, name))
        self._look(asked, names[0])

    def _prepare(self, asked: Asked) -> None:
        given = pb_utils.get_input_tensor_by_name(asked.request, "canvas")
        if given is not None:
            asked.arrays["canvas"] = given.as_numpy()
            return
        # Triton refuses a request with neither.
        images = pb_utils.get_input_tensor_by_name(asked.request, "image").as_numpy().reshape(-1)
        decoded = []
        for index, one in enumerate(images):
            try:
                decoded.append(self._decoding.decode_image(one, limits=self._limits))
            except self._decoding.InvalidImage as error:
                which = f"image {index} of {len(images)}: " if len(images) > 1 else ""
                raise self._decoding.InvalidImage(f"{which}{error}") from None
        # One image is only viewed as a batch; copying the canvas would be in vain.
        canvas, geometry = (
            part[0][np.newaxis] if len(part) == 1 else np.stack(part) for part in zip(*decoded, strict=True)
        )
        asked.arrays.update(canvas=canvas, geometry=geometry)

    def _look(self, asked: Asked, name: str) -> None:
        found: dict[str, np.ndarray] = {}
        error = None
        try:
            found = run(self._sessions[name], asked.arrays["canvas"])
        except Exception as failure:
            error = pb_utils.TritonError(f"{name}: {failure}")
        with asked.lock:
            asked.arrays.update({f"{name}_{output}": array for output, array in found.items()})
            asked.error = asked.error or error
            asked.left -= 1
            last = asked.left == 0
        if last and asked.error is not None:
            # The thread has other requests' work to do meanwhile.
            rest = max(0.0, asked.came + FAILURE_SECONDS - time.monotonic())
            threading.Timer(rest, self._answer, [asked]).start()
        elif last:
            self._answer(asked)

    def _answer(self, asked: Asked) -> None:
        try:
            if asked.error is None:
                tensors = [pb_utils.Tensor(name, asked.arrays[name]) for name in asked.wanted & asked.arrays.keys()]
                response = pb_utils.InferenceResponse(tensors)
            else:
                response = pb_utils.InferenceResponse(error=asked.error)
            asked.sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:  # the request must not go without an answer
            message = pb_utils.InferenceResponse(error=pb_utils.TritonError(f"networks: {error}"))
            asked.sender.send(message, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            self._room.release()

    def _refusal(self, error: Exception) -> Any:
        if isinstance(error, self._decoding.InvalidImage):
            return pb_utils.TritonError(f"INVALID_IMAGE: {error}", pb_utils.TritonError.INVALID_ARG)
        return pb_utils.TritonError(f"decode failed: {type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)


def open_session(folder: Path) -> ort.InferenceSession:
    """The network of the latest version in `folder`, on one thread. Raises `TritonModelException`."""
    versions = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    path = (versions[-1] if versions else folder / "1") / "model.onnx"
    if not path.is_file():
        raise pb_utils.TritonModelException(f"{path} is missing; build it with: roadwork-export build {folder.name}")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise pb_utils.TritonModelException(f"{path}: ONNX Runtime {ort.__version__} cannot open it: {error}") from None


def run(session: ort.InferenceSession, canvas: np.ndarray) -> Mapping[str, np.ndarray]:
    """All outputs of a network by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"canvas": canvas}), strict=True))


def seconds_of(session: ort.InferenceSession, canvas: np.ndarray) -> float:
    """What a network takes for `canvas`; the first run, which makes room, is no measure."""
    taken = []
    for _ in range(TIMED_RUNS):
        began = time.monotonic()
        run(session, canvas)
        taken.append(time.monotonic() - began)
    return min(taken)
