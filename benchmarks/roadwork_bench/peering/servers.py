"""Starts a peer, knows all its processes, and ends them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roadwork_bench.about import CHECKOUT
from roadwork_bench.errors import BenchError
from roadwork_bench.peering.keeping import VARIABLE, Keeper, marked
from roadwork_bench.peers_apps.looking import Job
from roadwork_bench.tiers.cpu_time import TICKS

START_SECONDS, ASK_SECONDS = 120.0, 30.0
LOG_LINES = 8
APPS = "roadwork_bench.peers_apps"
PATH = (CHECKOUT / "benchmarks", CHECKOUT / "model_repository" / "roadwork" / "1")

Settings = Mapping[str, int]
_numbers = itertools.count()
# A proxy of the environment is for other machines.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Peer:
    """A framework: the command behind Python, and the settings among which a trial chooses.

    `environment` is always set; of `switches`, each where the setting of its name is 1.
    """

    name: str
    title: str
    command: tuple[str, ...]
    candidates: tuple[Settings, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    switches: Mapping[str, str] = field(default_factory=dict)


def known_peers(cores: int) -> dict[str, Peer]:
    """All peers, with the candidates for a machine of so many cores."""
    more, one = cores + 1, 1
    together = {"workers": one, "threads": cores, "parallel": 1}
    processes = ({"workers": cores, "threads": one}, {"workers": more, "threads": one})
    threads = ({"workers": one, "threads": cores}, {"workers": one, "threads": more}, together)
    litserve = ({"workers": cores}, {"workers": more}, {"workers": one, "parallel": 1})
    ray = (
        {"replicas": cores, "threads": one},
        {"replicas": more, "threads": one},
        {"replicas": cores, "threads": one, "optimized": 1},
        {"replicas": one, "threads": one, "composed": 1},
        {"replicas": one, "threads": cores, "composed": 1},
        {"replicas": one, "threads": one, "composed": 1, "optimized": 1},
    )
    bentoml_environment = {"BENTOML_DO_NOT_TRACK": "True"}
    ray_environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    ray_switches = {"optimized": "RAY_SERVE_THROUGHPUT_OPTIMIZED"}
    bentoml_command = ("-m", "bentoml", "serve", f"{APPS}.bentoml_app:Peer")
    peers = (
        Peer("fastapi", "FastAPI", ("-m", f"{APPS}.fastapi_app"), (*processes, *threads)),
        Peer("litserve", "LitServe", ("-m", f"{APPS}.litserve_app"), litserve),
        Peer("bentoml", "BentoML", bentoml_command, (*processes, *threads), bentoml_environment),
        Peer("ray", "Ray Serve", ("-m", f"{APPS}.ray_app"), ray, ray_environment, ray_switches),
    )
    return {peer.name: peer for peer in peers}


def choose_peers(text: str | None, cores: int) -> list[Peer]:
    """Those that `--only` names, all where it names none. Raises BenchError for one that is not known."""
    peers = known_peers(cores)
    names = list(peers) if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in peers:
            raise BenchError(f"--only {name}: no such peer; known are {', '.join(peers)}")
    return [peers[name] for name in dict.fromkeys(names)]


class PeerServer:
    """A peer's processes, in a session of their own; every one of them is marked by the job's path.

    Args:
        python: of the environment that has the framework.
        image: encoded, which it must answer before it counts as started.
        folder: for its job and its log.

    Raises (from the start):
        BenchError: it has ended, or does not answer in time; with the end of its log.
    """

    def __init__(
        self, peer: Peer, settings: Settings, python: Path, repository: Path, threads: Mapping[str, int], image: bytes,
        folder: Path, *, seconds: float = START_SECONDS,
    ) -> None:  # fmt: skip
        self.peer, self.settings = peer, dict(settings)
        # Resolved: a relative path would be another one in a child's folder, and it is the mark as well.
        # Short as well: Ray puts sockets below it, whose paths may have 107 bytes.
        self._folder = Path(folder).resolve() / f"{peer.name}-{next(_numbers)}"
        self._folder.mkdir(parents=True)
        self._mark, self._log = self._folder / "job.json", self._folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}/predict"
        Job(repository.resolve(), threads, port, self.settings).write(self._mark)
        self._keeper = Keeper(str(self._mark))
        began = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), *peer.command, *self._address(port)],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._await(image, began + seconds, seconds)
        except BaseException:
            self.close()
            raise
        self.started_seconds = time.monotonic() - began

    def pids(self) -> list[int]:
        """All its living processes, also those whose parent has gone."""
        return marked(str(self._mark))

    def cpu_seconds(self) -> float:
        """Seconds that its living processes have computed so far."""
        return used_seconds(self.pids())

    def close(self) -> None:
        """Ask it to end, then kill what is left."""
        self._keeper.close(self._process)

    def _address(self, port: int) -> Sequence[str]:
        """Ours read the port from the job; BentoML's own command takes it."""
        return ("--host", "127.0.0.1", "--port", str(port)) if self.peer.name == "bentoml" else ()

    def _environment(self) -> dict[str, str]:
        # Variables of this environment's Python must not reach into the other one.
        kept = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONHOME")}
        paths = os.pathsep.join(str(path) for path in PATH)
        own = {VARIABLE: str(self._mark), "PYTHONPATH": paths, "BENTOML_HOME": str(self._folder / "bentoml")}
        switched = {name: "1" for key, name in self.peer.switches.items() if self.settings.get(key)}
        return {**kept, **self.peer.environment, **switched, **own}

    def _await(self, image: bytes, until: float, seconds: float) -> None:
        request = urllib.request.Request(self.url, image, {"Content-Type": "application/octet-stream"})
        why = "it does not listen"
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise BenchError(f"{self.peer.title} ended with status {self._process.returncode}: {self.log_end()}")
            try:
                with _direct.open(request, timeout=min(ASK_SECONDS, until - time.monotonic() + 1)) as answer:
                    if answer.status == 200:
                        return
            except urllib.error.HTTPError as error:
                why = f"it answers {error.code}"
            except OSError as error:
                why = str(error)
            time.sleep(0.2)
        raise BenchError(f"{self.peer.title} did not start within {seconds:g} s ({why}): {self.log_end()}")

    def log_end(self) -> str:
        """The last lines that it wrote."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-LOG_LINES:]) or "nothing in its log"


def used_seconds(pids: Sequence[int]) -> float:
    """Seconds that these processes have computed so far; one that has ended counts for nothing."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total
