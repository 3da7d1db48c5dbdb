"""A detector that errs or hangs for a while, with the circuit breaker of the cascade and without it."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from roadwork_cascade.policy import load_policy, parse_policy, write_policy

from roadwork_bench.ablations.measuring import outcome
from roadwork_bench.ablations.settings import Settings
from roadwork_bench.ablations.workshop import Workshop, set_parameters, workshop
from roadwork_bench.errors import BenchError
from roadwork_bench.medians import median_interval
from roadwork_bench.output import saying
from roadwork_bench.overhead import rendered_scenes
from roadwork_bench.replay import without_members
from roadwork_bench.served import inputs_of

QUESTION = "What does the circuit breaker change while a detector errs or hangs?"
FAULTS: dict[str, dict[str, Any]] = {"errors": {"error": "out of memory"}, "hangs": {"seconds": 2.0}}
SIDES = {"breaker on": "roadwork_on", "breaker off": "roadwork_off"}
FAULTY = "faulty_detector"
WORKERS = 2
"""Callers, and instances of the cascade, each of which has breakers of its own."""
STAGE_MS, DEADLINE_MS, OPEN_SECONDS = 800.0, 5000.0, 1.0
LEAST_SECONDS = 6.0
"""Of a fault: a breaker opens after three calls, and a call that hangs takes its stage's time."""
STATUSES = ("ok", "degraded", "timed_out")
NEVER = 10_000
"""Calls that a breaker has to see before it opens: more than a run makes."""
REQUEST_SECONDS = 30.0
RECOVERY_SECONDS = 60.0
PACE_SECONDS = 0.1
"""Between a caller's answers and its next request: the machine must not be saturated, else its queue is measured."""


@dataclass(frozen=True)
class Answered:
    """A request: when it was answered, how long it took (seconds) and its verdict's status."""

    at: float
    seconds: float
    status: str


def measure(settings: Settings) -> dict[str, Any]:
    """Episodes in turn: well, then the fault, then until verdicts are whole again; each side `episodes` times."""
    fault_seconds = max(LEAST_SECONDS, settings.seconds / 8)
    episodes = max(2, round(settings.seconds / (2 * fault_seconds)))
    with workshop(settings.repository) as shop:
        build(shop, settings.repository)
        fault = shop.folder / FAULTY / "fault.json"
        with shop.server([*SIDES.values()]) as server:
            requests = [inputs_of(image, all_stages=True, tiers=False) for image in rendered_scenes(8)]
            found: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for kind, number in itertools.product(FAULTS, range(episodes)):
                order = list(SIDES) if number % 2 == 0 else list(reversed(SIDES))
                for side in order:
                    saying(f"breaker: {kind}, {side}, episode {number + 1} of {episodes}")
                    callers = Callers(server.grpc_url, SIDES[side], requests)
                    found.setdefault((kind, side), []).append(episode(callers, fault, FAULTS[kind], fault_seconds))
    rows = [_row(kind, side, parts) for (kind, side), parts in found.items()]
    compared = [one for kind in FAULTS for one in _ratios(kind, *(found[kind, side] for side in SIDES))]
    hang = {row["what"]: row for row in rows if row["fault"] == "hangs"}
    on, off = (hang[side] for side in SIDES)
    answer = (
        f"While a detector hangs, half the requests take at most {on['milliseconds_p50']:.0f} ms with the breaker and "
        f"{off['milliseconds_p50']:.0f} ms without (p99: {on['milliseconds_p99']:.0f} and "
        f"{off['milliseconds_p99']:.0f} ms); once it is well, verdicts are whole again after "
        f"{on['recovery_seconds']:.1f} s and {off['recovery_seconds']:.1f} s."
    )
    return outcome(
        answer, rows, compared, fault_seconds=fault_seconds, episodes=episodes, callers=WORKERS,
        stage_deadline_ms=STAGE_MS, open_seconds=OPEN_SECONDS,
    )  # fmt: skip


def build(shop: Workshop, source: Path) -> None:
    """The cascade twice over the same members, of which one detector is made of wood; signs are left out, as they are
    slower than all the rest.
    """
    scenes, detectors = shop.of_kind("scene"), shop.of_kind("boxes")
    decode = shop.decode()
    for name in [*scenes, detectors[0]]:
        shop.member(name, name)
    shop.copy(detectors[0], FAULTY, _as_python)
    for path in (shop.folder / FAULTY / "1").iterdir():
        path.unlink()
    shop.python_file(FAULTY, "faulty_detector.py")
    shop.kinds[FAULTY] = "boxes"
    shop.ensemble("perception", [detectors[0], FAULTY])
    shop.glance("glance", scenes, decode)
    for side, name in SIDES.items():
        shop.copy("roadwork", name, lambda config: set_parameters(config, {"policy": "policy.yaml"}), instances=WORKERS)
        write_policy(policy_of(source, side, detectors[0]), shop.folder / name / "policy.yaml")


def policy_of(source: Path, side: str, detector: str) -> Any:
    """The committed policy with short times and every stage always asked, the other detectors replaced."""
    policy = load_policy(source / "roadwork" / "policy.yaml")
    kept = {"scene"}
    others = [member.name for _, member in policy.members() if member.kind not in kept and member.name != detector]
    tiers = [tier.member.name for tier in policy.tiers]
    data = without_members(policy, others + tiers).to_dict()
    data.update(name=side.replace(" ", "-"), all_stages=True, together=None, deadline_ms=DEADLINE_MS, quorum=0.1)
    calls = {"window": NEVER, "minimum": NEVER} if side == "breaker off" else {"window": 8, "minimum": 3}
    data["breaker"].update(calls, failure_rate=0.5, open_seconds=OPEN_SECONDS)
    for stage in data["stages"]:
        stage["deadline_ms"] = STAGE_MS
        if detector in stage["members"]:
            stage["members"][FAULTY] = dict(stage["members"][detector])
    return parse_policy(data)


class Callers:
    """`WORKERS` callers, each of which asks again a moment after its answer."""

    def __init__(self, url: str, model: str, requests: Sequence[list[Any]]) -> None:
        self.client, self.model, self.requests = grpc.InferenceServerClient(url), model, requests
        self.answers: list[Answered] = []
        self.stop = threading.Event()

    def run(self, offset: int) -> None:
        """Until `stop`; an exception ends it."""
        number = offset
        while not self.stop.is_set():
            began = time.perf_counter()
            inputs = self.requests[number % len(self.requests)]
            answer = self.client.infer(self.model, inputs, client_timeout=REQUEST_SECONDS)
            now = time.perf_counter()
            status = json.loads(answer.as_numpy("verdict")[0])["status"]
            self.answers.append(Answered(now, now - began, status))
            number += WORKERS
            self.stop.wait(PACE_SECONDS)


def episode(callers: Callers, fault: Path, kind: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What callers got while the detector was at fault, and how long after that verdicts stayed incomplete.

    Ends, with the detector well, when the last `2 * WORKERS` verdicts are whole. Raises BenchError when they do not
    become so.
    """
    pool = ThreadPoolExecutor(WORKERS)
    running = [pool.submit(callers.run, number) for number in range(WORKERS)]
    try:
        _until_whole(callers, running, time.perf_counter())
        _write(fault, kind)
        began = time.perf_counter()
        time.sleep(seconds)
        fault.unlink()
        ended = time.perf_counter()
        _until_whole(callers, running, ended)
    finally:
        fault.unlink(missing_ok=True)
        callers.stop.set()
        pool.shutdown()
        callers.client.close()
    asked = [a for a in callers.answers if a.at - a.seconds >= began and a.at - a.seconds < ended]
    after = [a for a in callers.answers if a.at >= ended and a.status != "ok"]
    return {
        "seconds": [a.seconds for a in asked],
        "statuses": [a.status for a in asked],
        "recovery": max((a.at - ended for a in after), default=0.0),
    }


def _until_whole(callers: Callers, running: Sequence[Any], since: float) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        for worker in running:
            if worker.done():
                raise BenchError(f"the server failed a request to {callers.model}: {worker.exception()}")
        last = [a.status for a in callers.answers[-2 * WORKERS :] if a.at - a.seconds > since]
        if len(last) == 2 * WORKERS and set(last) == {"ok"}:
            return
        if time.monotonic() > deadline:
            raise BenchError(
                f"{callers.model}: verdicts are not whole {RECOVERY_SECONDS:.0f} s after the fault; their status: "
                f"{', '.join(sorted(set(last))) or 'none came'}"
            )
        time.sleep(0.02)


def _write(fault: Path, kind: dict[str, Any]) -> None:
    draft = fault.with_suffix(".new")
    draft.write_text(json.dumps(kind))
    draft.replace(fault)  # in one step: the model may be reading


def _row(kind: str, side: str, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds = np.concatenate([part["seconds"] for part in parts])
    statuses = [status for part in parts for status in part["statuses"]]
    return {
        "what": side,
        "fault": kind,
        "images": len(seconds),
        "milliseconds_p50": round(float(np.quantile(seconds, 0.5)) * 1000, 2),
        "milliseconds_p99": round(float(np.quantile(seconds, 0.99)) * 1000, 2),
        **{f"share_{status}": round(statuses.count(status) / len(statuses), 4) for status in STATUSES},
        "recovery_seconds": round(float(np.median([part["recovery"] for part in parts])), 3),
    }


def _ratios(kind: str, on: Sequence[dict[str, Any]], off: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians of the paired episodes."""
    first, second = SIDES
    pairs = list(zip(on, off, strict=True))
    medians = [float(np.median(a["seconds"]) / np.median(b["seconds"])) for a, b in pairs]
    worst = [float(np.quantile(a["seconds"], 0.99) / np.quantile(b["seconds"], 0.99)) for a, b in pairs]
    return [
        {"measure": name, "first": first, "second": second, "where": kind, **median_interval(values)}
        for name, values in (("median latency", medians), ("p99 latency", worst))
    ]


def _as_python(config: Any) -> None:
    config.backend = "python"
    config.ClearField("parameters")
    config.ClearField("dynamic_batching")
