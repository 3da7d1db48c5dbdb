"""Requests to the served cascade, with the plainest client there is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as grpc

from roadwork_bench.errors import BenchError

REQUEST_SECONDS = 60.0


@dataclass(frozen=True)
class Block:
    """latencies in seconds, one an image; seconds of the whole block."""

    latencies: list[float]
    seconds: float

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.latencies))

    @property
    def throughput(self) -> float:
        """Images a second."""
        return len(self.latencies) / self.seconds


@dataclass
class ServedCascade:
    """`roadwork` behind gRPC. Every answer must be whole (status ok), and with `all_stages` of every expected member:
    a verdict that left out a model would be a fast one, not a fair one.
    """

    url: str
    expected: set[str]
    _client: Any = field(init=False)

    def __post_init__(self) -> None:
        self._client = grpc.InferenceServerClient(self.url)

    def close(self) -> None:
        self._client.close()

    def block(self, images: Sequence[bytes], seconds: float, in_flight: int, *, all_stages: bool) -> Block:
        """Keep `in_flight` requests on their way for about `seconds`; all of them are waited for."""
        requests = [inputs_of(image, all_stages=all_stages, tiers=False) for image in images]
        block, verdicts = self.ask(requests, seconds, in_flight)
        self._check(verdicts, all_stages)
        return block

    def ask(self, requests: Sequence[list[Any]], seconds: float, in_flight: int) -> tuple[Block, list[bytes]]:
        """The same with requests that were made before; their verdicts, which nobody has looked at."""
        latencies: list[float] = []
        verdicts: list[bytes] = []
        start = time.perf_counter()
        if in_flight == 1:
            index = 0
            while (before := time.perf_counter()) - start < seconds:
                answer = self._client.infer("roadwork", requests[index % len(requests)], client_timeout=REQUEST_SECONDS)
                verdicts.append(answer.as_numpy("verdict")[0])
                latencies.append(time.perf_counter() - before)
                index += 1
        else:
            self._flood(requests, start + seconds, in_flight, latencies, verdicts)
        return Block(latencies, time.perf_counter() - start), verdicts

    def _flood(
        self, requests: Sequence[list[Any]], end: float, in_flight: int, latencies: list[float], verdicts: list[bytes]
    ) -> None:
        slots, errors = threading.Semaphore(in_flight), []

        def done(result: Any, error: Any, before: float) -> None:
            if error is not None:
                errors.append(error)
            else:
                latencies.append(time.perf_counter() - before)
                verdicts.append(result.as_numpy("verdict")[0])
            slots.release()

        index = 0
        while time.perf_counter() < end and not errors:
            slots.acquire()
            before = time.perf_counter()
            self._client.async_infer(
                "roadwork",
                requests[index % len(requests)],
                lambda result, error, before=before: done(result, error, before),
                client_timeout=REQUEST_SECONDS,
            )
            index += 1
        for _ in range(in_flight):
            slots.acquire()
        if errors:
            raise BenchError(f"the server failed a request: {errors[0]}")

    def _check(self, verdicts: Sequence[bytes], all_stages: bool) -> None:
        for text in verdicts:
            verdict = json.loads(text)
            told = {answer["member"] for answer in verdict["answers"]}
            if verdict["status"] != "ok" or (all_stages and told != self.expected):
                missing = ", ".join(f"{gap['member']}: {gap['detail']}" for gap in verdict["missing"])
                raise BenchError(
                    f"a verdict is {verdict['status']} with answers of {', '.join(sorted(told))}, so the comparison "
                    f"would not be fair ({missing or 'nothing is missing'})"
                )


def inputs_of(image: bytes, **options: Any) -> list[Any]:
    """The request tensors of an image and its options."""
    inputs = []
    for name, value in (("image", image), ("options", json.dumps(options).encode())):
        tensor = grpc.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([value], np.object_))
        inputs.append(tensor)
    return inputs
