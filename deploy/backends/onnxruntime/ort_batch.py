"""Runs the requests of one `execute` call with as few session calls as their shapes allow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]
Run = Callable[[list[str], Arrays], Sequence[np.ndarray]]


@dataclass(slots=True)
class Job:
    """One request: what goes in, the names that its caller wants, and then its outputs or its error."""

    inputs: Arrays
    wanted: list[str]
    outputs: Arrays | None = None
    error: str | None = None


def run_jobs(jobs: Sequence[Job], run: Run, batched: bool) -> None:
    """Fill `outputs` or `error` of every job.

    Jobs whose inputs agree in names, types and shapes behind the batch dimension share one call. When a shared call
    fails, each of its jobs runs alone, so that one request's bad values never fail another's.

    Args:
        jobs: not yet run.
        run: names of outputs and arrays of inputs -> arrays of outputs, in order.
        batched: dimension 0 of every array is the batch. Else each job runs alone.
    """
    if len(jobs) == 1:
        _run_one(jobs[0], run)
        return
    if not batched:
        for job in jobs:
            _run_one(job, run)
        return
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        key = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(job.inputs.items()))
        groups.setdefault(key, []).append(job)
    for group in groups.values():
        if len(group) == 1 or not _run_together(group, run):
            for job in group:
                _run_one(job, run)


def _run_one(job: Job, run: Run) -> None:
    try:
        job.outputs = dict(zip(job.wanted, run(job.wanted, job.inputs), strict=True))
    except Exception as error:  # whatever ONNX Runtime raises is this request's answer
        job.error = str(error)


def _run_together(group: Sequence[Job], run: Run) -> bool:
    """One call for all of the group; False if it failed or its outputs cannot be told apart."""
    wanted = list(dict.fromkeys(name for job in group for name in job.wanted))
    inputs = {name: np.concatenate([job.inputs[name] for job in group]) for name in group[0].inputs}
    rows = [next(iter(job.inputs.values())).shape[0] for job in group]
    total = sum(rows)
    try:
        outputs = dict(zip(wanted, run(wanted, inputs), strict=True))
    except Exception:
        return False
    if any(array.ndim == 0 or array.shape[0] != total for array in outputs.values()):
        return False
    start = 0
    for job, count in zip(group, rows, strict=True):
        job.outputs = {name: outputs[name][start : start + count] for name in job.wanted}
        start += count
    return True


def fill_up(runs: Mapping[int, Run], seconds: Mapping[int, float] | None = None) -> Run:
    """A `Run` that calls those of `runs` with batches of their sizes alone.

    A batch is cut into pieces, the last of which is filled up with copies of its last image, such that all of them
    together take least time. On a GPU every change of shape costs up to seconds, in which cuDNN plans each convolution
    anew; few shapes, each with a session that never sees another, cost a little arithmetic instead. How much depends on
    the network: eight images take a small one twice as long as one image, and a large one eight times.

    Args:
        runs: size of a batch -> what takes it. Dimension 0 of every array is the batch.
        seconds: size -> how long it takes. Without them every size takes as long: the fewest pieces.
    """
    cut = functools.lru_cache(maxsize=1024)(functools.partial(cheapest, seconds or dict.fromkeys(runs, 1.0)))
    largest = max(runs)

    def filled(names: list[str], inputs: Arrays) -> Sequence[np.ndarray]:
        rows = next(iter(inputs.values())).shape[0]
        pieces, start = [], 0
        for size in cut(rows) or (min(runs),):
            part = {name: array[start : start + size] for name, array in inputs.items()}
            found = runs[size](names, {name: _longer(array, size) for name, array in part.items()})
            if any(array.ndim == 0 or array.shape[0] != size for array in found):
                # Outputs that are not of the batch would be those of a longer one, and cannot be put together.
                return runs[largest](names, inputs)
            pieces.append([array[: rows - start] for array in found])
            start += size
        return pieces[0] if len(pieces) == 1 else [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]

    return filled


def cheapest(seconds: Mapping[int, float], rows: int) -> tuple[int, ...]:
    """Sizes of batches that hold `rows` images and take the least time together, the largest first.

    Args:
        seconds: size -> how long it takes.
    """
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for count in range(1, rows + 1):
        before = {size: best[max(0, count - size)] for size in sorted(seconds)}
        size = min(before, key=lambda size: seconds[size] + before[size][0])
        best.append((seconds[size] + before[size][0], (*before[size][1], size)))
    return tuple(sorted(best[rows][1], reverse=True))


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    missing = size - array.shape[0]
    return np.concatenate([array, np.repeat(array[-1:], missing, 0)]) if missing else array
