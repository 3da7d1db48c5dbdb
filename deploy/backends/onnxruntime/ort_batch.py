"""Runs the requests of one `execute` call with as few session calls as their shapes allow."""

from __future__ import annotations

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


def fill_up(runs: Mapping[int, Run]) -> Run:
    """A `Run` that calls those of `runs` with batches of their sizes alone.

    Smaller batches are filled up to the next size with copies of their last image, larger ones are cut into pieces. On
    a GPU every change of shape costs up to seconds, in which cuDNN plans each convolution anew; few shapes, each with a
    session that never sees another, cost a little arithmetic instead.

    Args:
        runs: size of a batch -> what takes it. Dimension 0 of every array is the batch.
    """
    sizes = sorted(runs)
    largest = sizes[-1]

    def filled(names: list[str], inputs: Arrays) -> Sequence[np.ndarray]:
        rows = next(iter(inputs.values())).shape[0]
        if rows <= largest:
            return one(names, inputs, rows)
        pieces = [
            one(
                names,
                {name: array[start : start + largest] for name, array in inputs.items()},
                min(largest, rows - start),
            )
            for start in range(0, rows, largest)
        ]
        if any(array.ndim == 0 for array in pieces[0]) or sum(piece[0].shape[0] for piece in pieces) != rows:
            return runs[largest](names, inputs)  # outputs that are not of the batch cannot be put together
        return [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]

    def one(names: list[str], inputs: Arrays, rows: int) -> Sequence[np.ndarray]:
        size = next(size for size in sizes if size >= rows)
        run = runs[size]
        if size == rows or rows == 0:
            return run(names, inputs)
        longer = {
            name: np.concatenate([array, np.repeat(array[-1:], size - rows, 0)]) for name, array in inputs.items()
        }
        outputs = run(names, longer)
        if any(array.ndim == 0 or array.shape[0] != size for array in outputs):
            return run(names, inputs)  # an output that is not of the batch would be one of the longer batch
        return [array[:rows] for array in outputs]

    return filled
