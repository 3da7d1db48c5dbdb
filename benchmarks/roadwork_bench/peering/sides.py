"""The sides of the comparison: a server with its client, or the bare loop in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from roadwork_bench.bare import BareLoop
from roadwork_bench.errors import BenchError
from roadwork_bench.tiers.timing import Requests
from roadwork_bench.tiers.worker import Worker

GRACE_SECONDS = 90.0  # over a block's own time, for requests that are still under way
TOLERANCE = 1e-3
CLIENT = "roadwork_bench.peering.client"
OURS, STAGED, BARE = "roadwork", "roadwork, stages on", "bare"


class Side(Protocol):
    """What is measured. `name` is its key in the report."""

    name: str

    def saturate(self, in_flight: int, seconds: float) -> Requests:
        """As many requests on their way for `seconds`."""

    def cpu_seconds(self) -> float:
        """Seconds that its server has computed so far."""

    def close(self) -> None:
        """End what it has started."""


@dataclass(frozen=True)
class Expected:
    """Probabilities of every image, by the same networks in this process."""

    probabilities: Sequence[float]

    def check(self, side: str, images: Sequence[int], said: Sequence[float]) -> float:
        """Largest difference. Raises BenchError over `TOLERANCE`: then the sides did not do the same work."""
        if not said:
            raise BenchError(f"{side} answered nothing")
        differences = [abs(p - self.probabilities[index]) for index, p in zip(images, said, strict=True)]
        worst = max(range(len(said)), key=differences.__getitem__)
        if differences[worst] > TOLERANCE:
            raise BenchError(
                f"{side} says {said[worst]:.5f} of image {images[worst]} and the bare models say "
                f"{self.probabilities[images[worst]]:.5f}: they do not do the same work, so no speed is compared"
            )
        return differences[worst]


class ServerSide:
    """A server that is running, and the process that asks it.

    Args:
        settings: of the client, without its images.
        images: file of the images.
        expected: what every answer must say; None where stages may end early.
        cpu_seconds: of the server.
    """

    def __init__(
        self, name: str, settings: Mapping[str, Any], images: Path, expected: Expected | None,
        cpu_seconds: Callable[[], float], folder: Path,
    ) -> None:  # fmt: skip
        self.name, self.largest_difference = name, 0.0
        self._expected, self._cpu = expected, cpu_seconds
        stem = f"client-{name.replace(', ', '-').replace(' ', '-')}-{time.monotonic_ns()}"
        path = folder / f"{stem}.json"
        path.write_text(json.dumps({"all_stages": expected is not None, "images": str(images), **settings}))
        self._client = Worker(CLIENT, [str(path)], folder / f"{stem}.log")
        try:
            self._client.receive(GRACE_SECONDS)
        except BaseException:
            self._client.close()
            raise

    def saturate(self, in_flight: int, seconds: float) -> Requests:
        return self._block({"do": "saturate", "in_flight": in_flight, "seconds": seconds}, in_flight)

    def rate(self, rate: float, seconds: float, seed: int) -> Requests:
        """Poisson arrivals of `rate` a second; the same seed gives the same arrivals."""
        return self._block({"do": "rate", "rate": rate, "seconds": seconds, "seed": seed}, 1)

    def cpu_seconds(self) -> float:
        return self._cpu()

    def close(self) -> None:
        self._client.close()

    def _block(self, message: dict[str, Any], in_flight: int) -> Requests:
        before = self.cpu_seconds()
        try:
            found = self._client.ask(message, float(message["seconds"]) + GRACE_SECONDS)
        except BenchError as error:
            raise BenchError(f"{self.name}: {error}") from None
        spent = self.cpu_seconds() - before
        if self._expected is not None:
            worst = self._expected.check(self.name, found["images"], found["probabilities"])
            self.largest_difference = max(self.largest_difference, worst)
        count = max(1, len(found["ends"]))
        measured = {
            "cpu_milliseconds_per_image": round(1000 * spent / count, 2),
            "client_cpu_milliseconds_per_image": round(1000 * found["cpu_seconds"] / count, 2),
        }
        if None not in found["stages"]:
            measured["stages_asked"] = round(sum(found["stages"]) / count, 3)
        return Requests(found["begins"], found["ends"], in_flight, measured)


class BareSide:
    """The models in this process, in the number of threads that is fastest here; in flight are as many as threads."""

    name = BARE

    def __init__(self, bare: BareLoop, images: Sequence[bytes], workers: int) -> None:
        self._bare, self._images, self.workers = bare, images, workers

    def saturate(self, in_flight: int, seconds: float) -> Requests:
        times: list[tuple[float, float]] = []
        before, stop = self.cpu_seconds(), time.monotonic() + seconds

        def loop(offset: int) -> None:
            index = offset
            while (begin := time.monotonic()) < stop:
                self._bare.alone(self._images[index % len(self._images)])
                times.append((begin, time.monotonic()))
                index += self.workers

        with ThreadPoolExecutor(self.workers) as pool:
            for future in [pool.submit(loop, offset) for offset in range(self.workers)]:
                future.result()
        spent = 1000 * (self.cpu_seconds() - before) / len(times)
        measured = {"cpu_milliseconds_per_image": round(spent, 2), "client_cpu_milliseconds_per_image": 0.0}
        return Requests([begin for begin, _ in times], [end for _, end in times], self.workers, measured)

    def cpu_seconds(self) -> float:
        return time.process_time()

    def close(self) -> None:
        self._bare.close()
