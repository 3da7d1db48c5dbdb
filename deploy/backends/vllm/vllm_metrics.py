"""Hands vLLM's counters to Triton's metrics endpoint, summed up twice a second.

Names are those of NVIDIA's vLLM backend, which are vLLM's own; the gauges and what is said of sleeping are added.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from vllm_sleep import LEVELS, State

PERIOD_SECONDS = 0.5
COUNTERS = {
    "vllm:prompt_tokens_total": "Number of prefill tokens processed.",
    "vllm:generation_tokens_total": "Number of generation tokens processed.",
}
GAUGES = {
    "vllm:num_requests_running": "Number of requests in the engine's batches.",
    "vllm:num_requests_waiting": "Number of requests that wait for the engine.",
    "roadwork_tier_state": "0 awake, 1 falling asleep, 2 asleep, 3 waking.",
}
LATENCY = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
TOKEN_LATENCY = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]
WAKE_LATENCY = [0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0]
WHOLE_LATENCY = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0]
HISTOGRAMS: Mapping[str, tuple[str, list[float] | None]] = {
    "vllm:time_to_first_token_seconds": ("Histogram of time to first token in seconds.", LATENCY),
    "vllm:time_per_output_token_seconds": ("Histogram of time per output token in seconds.", TOKEN_LATENCY),
    "vllm:e2e_request_latency_seconds": ("Histogram of end to end request latency in seconds.", WHOLE_LATENCY),
    "vllm:request_prompt_tokens": ("Number of prefill tokens processed.", None),  # None: by max_model_len
    "vllm:request_generation_tokens": ("Number of generation tokens processed.", None),
    "roadwork_tier_wake_seconds": ("Histogram of the seconds that an engine took to wake up.", WAKE_LATENCY),
    "vllm:request_params_n": ("Histogram of the n request parameter.", [1, 2, 5, 10, 20]),
}


class Metrics:
    """Sums that a thread hands on.

    Args:
        families: `pb_utils.MetricFamily`.
        labels: of every metric.
        max_model_len: tokens; the last bucket of the token histograms.
    """

    def __init__(self, families: Any, labels: Mapping[str, str], max_model_len: int) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, float] = defaultdict(float)
        self._levels: dict[str, float] = {}
        self._seen: dict[str, list[float]] = defaultdict(list)
        self._families: list[Any] = []  # Triton drops a metric whose family nobody holds
        self._metrics: dict[str, Any] = {}
        for kind, names in ((families.COUNTER, COUNTERS), (families.GAUGE, GAUGES)):
            for name, text in names.items():
                self._add(families(name=name, description=text, kind=kind), name, labels)
        for name, (text, buckets) in HISTOGRAMS.items():
            family = families(name=name, description=text, kind=families.HISTOGRAM)
            self._add(family, name, labels, buckets=buckets or token_buckets(max_model_len))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vllm-metrics", daemon=True)
        self._thread.start()

    def _add(self, family: Any, name: str, labels: Mapping[str, str], **more: Any) -> None:
        self._families.append(family)
        self._metrics[name] = family.Metric(labels=dict(labels), **more)

    def record(self, scheduler: Any, iteration: Any) -> None:
        """Take in vLLM's `SchedulerStats` and `IterationStats`; either may be None."""
        with self._lock:
            if scheduler is not None:
                self._levels["vllm:num_requests_running"] = scheduler.num_running_reqs
                self._levels["vllm:num_requests_waiting"] = scheduler.num_waiting_reqs
            if iteration is None:
                return
            self._sums["vllm:prompt_tokens_total"] += iteration.num_prompt_tokens
            self._sums["vllm:generation_tokens_total"] += iteration.num_generation_tokens
            self._seen["vllm:time_to_first_token_seconds"] += iteration.time_to_first_tokens_iter
            self._seen["vllm:time_per_output_token_seconds"] += iteration.inter_token_latencies_iter
            self._seen["vllm:request_params_n"] += iteration.n_params_iter
            for done in iteration.finished_requests:
                self._seen["vllm:e2e_request_latency_seconds"].append(done.e2e_latency)
                self._seen["vllm:request_prompt_tokens"].append(done.num_prompt_tokens)
                self._seen["vllm:request_generation_tokens"].append(done.num_generation_tokens)

    def slept(self, state: State, seconds: float | None) -> None:
        """Take in a state of an engine that may sleep, and how long waking took."""
        with self._lock:
            self._levels["roadwork_tier_state"] = LEVELS[state]
            if seconds is not None:
                self._seen["roadwork_tier_wake_seconds"].append(seconds)

    def close(self) -> None:
        """Hand on what is left and end the thread."""
        self._closed.set()
        self._thread.join(5)
        self._metrics.clear()
        self._families.clear()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._closed.wait(PERIOD_SECONDS)
            with self._lock:
                sums, self._sums = self._sums, defaultdict(float)
                levels, self._levels = self._levels, {}
                seen, self._seen = self._seen, defaultdict(list)
            for name, value in sums.items():
                if value:
                    self._metrics[name].increment(value)
            for name, value in levels.items():
                self._metrics[name].set(value)
            for name, values in seen.items():
                for value in values:
                    self._metrics[name].observe(value)


def token_buckets(most: int) -> list[float]:
    """1, 2, 5, 10, ... up to `most`."""
    return [float(digit * 10**power) for power in range(12) for digit in (1, 2, 5) if digit * 10**power <= most]


def stat_logger(families: Any, labels: Mapping[str, str], made: list[Metrics]) -> Any:
    """A factory of stat loggers as `AsyncLLM` takes them; each `Metrics` it makes is put into `made`, which is empty
    or has the one of the engine that died.
    """
    from vllm.v1.metrics.loggers import StatLoggerBase

    class TritonStatLogger(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            if not made:
                made.append(Metrics(families, labels, vllm_config.model_config.max_model_len))
            self._metrics = made[0]

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
            self._metrics.record(scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            pass

    def make(vllm_config: Any, engine_index: int = 0) -> Any:  # vLLM takes classes for aggregating loggers
        return TritonStatLogger(vllm_config, engine_index)

    return make
