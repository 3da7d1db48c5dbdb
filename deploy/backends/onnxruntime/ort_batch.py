"""Runs the requests of one `execute` call with as few session calls as their shapes allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def fill_up(run: Run, sizes: Sequence[int]) -> Run:
    """`run` for batches of these sizes alone: others are filled up to the next with copies of their last image.

    On a GPU every new shape costs seconds, in which cuDNN chooses algorithms for each convolution; few shapes, all seen
    at load, cost a little arithmetic instead. Batches over the largest size run as they are.

    Args:
        sizes: ascending. Dimension 0 of every array of `run` is the batch.
    """

    def filled(names: list[str], inputs: Arrays) -> Sequence[np.ndarray]:
        rows = next(iter(inputs.values())).shape[0]
        size = next((size for size in sizes if size >= rows), rows)
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
