"""From a run of perf_analyzer to the figures of one point of a sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from roadwork_bench.errors import BenchError
from roadwork_bench.perf.inputs import Feed
from roadwork_bench.perf.reading import (
    csv_milliseconds,
    delayed_percent,
    failed_requests,
    problem,
    quantiles,
    read_csv,
    read_export,
    request_count,
)
from roadwork_bench.perf.run import Point, Ran, Target, run_point
from roadwork_bench.perf.serverside import DEADLINE_SECONDS, Counts, between, read_statistics
from roadwork_bench.tiers.watch import Watch

GROWTH = 0.05
"""Of the time measured. A server has fallen behind its rate where the answers were later by more than this at the end:
at 8% more load than it answers, latency grows by this much from the first third of the run to the last."""
SHORT = 0.8
"""Of the rate asked for: the same, where only perf_analyzer's CSV is there."""

Measure = Callable[[Point], dict[str, Any]]


class ServerAway(BenchError):
    """The server does not answer any more; what was measured so far stands."""


class Measurer:
    """Measures points of one model, one at a time.

    Args:
        program: of `find_program`.
        target: the model and its server.
        feed: what it is sent.
        seconds: that a point is measured.
        folder: for perf_analyzer's files; the large ones are removed as soon as they are read.
    """

    def __init__(self, program: list[str], target: Target, feed: Feed, seconds: float, folder: Path) -> None:
        self._program, self._target, self._seconds, self._folder = program, target, seconds, folder
        self._export = target.shared_memory or not feed.large
        self._data = folder / "input.json"
        feed.write(self._data)
        self._client = grpc.InferenceServerClient(target.url)
        self._watch = Watch()

    def close(self) -> None:
        self._watch.close()
        self._client.close()

    @property
    def gpu_name(self) -> str | None:
        """Of this machine, None where it has no GPU."""
        return self._watch.gpu_name

    def measure(self, point: Point) -> dict[str, Any]:
        """Figures of one point; `failed` over 0 where requests failed, and then no latencies if the run broke off.

        Raises:
            ServerAway: the server has gone.
            BenchError: perf_analyzer failed for another reason than a request.
        """
        before, start = self._statistics(), time.monotonic()
        ran = run_point(
            self._program, self._target, point, self._data, self._seconds, self._folder, export=self._export
        )
        stop = time.monotonic()
        models = between(before, self._statistics())
        try:
            return figures(point, ran, models, self._target) | {"machine": self._watch.between(start, stop)}
        finally:
            if ran.export is not None:
                ran.export.unlink(missing_ok=True)

    def _statistics(self) -> Counts:
        try:
            if not self._client.is_server_live(client_timeout=DEADLINE_SECONDS):
                raise ServerAway(f"{self._target.url}: the server is not live")
            return read_statistics(self._client)
        except InferenceServerException as error:
            raise ServerAway(f"{self._target.url}: the server does not answer: {first_line(error.message())}") from None


def first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def figures(point: Point, ran: Ran, models: Mapping[str, Mapping[str, Any]], target: Target) -> dict[str, Any]:
    """What one run says.

    Args:
        models: of `serverside.between`, over the whole run, its warm-up and its draining included.
    """
    own = models.get(target.model, {})
    errors = failed_requests(ran.said)
    # Triton does not count what a Python model refuses as a failure; perf_analyzer tells one error a thread.
    failed = max(int(own.get("failed", 0)), len(errors))
    found: dict[str, Any] = {"kind": point.kind, "value": point.value, "failed": failed, "models": dict(models)}
    if ran.status != 0:
        said = errors[0] if errors else problem(ran.said)
        if "No valid requests recorded" in ran.said:
            raise BenchError(f"no request ended in a third of the time at {point.name}; give more --seconds")
        if not failed:
            raise BenchError(f"perf_analyzer failed at {point.name} with exit status {ran.status}: {said}")
        return {**found, "broke_off": said, "requests": 0}
    row = read_csv(ran.csv)
    found |= {"perf_analyzer": row, "delayed_percent": delayed_percent(ran.said)}
    if ran.export is None:
        # Quantiles as perf_analyzer has them, of the same requests.
        found |= {
            "requests": request_count(ran.said),
            "throughput": round(row["Inferences/Second"], 3),
            "milliseconds": csv_milliseconds(row),
            "quantiles_of": "perf_analyzer's CSV",
            "fell_behind": point.kind == "rate" and row["Inferences/Second"] < SHORT * point.value,
        }
    else:
        export = read_export(ran.export)
        if not len(export.begins):
            raise BenchError(f"no request ended at {point.name} within the measurement; give it more --seconds")
        found |= {
            "requests": len(export.begins),
            "seconds": round(export.seconds, 3),
            "throughput": round(len(export.begins) / export.seconds, 3),
            "throughput_of_windows": [round(rate, 3) for rate in export.throughput],
            "milliseconds": {**quantiles(export.milliseconds), "mean": round(float(export.milliseconds.mean()), 3)},
            "quantiles_of": "every request",
            "fell_behind": point.kind == "rate" and export.growth > GROWTH * export.seconds,
        }
        if target.streaming:
            found["first_milliseconds"] = quantiles(export.first_milliseconds)
            found["answers_a_request"] = round(float(export.answers.mean()), 2)
        if export.statuses:
            found |= {"statuses": export.statuses, "left_out": export.left_out}
    return found
