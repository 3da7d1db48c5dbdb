"""The two sides of the comparison, with the same two questions: a block of load, and answers on given images."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.shm import MIB, Budget

from roadwork_bench.tiers.folder import Subject, Variant, write_repository
from roadwork_bench.tiers.timing import Requests, merge, share
from roadwork_bench.tiers.worker import Worker

GRACE_SECONDS = 180.0  # over a block's own time, for requests that are still under way
# Of requests that a block has at least: the first fills the engine and the last drains it, and neither is counted.
WAVES = 5
BARE = "roadwork_bench.tiers.bare_engine"
CLIENT = "roadwork_bench.tiers.client"


class Side(Protocol):
    """About a side: `started` is what its start said and took."""

    started: dict[str, Any]

    @property
    def pids(self) -> list[int]:
        """Processes that it consists of, without those that they have started."""

    def block(self, images: Path, in_flight: int, seconds: float) -> Requests:
        """Keep so many requests on their way for about `seconds` and at least `WAVES` waves, each image once."""

    def answers(self, images: Path) -> dict[str, Any]:
        """`answers`: token id -> log-probability for each image; `input_tokens` of a prompt."""

    def close(self) -> None:
        """End all its processes."""


class BareSide:
    """The engine in a process of its own. It starts in the background; `wait` before anything else."""

    def __init__(self, subject: Subject, engine: Mapping[str, Any], folder: Path) -> None:
        settings = {"engine": dict(engine), **_question(subject)}
        path = folder / "bare.json"
        path.write_text(json.dumps(settings))
        self._worker = Worker(BARE, [str(path)], folder / "bare.log", quiet())
        self.started: dict[str, Any] = {}

    @property
    def pids(self) -> list[int]:
        return [self._worker.pid]

    def wait(self, timeout: float) -> None:
        self.started = self._worker.receive(timeout)

    def block(self, images: Path, in_flight: int, seconds: float) -> Requests:
        least = WAVES * in_flight
        message = {"do": "block", "images": str(images), "in_flight": in_flight, "seconds": seconds, "least": least}
        found = self._worker.ask(message, seconds + GRACE_SECONDS)
        return Requests(found["begins"], found["ends"], in_flight)

    def answers(self, images: Path) -> dict[str, Any]:
        return self._worker.ask({"do": "answers", "images": str(images)}, GRACE_SECONDS)

    def cache_tokens(self) -> int:
        """Tokens for which the engine's cache of keys and values has room."""
        return int(self._worker.ask({"do": "cache"}, GRACE_SECONDS)["tokens"])

    def close(self) -> None:
        self._worker.close()


class ServedSide:
    """The tier in an embedded server, and the processes that ask it.

    Raises (from the start):
        DeployError: the server does not start.
        BenchError: a client does not.
    """

    def __init__(self, subject: Subject, variant: Variant, clients: int, timeout: float, folder: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="roadwork-tier-", dir=folder)
        repository = Path(self._scratch.name) / "repository"
        write_repository(repository, subject, variant)
        began = time.monotonic()
        self._server = EmbeddedServer(
            repository,
            [subject.name],
            probes=[],  # the answers that are compared first are its probe
            drain=5.0,
            startup_timeout=timeout,
            budget=Budget(instances=variant.instances, instance_bytes=64 * MIB, growth_bytes=64 * MIB),
            log_path=folder / f"server-{variant.name}.log",
            environment={**quiet(), **variant.environment},
        ).start()
        self.started = {"seconds": round(time.monotonic() - began, 1)}
        self._clients: list[Worker] = []
        try:
            path = Path(self._scratch.name) / "client.json"
            path.write_text(json.dumps({"url": self._server.grpc_url, "model": subject.name, **_question(subject)}))
            logs = (folder / f"client-{variant.name}-{number}.log" for number in range(clients))
            self._clients = [Worker(CLIENT, [str(path)], log) for log in logs]
            for client in self._clients:
                client.receive(GRACE_SECONDS)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The clients too: the bare engine's caller is in its own process as well."""
        return [self._server.supervisor_pid, *(client.pid for client in self._clients)]

    def block(self, images: Path, in_flight: int, seconds: float) -> Requests:
        shares = share(in_flight, len(self._clients))
        for number, (client, part) in enumerate(zip(self._clients, shares, strict=False)):
            dealt = {"first": number, "step": len(shares), "least": WAVES * part}
            client.send({"do": "block", "images": str(images), "in_flight": part, "seconds": seconds, **dealt})
        found = [
            (client.receive(seconds + GRACE_SECONDS), part) for client, part in zip(self._clients, shares, strict=False)
        ]
        return merge([Requests(answer["begins"], answer["ends"], part) for answer, part in found])

    def answers(self, images: Path) -> dict[str, Any]:
        return self._clients[0].ask({"do": "answers", "images": str(images)}, GRACE_SECONDS)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._server.close()
        self._scratch.cleanup()


def quiet() -> dict[str, str]:
    """Environment in which nothing is reported or fetched; what else it says is the host's and the same for both."""
    return {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


def _question(subject: Subject) -> dict[str, Any]:
    return {"prompt": subject.prompt.text(None), "sampling": dict(subject.prompt.sampling)}
