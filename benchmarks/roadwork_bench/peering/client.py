"""Child process: asks one server over its own protocol, and says when each answer came.

    python -m roadwork_bench.peering.client SETTINGS.json

SETTINGS.json: `kind` ("http" or "grpc"), `url`, `images` (file), `all_stages`. Messages (see `tiers.worker`):
`{"do": "saturate", "in_flight": N, "seconds": S}`, as many requests on their way for S seconds;
`{"do": "rate", "rate": R, "seconds": S, "seed": K}`, Poisson arrivals of R a second, whoever has answered or not.
Both are answered by `begins` and `ends` (the machine's monotonic clock; a request of `rate` begins when it was due),
`images`, `probabilities` and `stages` (how many were asked, null where there are none) of every answer, and
`cpu_seconds` of this process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from roadwork_bench.tiers.images import read_images
from roadwork_bench.tiers.worker import answer_lines, claim_stdout

REQUEST_SECONDS = 60.0


class Caller(Protocol):
    """One protocol's client."""

    async def ask(self, index: int) -> bytes:
        """The body of the answer to an image. Raises where the server did not answer it well."""

    def probability(self, body: bytes) -> float:
        """What an answer says. Raises ValueError for one that is not whole."""

    def stages(self, body: bytes) -> int | None:
        """How many stages were asked for an answer; None of a server that has none."""

    async def close(self) -> None:
        """Let go of its connections."""


class HttpCaller:
    """aiohttp with connections that are kept; the body is the image file."""

    def __init__(self, settings: dict[str, Any], images: list[bytes]) -> None:
        import aiohttp

        self._url, self._images = settings["url"], images
        self._headers = {"Content-Type": "application/octet-stream"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(REQUEST_SECONDS)
        )

    async def ask(self, index: int) -> bytes:
        async with self._session.post(self._url, data=self._images[index], headers=self._headers) as answer:
            body = await answer.read()
            if answer.status != 200:
                raise ValueError(f"status {answer.status}: {body[:200]!r}")
            return body

    def probability(self, body: bytes) -> float:
        return float(json.loads(body)["probability"])

    def stages(self, body: bytes) -> int | None:
        return None

    async def close(self) -> None:
        await self._session.close()


class GrpcCaller:
    """Triton's own asynchronous client; the request's tensors are made once for each image."""

    def __init__(self, settings: dict[str, Any], images: list[bytes]) -> None:
        import tritonclient.grpc.aio as grpc

        from roadwork_bench.served import inputs_of

        options = {"all_stages": settings["all_stages"], "tiers": False}
        self._requests = [inputs_of(image, **options) for image in images]
        self._client = grpc.InferenceServerClient(settings["url"])

    async def ask(self, index: int) -> bytes:
        answer = await self._client.infer("roadwork", self._requests[index], client_timeout=REQUEST_SECONDS)
        return bytes(answer.as_numpy("verdict")[0])

    def probability(self, body: bytes) -> float:
        verdict = json.loads(body)
        if verdict["status"] != "ok":
            raise ValueError(f"a verdict is {verdict['status']}: {verdict['missing']}")
        return float(verdict["probability"])

    def stages(self, body: bytes) -> int | None:
        return sum(stage["outcome"] != "skipped" for stage in json.loads(body)["stages"])

    async def close(self) -> None:
        await self._client.close()


CALLERS: dict[str, Callable[[dict[str, Any], list[bytes]], Caller]] = {"http": HttpCaller, "grpc": GrpcCaller}


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds at which a Poisson process of `rate` a second has an arrival, up to `seconds`; at least one."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, max(16, round(4 * rate * seconds)))
    times = np.cumsum(gaps)
    return [float(t) for t in times[times < seconds]] or [0.0]


class Load:
    """Times and answers of one message."""

    def __init__(self, caller: Caller, count: int) -> None:
        self._caller, self._count = caller, count
        self._begins: list[float] = []
        self._ends: list[float] = []
        self._bodies: list[tuple[int, bytes]] = []

    async def saturate(self, in_flight: int, seconds: float) -> None:
        """Closed loop: every answer begins the next request."""
        numbers = iter(range(10**9))
        stop = time.monotonic() + seconds

        async def work() -> None:
            while time.monotonic() < stop:
                await self._one(next(numbers), time.monotonic())

        await _together(work() for _ in range(in_flight))

    async def rate(self, rate: float, seconds: float, seed: int) -> None:
        """Open loop: a request that is late to be sent has been waiting since it was due."""
        start = time.monotonic()

        async def later(number: int, due: float) -> None:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._one(number, due)

        await _together(later(number, start + due) for number, due in enumerate(arrivals(rate, seconds, seed)))

    async def _one(self, number: int, begin: float) -> None:
        index = number % self._count
        body = await self._caller.ask(index)
        self._begins.append(begin)
        self._ends.append(time.monotonic())
        self._bodies.append((index, body))

    def report(self) -> dict[str, Any]:
        """Answers are read only now: it is not part of the load."""
        return {
            "begins": self._begins,
            "ends": self._ends,
            "images": [index for index, _ in self._bodies],
            "probabilities": [self._caller.probability(body) for _, body in self._bodies],
            "stages": [self._caller.stages(body) for _, body in self._bodies],
        }


async def _together(parts: Any) -> None:
    """All of them, or the first one's error with the rest cancelled."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Client:
    """One caller on one event loop, which stands still between messages."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._images = read_images(settings["images"])
        self._caller = self._do(self._make(settings))

    async def _make(self, settings: dict[str, Any]) -> Caller:
        return CALLERS[settings["kind"]](settings, self._images)

    def _do(self, work: Coroutine[Any, Any, Any] | Awaitable[Any]) -> Any:
        return self._loop.run_until_complete(work)

    def handle(self, message: dict[str, Any]) -> dict[str, Any]:
        load, seconds = Load(self._caller, len(self._images)), float(message["seconds"])
        before = time.process_time()
        if message["do"] == "saturate":
            self._do(load.saturate(int(message["in_flight"]), seconds))
        else:
            self._do(load.rate(float(message["rate"]), seconds, int(message["seed"])))
        return {"cpu_seconds": time.process_time() - before, **load.report()}

    def close(self) -> None:
        self._do(self._caller.close())
        self._loop.close()


def main() -> None:
    out = claim_stdout()
    client = Client(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        answer_lines(out, client.handle, {"ready": True})
    finally:
        client.close()


if __name__ == "__main__":
    main()
