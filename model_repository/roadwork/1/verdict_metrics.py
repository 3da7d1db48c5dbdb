"""The cascade's own metrics on Triton's metrics endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as pb_utils

BREAKER_LEVEL = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    """Counters over all instances, and each instance's breaker states."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        # Triton deletes a family when the last reference to it goes, so they are kept here.
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._families = {
            "verdicts": _family("roadwork_verdicts", "Verdicts by status and deciding stage", counter),
            "errors": _family("roadwork_errors", "Requests answered with an error, by outcome", counter),
            "missing": _family("roadwork_member_missing", "Members that were asked and did not answer", counter),
            "stages": _family("roadwork_stages", "Stages by outcome", counter),
            "stage_us": _family("roadwork_stage_duration_us", "Microseconds spent in a stage", counter),
            "breaker": _family("roadwork_breaker_state", "0 closed, 1 half open, 2 open", gauge),
        }
        self._metrics: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}
        # Every count is a message to the server process and back; no request waits for it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")

    def count(self, verdict: Mapping[str, Any], breakers: Mapping[str, str]) -> None:
        """Count a verdict, later."""
        self._thread.submit(self._count, verdict, dict(breakers))

    def count_error(self, outcome: str) -> None:
        """Count a request that got an error, later."""
        self._thread.submit(self._add, "errors", 1, outcome=outcome)

    def close(self) -> None:
        """Stop counting."""
        self._thread.shutdown(wait=True)

    def _count(self, verdict: Mapping[str, Any], breakers: Mapping[str, str]) -> None:
        self._add("verdicts", 1, status=verdict["status"], decided_by=verdict["decided_by"] or "nobody")
        for gap in verdict["missing"]:
            self._add("missing", 1, member=gap["member"], reason=gap["reason"])
        for stage in verdict["stages"]:
            self._add("stages", 1, stage=stage["name"], outcome=stage["outcome"])
            if stage["outcome"] != "skipped":
                self._add("stage_us", stage["milliseconds"] * 1000.0, stage=stage["name"])
        for model, state in breakers.items():
            self._metric("breaker", model=model, instance=self._instance).set(BREAKER_LEVEL[state])

    def _add(self, family: str, value: float, **labels: str) -> None:
        self._metric(family, **labels).increment(value)

    def _metric(self, family: str, **labels: str) -> Any:
        key = (family, tuple(sorted(labels.items())))
        if key not in self._metrics:
            self._metrics[key] = self._families[family].Metric(labels=labels)
        return self._metrics[key]


def _family(name: str, description: str, kind: Any) -> Any:
    return pb_utils.MetricFamily(name=name, description=description, kind=kind)
