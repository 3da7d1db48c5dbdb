"""One run of perf_analyzer: one number of requests in flight, or one rate, for so many seconds."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roadwork_bench.errors import BenchError

WINDOWS = 3
"""perf_analyzer's fewest; together they are the measurement."""
ANY = 1_000_000
"""Percent by which its windows may differ. It gives no result at all where they differ by more; we tell by how much."""
WARM_REQUESTS = 4
SYNCHRONOUS = 32
"""Requests in flight that each get a thread of their own; more share a few threads."""
DRAIN_SECONDS = 120.0
STOP_SECONDS = 5.0

Kind = Literal["in_flight", "rate"]


@dataclass(frozen=True)
class Point:
    """value: requests kept on their way (`in_flight`), or begun in a second as a Poisson process (`rate`)."""

    kind: Kind
    value: float

    @property
    def name(self) -> str:
        return f"{self.value:g} in flight" if self.kind == "in_flight" else f"{self.value:g}/s"


@dataclass(frozen=True)
class Target:
    """url: HOST:PORT of gRPC. shared_memory: tensors go by shared memory, so that the server is on this machine."""

    url: str
    model: str
    streaming: bool = False
    shared_memory: bool = False


@dataclass(frozen=True)
class Ran:
    """What one run left: its files (the export only where it was asked for), what it said and its exit status."""

    csv: Path
    export: Path | None
    said: str
    status: int


def arguments(target: Target, point: Point, data: Path, seconds: float, csv: Path, export: Path | None) -> list[str]:
    """perf_analyzer's own, for one point."""
    words = ["-m", target.model, "-u", target.url, "-i", "grpc", "--input-data", str(data)]
    if point.kind == "in_flight":
        words += ["--concurrency-range", str(int(point.value))]
    else:
        words += ["--request-rate-range", f"{point.value:g}", "--request-distribution", "poisson"]
    if target.streaming:
        words += ["--async", "--streaming"]
    elif point.kind == "rate" or point.value > SYNCHRONOUS:
        # A rate needs requests that do not wait for each other: threads that wait would hide how late the others are.
        words += ["--async"]
    if target.shared_memory:
        words += ["--shared-memory", "system"]
    warm = max(WARM_REQUESTS, int(point.value) if point.kind == "in_flight" else 0)
    words += ["--warmup-request-count", str(warm)]
    words += [
        "--measurement-mode",
        "time_windows",
        "--measurement-interval",
        str(max(1, round(seconds * 1000 / WINDOWS))),
    ]
    words += ["--max-trials", str(WINDOWS), "--stability-percentage", str(ANY), "--percentile", "99"]
    words += ["-f", str(csv), "--verbose-csv"]
    return [*words, "--profile-export-file", str(export)] if export is not None else words


def run_point(
    program: list[str], target: Target, point: Point, data: Path, seconds: float, folder: Path, *, export: bool = True
) -> Ran:
    """Run it to its end; nothing of it is left running, whatever happens.

    Args:
        program: of `find_program`.
        data: of `Feed.write`.
        seconds: to measure; besides, requests that are on their way at the end are waited for.
        folder: where its files go.
        export: whether it is to write every request; only without large tensors in messages.

    Raises:
        BenchError: it has not ended long after it should have.
    """
    stem = f"{point.kind}_{point.value:g}"
    csv, log = folder / f"{stem}.csv", folder / f"{stem}.txt"
    exported = folder / f"{stem}.json" if export else None
    words = [*program, *arguments(target, point, data, seconds, csv, exported)]
    limit = 2 * seconds + DRAIN_SECONDS
    with log.open("wb") as said:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise BenchError(f"perf_analyzer has not ended after {limit:g} s: {shlex.join(words)}") from None
        finally:
            end_group(process)
    return Ran(csv, exported, log.read_text(encoding="utf-8", errors="replace"), status)


def end_group(process: subprocess.Popen) -> None:
    """End a process and its group, gently first: it removes its shared memory when it is asked to stop."""
    if process.poll() is not None:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            break
    with contextlib.suppress(ProcessLookupError):  # what is left of the group, itself included
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)
