"""Reads what perf_analyzer writes: its CSV, its export of every request, and what it says."""

from __future__ import annotations

import csv
import mmap
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roadwork_bench.errors import BenchError

QUANTILES = (50, 90, 95, 99)
# A quote inside a value is escaped, so none of these can begin inside one.
_REQUEST = re.compile(rb'(?<!\\)"timestamp":(\d+)')
_ANSWERS = re.compile(rb'(?<!\\)"response_timestamps":\[([\d,]*)\]')
_WINDOWS = re.compile(rb'(?<!\\)"window_boundaries":\[([\d,]*)\]')
_LEFT_OUT = re.compile(rb'\\"missing\\":\s?\[\s?[^\]\s]')
_STATUS = re.compile(rb'\\"status\\":\s?\\"(\w+)\\"')


@dataclass(frozen=True)
class Export:
    """The requests that ended within the measurement.

    Attributes:
        begins: nanoseconds, int64 [N].
        firsts, ends: when the first and the last answer to each came, int64 [N].
        answers: how many came to each, int64 [N].
        windows: boundaries of the measurement's windows, nanoseconds, int64 [W + 1].
        statuses: verdict's status -> how many verdicts had it; empty where the answers are no verdicts.
        left_out: verdicts in which a member is missing that was asked: less work than the others had.
    """

    begins: NDArray[np.int64]
    firsts: NDArray[np.int64]
    ends: NDArray[np.int64]
    answers: NDArray[np.int64]
    windows: NDArray[np.int64]
    statuses: dict[str, int] = field(default_factory=dict)
    left_out: int = 0

    @property
    def milliseconds(self) -> NDArray[np.float64]:
        """From the request to its last answer, float64 [N]."""
        return (self.ends - self.begins) / 1e6

    @property
    def first_milliseconds(self) -> NDArray[np.float64]:
        """From the request to its first answer, float64 [N]."""
        return (self.firsts - self.begins) / 1e6

    @property
    def seconds(self) -> float:
        """That were measured."""
        return float(self.windows[-1] - self.windows[0]) / 1e9

    @property
    def growth(self) -> float:
        """Seconds by which the last third of the requests waited longer than the first third, medians; 0 of a few.

        In a steady state it is about 0, however slow the answers; with more load than is answered the queue grows, and
        this with it. It needs no rate: that of a short Poisson process is not the one asked for.
        """
        third = len(self.begins) // 3
        if third < 3:
            return 0.0
        latency = self.milliseconds[np.argsort(self.begins)]
        return float(np.median(latency[-third:]) - np.median(latency[:third])) / 1000

    @property
    def throughput(self) -> list[float]:
        """Requests a second that ended in each window."""
        counts, _ = np.histogram(self.ends, self.windows)
        return [float(rate) for rate in counts / (np.diff(self.windows) / 1e9)]


def read_export(path: Path) -> Export:
    """The file of `--profile-export-file`.

    It holds the bytes of every image that was sent, as a JSON text that is no valid UTF-8, and can have gigabytes; it
    is searched for the times alone, in place, instead of being parsed.

    Raises:
        BenchError: it is not there, or is no such file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            begins = [int(match[1]) for match in _REQUEST.finditer(data)]
            answers = [_numbers(match[1]) for match in _ANSWERS.finditer(data)]
            windows = [_numbers(match[1]) for match in _WINDOWS.finditer(data)]
            left_out = sum(1 for _ in _LEFT_OUT.finditer(data))
            statuses = Counter(match[1].decode() for match in _STATUS.finditer(data))
    except (OSError, ValueError) as error:
        raise BenchError(f"perf_analyzer has left no export of its requests ({error})") from None
    if len(windows) != 1 or len(windows[0]) < 2 or len(begins) != len(answers):
        raise BenchError(f"{path.name}: not an export of one measurement of perf_analyzer")
    pairs = [(begin, times) for begin, times in zip(begins, answers, strict=True) if times]
    return Export(
        np.array([begin for begin, _ in pairs], np.int64),
        np.array([min(times) for _, times in pairs], np.int64),
        np.array([max(times) for _, times in pairs], np.int64),
        np.array([len(times) for _, times in pairs], np.int64),
        np.array(windows[0], np.int64),
        dict(statuses),
        left_out,
    )


def _numbers(text: bytes) -> list[int]:
    return [int(word) for word in text.split(b",") if word]


def read_csv(path: Path) -> dict[str, float]:
    """Column -> value of the only line of the file of `-f`; latencies in microseconds.

    Raises:
        BenchError: it is not there, or has not just one line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("Inferences/Second")]
        (row,) = rows
        return {key: float(value) for key, value in row.items() if key and value not in (None, "")}
    except (OSError, ValueError) as error:
        raise BenchError(f"perf_analyzer has left no CSV of one measurement ({error})") from None


def csv_milliseconds(row: dict[str, float]) -> dict[str, float]:
    """Its quantiles, `p50` and so on."""
    return {f"p{q}": round(row[f"p{q} latency"] / 1000, 3) for q in QUANTILES if f"p{q} latency" in row}


def quantiles(milliseconds: NDArray[np.float64]) -> dict[str, float]:
    """p50, p90, p95, p99: the smallest measured latency that at least that share of the requests did not exceed."""
    values = np.quantile(milliseconds, [q / 100 for q in QUANTILES], method="inverted_cdf")
    return {f"p{q}": round(float(value), 3) for q, value in zip(QUANTILES, values, strict=True)}


_DELAYED = re.compile(r"([\d.]+)% of the requests were delayed")


def delayed_percent(said: str) -> float:
    """Share of the requests that perf_analyzer itself sent later than the rate asked for, percent."""
    found = _DELAYED.search(said)
    return float(found[1]) if found else 0.0


def request_count(said: str) -> int:
    """Requests that perf_analyzer measured, as it says."""
    found = re.search(r"Request count: (\d+)", said)
    return int(found[1]) if found else 0


def failed_requests(said: str) -> list[str]:
    """Errors of requests, one for each of its threads that had any: it breaks off at the first of each."""
    return re.findall(r"^Thread \[\d+\] had error: (.*)", said, re.MULTILINE)


def problem(said: str) -> str:
    """The line that says why it stopped: it prints its whole usage after some errors."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    wanted = ("error", "failed", "exception", "terminate")
    found = [line for line in lines if line.lower().startswith(wanted) or "error:" in line.lower()]
    return (found or lines or ["it said nothing"])[-1]
