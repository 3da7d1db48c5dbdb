"""Serving techniques by name, as engine arguments: the catalogue's (`roadwork_export.techniques`), called in one
place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from roadwork_export.catalogue import Entry
from roadwork_export.errors import ExportError

from roadwork_deploy.errors import PlanError
from roadwork_deploy.planner.hardware import Gpu

PLANNED = ("model", "quantization", "tensor_parallel_size", "pipeline_parallel_size")
"""Engine arguments that the planner decides on itself."""


def arguments(wanted: Sequence[str], entry: Entry, gpus: int, gpu: Gpu) -> dict[str, Any]:
    """Engine arguments of `NAME` or `NAME=VALUE` for a tier over `gpus` GPUs.

    Raises:
        PlanError: one is unknown, refused or not for this tier.
    """
    if not wanted:
        return {}
    from roadwork_export.techniques import apply

    try:
        found = apply(wanted, entry, tensor_parallel=gpus, gpu=gpu.generation)
    except ExportError as error:
        raise PlanError(f"--with: {error}") from None
    for key in PLANNED:
        if key in found:
            raise PlanError(f"--with: {', '.join(wanted)} sets {key}, which follows from --precision and --parallel")
    return found


def merged(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `over` on top; mappings in both are merged."""
    from roadwork_export.techniques import merge

    return merge(settings, over)
