"""Brings the sides up: each peer with the settings that a trial found best, our server, and the bare loop."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadwork_deploy.profile import Profile
from roadwork_deploy.serve import prepare

from roadwork_bench.bare import BareLoop
from roadwork_bench.errors import BenchError
from roadwork_bench.output import saying
from roadwork_bench.overhead import best_workers
from roadwork_bench.peering.servers import START_SECONDS, Peer, PeerServer, Settings
from roadwork_bench.peering.sides import BARE, OURS, STAGED, BareSide, Expected, ServerSide, Side
from roadwork_bench.peers_apps.looking import Looker
from roadwork_bench.tiers.cpu_time import cpu_seconds

WARM_SECONDS = 2.0


@dataclass(frozen=True)
class Ground:
    """What all sides stand on.

    Attributes:
        repository: model repository without text members (`overhead.detector_path`).
        threads: network -> threads inside an operator.
        images: encoded.
        image_file: with the same images, for the clients.
        folder: for jobs, logs and settings.
    """

    repository: Path
    threads: Mapping[str, int]
    images: Sequence[bytes]
    image_file: Path
    expected: Expected
    folder: Path


def prepare_ground(repository: Path, threads: Mapping[str, int], images: Sequence[bytes], folder: Path) -> Ground:
    """Write the images, and ask the bare models what every side has to answer."""
    image_file = folder / "images"
    image_file.write_bytes(pickle.dumps(list(images)))
    looker = Looker(repository, threads)
    expected = Expected([float(looker.look(image)["probability"]) for image in images])
    return Ground(repository, threads, images, image_file, expected, folder)


class Started:
    """The sides that are up, in a dict by name, and how it went; `close` ends all of them."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._stack = ExitStack()
        self.sides: dict[str, Side] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, str] = {}

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def peers(self) -> list[str]:
        """Names of the peers that are up."""
        return [name for name in self.sides if name not in (BARE, OURS, STAGED)]

    def add_bare(self, bare: BareLoop) -> None:
        """The bare loop, with the number of workers that is fastest here. It is closed with the rest."""
        self._stack.callback(bare.close)
        workers = best_workers(bare, list(self._ground.images))
        self.sides[BARE] = BareSide(bare, self._ground.images, workers)
        self.about[BARE] = {"workers": workers}
        saying(f"bare: {workers} workers")

    def add_ours(self, profile: Profile) -> None:
        """Our server, as it is shipped: all stages always, and once more with stages on. Raises DeployError."""
        saying(f"starting our server, profile {profile.name}")
        server = self._stack.enter_context(prepare(self._ground.repository, profile).server)

        def used() -> float:
            return cpu_seconds([server.supervisor_pid])

        for name, expected in ((OURS, self._ground.expected), (STAGED, None)):
            settings = {"kind": "grpc", "url": server.grpc_url}
            side = ServerSide(name, settings, self._ground.image_file, expected, used, self._ground.folder)
            self._stack.callback(side.close)
            side.saturate(8, WARM_SECONDS)
            self.sides[name] = side
        self.about[OURS] = {"profile": profile.name}

    def add_peer(self, peer: Peer, python: Path, in_flight: int, trial_seconds: float) -> None:
        """A peer with its best settings; where none of them starts it is among the failures."""
        trials: list[dict[str, Any]] = []
        for settings in peer.candidates:
            try:
                speed = self._try(peer, settings, python, in_flight, trial_seconds)
            except BenchError as error:
                trials.append({"settings": dict(settings), "failed": str(error)[:1000]})
                saying(f"{peer.title} {_said(settings)}: {error}")
                continue
            trials.append({"settings": dict(settings), "images_per_second": round(speed, 3)})
            saying(f"{peer.title} {_said(settings)}: {speed:.2f} images/s")
        worked = [trial for trial in trials if "failed" not in trial]
        if not worked:
            self.failures[peer.name] = trials[0]["failed"]
            return
        best = max(worked, key=lambda trial: trial["images_per_second"])
        with ExitStack() as stack:
            try:
                server, side = self._start(peer, best["settings"], python, stack)
                side.saturate(in_flight, WARM_SECONDS)
            except BenchError as error:
                self.failures[peer.name] = str(error)[:1000]
                return
            self._stack.push(stack.pop_all())
        self.sides[peer.name] = side
        start = round(server.started_seconds, 1)
        self.about[peer.name] = {
            "title": peer.title, "settings": best["settings"], "start_seconds": start, "trials": trials,
        }  # fmt: skip

    def _try(self, peer: Peer, settings: Settings, python: Path, in_flight: int, seconds: float) -> float:
        with ExitStack() as stack:
            _, side = self._start(peer, settings, python, stack)
            side.saturate(in_flight, WARM_SECONDS)
            return side.saturate(in_flight, seconds).throughput

    def _start(self, peer: Peer, settings: Settings, python: Path, stack: ExitStack) -> tuple[PeerServer, ServerSide]:
        ground = self._ground
        server = PeerServer(
            peer, settings, python, ground.repository, ground.threads, ground.images[0], ground.folder,
            seconds=START_SECONDS,
        )  # fmt: skip
        stack.callback(server.close)
        client = {"kind": "http", "url": server.url}
        side = ServerSide(peer.name, client, ground.image_file, ground.expected, server.cpu_seconds, ground.folder)
        stack.callback(side.close)
        return server, side


def _said(settings: Settings) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())
