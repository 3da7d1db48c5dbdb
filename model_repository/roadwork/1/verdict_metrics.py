"""The cascade's own metrics on Triton's metrics endpoint."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

BREAKER_LEVEL = {"closed": 0, "half_open": 1, "open": 2}
TELL_SECONDS = 1.0
"""Every count is a message to the server process and back, a dozen a verdict: they are summed and told together."""

Key = tuple[str, tuple[tuple[str, str], ...]]


class Metrics:
    """Counters over all instances, and each instance's breaker states."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        # Triton deletes a family when the last reference to it goes, so they are kept here.
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._families = {
            "verdicts": _family("roadwork_verdicts", "Verdicts by status and deciding stage", counter),
            "errors": _family("roadwork_errors", "Requests answered with an error, by outcome", counter),
            "failures": _family("roadwork_failures", "Models that were asked and did not answer, by reason", counter),
            "stages": _family("roadwork_stages", "Stages by outcome", counter),
            "seconds": _family("roadwork_stage_seconds_sum", "Seconds spent in a stage that was asked", counter),
            "asked": _family("roadwork_stage_seconds_count", "How often a stage was asked", counter),
            "escalations": _family("roadwork_escalations", "Images that took a route and met a tier", counter),
            "tier_calls": _family("roadwork_tier_calls", "Tiers of the routes taken, by outcome", counter),
            "tokens": _family("roadwork_tokens", "Tokens that tiers read and wrote", counter),
            "cost": _family("roadwork_cost", "Cost of stages and tiers, in the verdicts' currency", counter),
            "breaker": _family("roadwork_breaker_state", "0 closed, 1 half open, 2 open", gauge),
        }
        self._metrics: dict[Key, Any] = {}
        self._sums: dict[Key, float] = defaultdict(float)
        self._levels: dict[Key, int] = {}
        self._told: dict[Key, int] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell_now_and_then, name="metrics", daemon=True)
        self._thread.start()

    def count(self, verdict: Mapping[str, Any], breakers: Mapping[str, str]) -> None:
        """Count a verdict; the server hears of it within TELL_SECONDS."""
        with self._lock:
            self._add("verdicts", 1, status=verdict["status"], decided_by=verdict["decided_by"] or "nobody")
            for gap in verdict["missing"]:
                self._add("failures", 1, model=gap["member"], reason=gap["reason"])
            for stage in verdict["stages"]:
                self._add("stages", 1, stage=stage["name"], outcome=stage["outcome"])
                if stage["outcome"] != "skipped":
                    self._add("seconds", stage["milliseconds"] / 1000.0, stage=stage["name"])
                    self._add("asked", 1, stage=stage["name"])
                    self._add("cost", stage["cost"], stage=stage["name"])
            self._count_tiers(verdict)
            for model, state in breakers.items():
                self._levels[_key("breaker", model=model, instance=self._instance)] = BREAKER_LEVEL[state]

    def _count_tiers(self, verdict: Mapping[str, Any]) -> None:
        tiers = verdict["tiers"]
        if any(tier["outcome"] != "skipped" for tier in tiers):
            self._add("escalations", 1, route=verdict["route"] or "all")
        for tier in tiers:
            self._add("tier_calls", 1, tier=tier["name"], outcome=tier["reason"] or tier["outcome"])
            for direction, count in tier["tokens"].items():
                if count:
                    self._add("tokens", count, tier=tier["name"], direction=direction)

    def count_error(self, outcome: str) -> None:
        """Count a request that got an error."""
        with self._lock:
            self._add("errors", 1, outcome=outcome)

    def close(self) -> None:
        """Tell what is left, and stop."""
        self._ended.set()
        self._thread.join(timeout=5.0)

    def _tell_now_and_then(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(TELL_SECONDS)
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            sums, self._sums = self._sums, defaultdict(float)
            levels = {key: level for key, level in self._levels.items() if self._told.get(key) != level}
        for key, value in sums.items():
            self._metric(key).increment(value)
        for key, level in levels.items():
            self._metric(key).set(level)
            self._told[key] = level

    def _add(self, family: str, value: float, **labels: str) -> None:
        self._sums[_key(family, **labels)] += value

    def _metric(self, key: Key) -> Any:
        if key not in self._metrics:
            family, labels = key
            self._metrics[key] = self._families[family].Metric(labels=dict(labels))
        return self._metrics[key]


def _key(family: str, **labels: str) -> Key:
    return family, tuple(sorted(labels.items()))


def _family(name: str, description: str, kind: Any) -> Any:
    return pb_utils.MetricFamily(name=name, description=description, kind=kind)
