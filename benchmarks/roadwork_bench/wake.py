"""`roadwork-bench wake`: how long a tier takes to come back, and how much memory it gives back meanwhile.

On a GPU it sleeps (vLLM's sleep mode), elsewhere it is unloaded and loaded. The tier is served alone in an embedded
server; on the way it has to give the same answers as before.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.shm import MIB, Budget
from roadwork_deploy.tier_control import load_tier, unload_tier

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.errors import BenchError
from roadwork_bench.output import said, save_report, saying
from roadwork_bench.tiers.agreement import agree
from roadwork_bench.tiers.client import TierClient
from roadwork_bench.tiers.folder import Subject, Variant, read_tier, write_repository
from roadwork_bench.tiers.holding import gpu_names, holding, open_gpus
from roadwork_bench.tiers.images import make_images
from roadwork_bench.tiers.sides import quiet

IMAGES = 8
SLEEP_AFTER = 4.0  # seconds without a request; longer than what is measured while it is awake
SETTLE_SECONDS = 1.0  # drivers and kernels give pages back a little later
ASLEEP = 2  # of the gauge roadwork_tier_state
POLL_SECONDS = 0.2
UNLOAD_SECONDS = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="folder of the tier")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--how", choices=("sleep", "unload"), help="default: sleep where there is a GPU, else unload")
    parser.add_argument("--level", choices=("1", "2"), default="1", help="of sleep (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tolerance", type=float, default=0.02, help="of the probability, before and after")
    parser.add_argument(
        "--timeout", type=float, default=600.0, help="seconds for the engine to start, fall asleep, wake"
    )
    parser.add_argument("--logs", type=Path, help="folder that keeps the server's log")
    parser.add_argument("--out", type=Path, help="write the figures to a file, after every round")


def run(arguments: argparse.Namespace, command: str) -> int:
    """1 where the answers are not those from before."""
    subject = read_tier(arguments.model_repository.resolve(), arguments.name)
    if arguments.rounds < 1:
        raise BenchError(f"--rounds is {arguments.rounds}, must be at least 1")
    with tempfile.TemporaryDirectory(prefix="roadwork-wake-") as name:
        measured = Measurement(arguments, subject, Path(name), command)
        measured.measure()
    print(measured.summary())
    return 0 if all(found["answers"]["within_tolerance"] for found in measured.report["rounds"]) else 1


class Measurement:
    """One run of the command; `report` grows round by round."""

    def __init__(self, arguments: argparse.Namespace, subject: Subject, folder: Path, command: str) -> None:
        self._arguments, self._subject, self._folder = arguments, subject, folder
        self._gpus = open_gpus()
        self._how = arguments.how or ("unload" if self._gpus is None else "sleep")
        if self._how == "sleep" and self._gpus is None:
            raise BenchError("sleep mode needs a GPU, and NVML shows none; use --how unload")
        self._images = folder / "images"
        self.report: dict[str, Any] = {
            "about": about(command),
            "gpu": None if self._gpus is None else ", ".join(gpu_names(self._gpus)),
            "tier": subject.name,
            "weights": "random" if subject.random_weights else "of its folder",
            "how": self._how if self._how == "unload" else f"sleep, level {arguments.level}",
            "bytes": {"before": holding(None, self._gpus)},
            "rounds": [],
        }

    def measure(self) -> None:
        repository = self._repository()
        prompt = self._subject.prompt
        make_images(self._images, 1, IMAGES, prompt.image.max_side, prompt.image.quality)
        make_images(self._folder / "one", 2, 1, prompt.image.max_side, prompt.image.quality)
        logs = self._arguments.logs or self._folder
        logs.mkdir(parents=True, exist_ok=True)
        server = EmbeddedServer(
            repository,
            [],
            drain=5.0,
            budget=Budget(instances=1, instance_bytes=64 * MIB, growth_bytes=64 * MIB),
            log_path=logs / "server.log",
            environment=quiet(),
        )
        with server:
            self._note("server alone", server)
            saying("loading the tier")
            self.report["load_seconds"] = self._load(server)
            self._warm(server)
            self.report["request_seconds"] = statistics.median(self._one(server) for _ in range(5))
            self._note("awake", server)
            before = self._answers(server)
            for number in range(self._arguments.rounds):
                self._round(number, server, before)

    # Parts -----------------------------------------------------------------------------------------------------------
    def _repository(self) -> Path:
        """A repository of the tier alone, which may sleep."""
        repository = self._folder / "repository"
        write_repository(repository, self._subject, Variant("served"))
        folder = repository / self._subject.name
        (folder / "prompt.json").write_bytes((self._subject.folder / "prompt.json").read_bytes())
        if self._how == "sleep":
            more = {"SLEEP_AFTER_SECONDS": f"{SLEEP_AFTER:g}", "SLEEP_LEVEL": self._arguments.level}
            text = (folder / "config.pbtxt").read_text(encoding="utf-8")
            if "REPORT_CUSTOM_METRICS" not in text:
                more["REPORT_CUSTOM_METRICS"] = "true"
            for key, value in more.items():
                text += f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
            (folder / "config.pbtxt").write_text(text, encoding="utf-8")
        return repository

    def _round(self, number: int, server: EmbeddedServer, before: list[dict[str, float]]) -> None:
        found: dict[str, Any] = {}
        if self._how == "sleep":
            woken = self._metric(server, "roadwork_tier_wake_seconds_sum")
            found["fall_asleep_seconds"] = self._until_asleep(server)
            found["bytes"] = self._held(server)
            found["first_request_seconds"] = self._one(server)
            time.sleep(SETTLE_SECONDS)  # the metrics page is told twice a second
            found["wake_seconds"] = round(self._metric(server, "roadwork_tier_wake_seconds_sum") - woken, 3)
        else:
            found["unload_seconds"] = round(unload_tier(server.grpc_url, self._subject.name, UNLOAD_SECONDS), 3)
            found["bytes"] = self._held(server)
            found["load_seconds"] = self._load(server)
            found["first_request_seconds"] = self._one(server)
        prompt = self._subject.prompt
        yes, no = list(prompt.yes.values()), list(prompt.no.values())
        found["answers"] = agree(before, self._answers(server), yes, no, self._arguments.tolerance)
        found["awake_again"] = self._held(server)
        saying(f"round {number + 1}: {found}")
        self.report["rounds"].append(found)
        if self._arguments.out:
            save_report(self.report, self._arguments.out)

    def _until_asleep(self, server: EmbeddedServer) -> float:
        """Seconds from the last request on, less those for which it waits for one."""
        began = time.monotonic()
        while self._metric(server, "roadwork_tier_state") != ASLEEP:
            if time.monotonic() - began > self._arguments.timeout:
                raise BenchError(f"{self._subject.name} is not asleep after {self._arguments.timeout:g} s")
            if not server.running:
                raise BenchError(f"tritonserver has ended; run again with --logs DIR and see {server.log_path.name}")
            time.sleep(POLL_SECONDS)
        return round(max(0.0, time.monotonic() - began - SLEEP_AFTER), 3)

    def _load(self, server: EmbeddedServer) -> float:
        seconds = load_tier(server.grpc_url, self._subject.name, server.repository, self._arguments.timeout)
        return round(seconds, 3)

    def _warm(self, server: EmbeddedServer) -> None:
        self._asked(server, lambda client: client.handle({"do": "answers", "images": str(self._images)}))

    def _answers(self, server: EmbeddedServer) -> list[dict[str, float]]:
        ask = {"do": "answers", "images": str(self._images)}
        return list(self._asked(server, lambda client: client.handle(ask))["answers"])

    def _one(self, server: EmbeddedServer) -> float:
        """Seconds of one request."""
        ask = {"do": "block", "images": str(self._folder / "one"), "in_flight": 1}
        found = self._asked(server, lambda client: client.handle(ask))
        return round(found["ends"][0] - found["begins"][0], 4)

    def _asked(self, server: EmbeddedServer, work: Callable[[TierClient], dict[str, Any]]) -> dict[str, Any]:
        prompt, sampling = self._subject.prompt.text(None), dict(self._subject.prompt.sampling)
        settings = {"url": server.grpc_url, "model": self._subject.name, "prompt": prompt, "sampling": sampling}
        client = TierClient(settings)
        try:
            return work(client)
        except (RuntimeError, TimeoutError) as error:
            raise BenchError(f"{self._subject.name}: {error}") from None
        finally:
            client.close()

    def _metric(self, server: EmbeddedServer, name: str) -> float:
        with urllib.request.urlopen(server.metrics_url, timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))

    def _held(self, server: EmbeddedServer) -> dict[str, int]:
        time.sleep(SETTLE_SECONDS)
        return holding(server.supervisor_pid, self._gpus)

    def _note(self, state: str, server: EmbeddedServer) -> None:
        self.report["bytes"][state] = self._held(server)

    def summary(self) -> str:
        """In a few lines: seconds and gigabytes (1e9)."""
        rounds, kind = self.report["rounds"], "host" if self._gpus is None else "gpu"
        away = statistics.median(found["bytes"][kind] for found in rounds)
        awake, base = (self.report["bytes"][state][kind] for state in ("awake", "server alone"))
        back = "load_seconds" if self._how == "unload" else "wake_seconds"
        same = all(found["answers"]["within_tolerance"] for found in rounds)
        return "\n".join(
            [
                f"{self._subject.name}, {self.report['how']}, {len(rounds)} rounds",
                f"it comes back in {statistics.median(found[back] for found in rounds):.2f} s (median)",
                f"{kind} memory: {awake / 1e9:.2f} GB awake, {away / 1e9:.2f} GB away, {base / 1e9:.2f} GB without it: "
                f"gives back {(awake - away) / 1e9:.2f} GB",
                f"wanted: the same answers as before: {said(same)}",
            ]
        )
