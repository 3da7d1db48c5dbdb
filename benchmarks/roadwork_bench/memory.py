"""`roadwork-bench memory`: what each model of a planned profile holds of its GPU, against what the plan gives it.

The profile is served as `roadwork-deploy serve` does it. Each process's memory is read by NVML, after the start and
while first every network and tier and then the whole cascade is kept busy. A network is one process and a tier a
process and its workers, so that their memory can be told apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from roadwork_client import RoadworkClient
from roadwork_deploy.planner.measured import HEADROOM_SHARE, SERVER_CONTEXT
from roadwork_deploy.profile import Placement, Profile, TierShare, load_profile
from roadwork_deploy.repository import read_models
from roadwork_deploy.serve import prepare
from roadwork_deploy.stubs import stub_model

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.errors import BenchError
from roadwork_bench.escalation import line, parse, sweep
from roadwork_bench.networks import SLOTS, Requests, some_canvases
from roadwork_bench.output import said, save_report, saying
from roadwork_bench.tiers.client import TierClient
from roadwork_bench.tiers.cpu_time import descendants
from roadwork_bench.tiers.folder import read_tier
from roadwork_bench.tiers.holding import gpu_names, open_gpus
from roadwork_bench.tiers.images import make_image, make_images

GB = 1e9
SERVER = "tritonserver"
SHARE, LEAST = 0.07, 1.0
"""A plan is right within this share of what is held, or this many GB."""
POLL_SECONDS = 0.2
IMAGES, IMAGE_SEED = 256, 77
CASCADE_SIDE = 640
CASCADE_SECONDS = 60.0
IN_FLIGHT = (1, 32, 256)
Holder = Callable[[], dict[tuple[str, int], int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", help="that `roadwork-deploy plan --write` wrote: a name, or a file")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--in-flight", type=int, default=256, help="requests to the cascade at the same time")
    parser.add_argument("--tier-in-flight", type=int, default=64, help="requests to each tier at the same time")
    parser.add_argument("--seconds", type=float, default=10.0, help="that each kind of load lasts")
    parser.add_argument(
        "--share", help="of the requests that ask the tiers, such as 0,0.1,0.5: measure that too, at the end"
    )
    parser.add_argument("--tier-timeout", type=float, default=600.0, help="seconds for all tiers to join")
    parser.add_argument("--out", type=Path, help="write the figures to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    """1 where the plan is wrong, a GPU was too small, or a tier did not join."""
    profile = load_profile(arguments.profile)
    planned = plan_of(profile)
    if not planned:
        raise BenchError(f"profile {profile.name} plans no memory; write one with: roadwork-deploy plan --write NAME")
    gpus = open_gpus()
    if gpus is None:
        raise BenchError("memory is measured on NVIDIA GPUs, and this host shows none")
    shares = parse(arguments.share, "share") if arguments.share else []
    repository = arguments.model_repository.resolve()
    with prepare(repository, profile).server as server:
        saying("waiting for the tiers")
        tiers = server.wait_for_tiers(arguments.tier_timeout)
        holds = holder(server.pid, gpus)
        start = holds()
        report: dict[str, Any] = {
            "about": about(command),
            "profile": profile.name,
            "gpus": gpu_names(gpus),
            "not_joined": {name: tier.reason for name, tier in tiers.items() if tier.state != "ready"},
        }
        with Watcher(holds) as watcher:

            def save(**found: Any) -> None:  # after each part: a long run that breaks off keeps what it has
                report.update(found, models=compare(planned, start, watcher.most))
                report["gpu_totals"] = totals(profile, report["models"])
                if arguments.out:
                    save_report(report, arguments.out)

            answered = busy(server.grpc_url, profile, repository, tiers, arguments)
            save(cascade=answered)
            if shares:
                images = cascade_images(32)
                save(escalation=sweep(server.grpc_url, images, shares, IN_FLIGHT, arguments.seconds))
    print(summary(report))
    right = all(row["right"] for row in report["models"] if row["planned_gb"] is not None)
    within = all(gpu["within"] for gpu in report["gpu_totals"])
    return 0 if right and within and not report["not_joined"] and not answered["failed"] else 1


def plan_of(profile: Profile) -> dict[tuple[str, int], int]:
    """(model, GPU) -> bytes that the plan gives it there."""
    shares: dict[str, Placement | TierShare] = {**profile.placement, **profile.tier_shares}
    return {(name, gpu): share.bytes for name, share in shares.items() if share.bytes for gpu in share.gpus}


def holder(root: int, gpus: tuple[Any, list[Any]]) -> Holder:
    """Gives (model, GPU) -> bytes that the processes below `root` hold now; the server's own under `SERVER`."""
    nvml, handles = gpus

    def holds() -> dict[tuple[str, int], int]:
        owners = owners_of(root)
        found: Counter[tuple[str, int]] = Counter()
        for index, handle in enumerate(handles):
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid in owners:
                    found[owners[process.pid], index] += int(process.usedGpuMemory or 0)
        return dict(found)

    return holds


def owners_of(root: int) -> dict[int, str]:
    """Process -> model whose stub it is or descends from; `SERVER` for the rest below `root`."""
    owners = dict.fromkeys(descendants([root]), SERVER)
    for pid in list(owners):
        model = stub_model(pid)
        if model is not None:
            owners |= dict.fromkeys(descendants([pid]), model)
    return owners


class Watcher:
    """Asks again and again while it is open, and keeps the most that each has held."""

    def __init__(self, holds: Holder) -> None:
        self.most: dict[tuple[str, int], int] = {}
        self._holds = holds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._done.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while True:
            for key, held in self._holds().items():
                self.most[key] = max(held, self.most.get(key, 0))
            if self._done.wait(POLL_SECONDS):
                return


def busy(
    url: str, profile: Profile, repository: Path, tiers: Mapping[str, Any], arguments: argparse.Namespace
) -> dict[str, int]:
    """Load on every network at its largest batch, on every tier that has joined, then on the cascade; its verdicts."""
    served = profile.plan(read_models(repository))
    batches = {name: placed.batch or 1 for name, placed in profile.placement.items() if name in served}
    canvases = some_canvases(SLOTS * max(batches.values(), default=1))
    for name, batch in batches.items():
        saying(f"{name}, batch {batch}")
        with Requests(url, name, batch, canvases) as requests:
            requests.block(min(2.0, arguments.seconds), 4)
    ready = [name for name, tier in tiers.items() if tier.state == "ready"]
    saying(f"{', '.join(ready) or 'no tier'}, {arguments.tier_in_flight} in flight each")
    with ThreadPoolExecutor(max(1, len(ready))) as pool:
        asked = (arguments.tier_in_flight, arguments.seconds)
        list(pool.map(lambda name: ask_tier(url, repository, name, *asked), ready))
    saying(f"the cascade, {arguments.in_flight} in flight")
    return ask_cascade(url, arguments.in_flight, arguments.seconds)


def ask_tier(url: str, repository: Path, name: str, in_flight: int, seconds: float) -> None:
    """Keep a tier busy with distinct images of the side that its prompt names. Raises BenchError where it fails one."""
    prompt = read_tier(repository, name).prompt
    client = TierClient({"url": url, "model": name, "prompt": prompt.text(None), "sampling": dict(prompt.sampling)})
    with tempfile.TemporaryDirectory(prefix="roadwork-memory-") as folder:
        pictures = Path(folder) / "images"
        make_images(pictures, IMAGE_SEED, IMAGES, prompt.image.max_side, prompt.image.quality)
        ask = {"do": "block", "images": str(pictures), "in_flight": in_flight, "seconds": seconds, "least": IMAGES}
        try:
            client.handle(ask)
        except (RuntimeError, TimeoutError) as error:
            raise BenchError(f"{name}: {error}") from None
        finally:
            client.close()


def ask_cascade(url: str, in_flight: int, seconds: float) -> dict[str, int]:
    """Verdicts by status on distinct images, all stages asked, and how many requests failed."""
    until = time.monotonic() + seconds
    images = cascade_images(IMAGES)

    def coming() -> Iterator[bytes]:
        for image in itertools.cycle(images):
            if time.monotonic() > until:
                return
            yield image

    found = Counter({"ok": 0, "degraded": 0, "timed_out": 0, "failed": 0})
    with RoadworkClient(url) as client:
        for result in client.predict_many(coming(), in_flight=in_flight, deadline=CASCADE_SECONDS, all_stages=True):
            found["failed" if result.verdict is None else result.verdict.status] += 1
    return dict(found)


def cascade_images(count: int) -> list[bytes]:
    """JPEG bytes, no two alike."""
    return [make_image(IMAGE_SEED + 1, number, CASCADE_SIDE, 92) for number in range(count)]


def compare(
    planned: Mapping[tuple[str, int], int], start: Mapping[tuple[str, int], int], most: Mapping[tuple[str, int], int]
) -> list[dict[str, Any]]:
    """A row for each model and GPU; what the plan does not know is told too."""
    rows = []
    for name, gpu in sorted({*planned, *start, *most}):
        plan, held = planned.get((name, gpu)), max(most.get((name, gpu), 0), start.get((name, gpu), 0)) / GB
        row: dict[str, Any] = {
            "model": name,
            "gpu": gpu,
            "planned_gb": None if plan is None else round(plan / GB, 2),
            "at_start_gb": round(start.get((name, gpu), 0) / GB, 2),
            "busy_gb": round(held, 2),
        }
        if plan is not None:
            off = plan / GB - held
            row |= {"off_gb": round(off, 2), "right": held > 0 and abs(off) <= max(LEAST, SHARE * held)}
        rows.append(row)
    return rows


def totals(profile: Profile, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each GPU: what the plan gives away, tritonserver's part included, and the most that everyone held, in GB."""
    found = []
    for gpu, claimed in sorted(profile.claimed().items()):
        held = sum(row["busy_gb"] for row in rows if row["gpu"] == gpu)
        planned = (claimed + SERVER_CONTEXT) / GB
        within = held <= planned * (1 + HEADROOM_SHARE)
        found.append({"gpu": gpu, "planned_gb": round(planned, 2), "busy_gb": round(held, 2), "within": within})
    return found


def summary(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [f"{name} did not join: {reason}" for name, reason in report["not_joined"].items()]
    lines.append(f"{'model':26} {'gpu':>3} {'planned':>8} {'start':>7} {'busy':>7}  GB")
    for row in report["models"]:
        plan = "" if row["planned_gb"] is None else f"{row['planned_gb']:.2f}"
        verdict = "" if row["planned_gb"] is None else ("right" if row["right"] else f"off by {row['off_gb']:+.2f}")
        lines.append(
            f"{row['model']:26} {row['gpu']:>3} {plan:>8} {row['at_start_gb']:>7.2f} {row['busy_gb']:>7.2f}  {verdict}"
        )
    for gpu in report["gpu_totals"]:
        lines.append(
            f"GPU {gpu['gpu']}: {gpu['busy_gb']} GB at most, {gpu['planned_gb']} planned: within {said(gpu['within'])}"
        )
    lines.append(f"the cascade: {json.dumps(report['cascade'])}")
    lines += [line(point) for point in report.get("escalation", {}).get("points", [])]
    return "\n".join(lines)
