"""Child process: asks the served tier over one gRPC stream, with as little of its own as can be.

    python -m roadwork_bench.tiers.client SETTINGS.json

SETTINGS.json: `url`, `model`, `prompt`, `sampling`. Messages and answers are those of `bare_engine`.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc

from roadwork_bench.tiers.images import read_images
from roadwork_bench.tiers.worker import answer_lines, claim_stdout

WAIT_SECONDS = 120.0
ANSWERS_IN_FLIGHT = 4


class _Run:
    """Requests of one message. Every answer begins the next request, in the thread that the answer came in."""

    def __init__(self, client: TierClient, images: list[bytes], in_flight: int, seconds: float, least: int) -> None:
        self._client = client
        self._images = images
        self._in_flight = in_flight
        self._least = least
        self._stop = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._next = 0
        self._under_way = 0
        self._begun: dict[str, float] = {}
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.results: dict[int, Any] = {}
        self.error: str | None = None
        self.done = threading.Event()

    def start(self) -> None:
        for _ in range(min(self._in_flight, len(self._images))):
            self._send()
        if not self._under_way:
            self.done.set()

    def answered(self, result: Any, error: Any) -> None:
        now = time.monotonic()
        with self._lock:
            self._under_way -= 1
        if error is not None:
            self.error = self.error or str(error)
            self.done.set()  # one for all that are on their way, where the stream itself has broken
        else:
            number = result.get_response().id
            self.begins.append(self._begun.pop(number))
            self.ends.append(now)
            if self._client.keep:
                self.results[int(number)] = result
        if self.error is None:
            self._send()
        if self._under_way <= 0:
            self.done.set()

    def _send(self) -> None:
        with self._lock:
            begin, index = time.monotonic(), self._next
            if index >= len(self._images) or (begin >= self._stop and index >= self._least):
                return
            self._next += 1
            self._under_way += 1
        self._begun[str(index)] = begin
        self._client.send(self._images[index], str(index))


class TierClient:
    """One stream to one model. Settings as in the module's text."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._model = settings["model"]
        self._fixed = [
            _text("text_input", settings["prompt"].encode()),
            _text("sampling_parameters", json.dumps(settings["sampling"]).encode()),
            _flag("exclude_input_in_output"),
            _flag("return_logprobs"),
            _flag("return_num_input_tokens"),
        ]
        self.keep = False
        self._run: _Run | None = None
        self._client = grpc.InferenceServerClient(settings["url"])
        self._client.start_stream(lambda result, error: self._run and self._run.answered(result, error))

    def send(self, image: bytes, number: str) -> None:
        tensor = _text("image", base64.b64encode(image))
        self._client.async_stream_infer(self._model, [*self._fixed, tensor], request_id=number)

    def handle(self, message: dict[str, Any]) -> dict[str, Any]:
        images = read_images(message["images"])[message.get("first", 0) :: message.get("step", 1)]
        self.keep = message["do"] == "answers"
        in_flight = message.get("in_flight", ANSWERS_IN_FLIGHT)
        run = self._run = _Run(self, images, in_flight, message.get("seconds", WAIT_SECONDS), message.get("least", 0))
        run.start()
        if not run.done.wait(message.get("seconds", 0.0) + WAIT_SECONDS):
            raise TimeoutError(f"{len(run.ends)} answers in {WAIT_SECONDS:g} s more than was to take")
        if run.error is not None:
            raise RuntimeError(run.error)
        if not self.keep:
            return {"begins": run.begins, "ends": run.ends}
        found = [run.results[number] for number in range(len(images))]
        return {
            "answers": [_answer(result) for result in found],
            "input_tokens": int(found[0].as_numpy("num_input_tokens")[0]),
        }

    def close(self) -> None:
        """End the stream. It is cancelled only where an answer is missing: see `roadwork_deploy.probe`."""
        missing = self._run is not None and (self._run.error is not None or not self._run.done.is_set())
        self._client.stop_stream(cancel_requests=missing)
        self._client.close()


def _answer(result: Any) -> dict[str, float]:
    tokens = json.loads(result.as_numpy("logprobs")[0])
    return {token: entry["logprob"] for token, entry in tokens[0].items()}


def _text(name: str, value: bytes) -> Any:
    tensor = grpc.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value], np.object_))
    return tensor


def _flag(name: str) -> Any:
    tensor = grpc.InferInput(name, [1], "BOOL")
    tensor.set_data_from_numpy(np.array([True]))
    return tensor


def main() -> None:
    out = claim_stdout()
    client = TierClient(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        answer_lines(out, client.handle, {"ready": True})
    finally:
        client.close()


if __name__ == "__main__":
    main()
