"""How much GPU memory a network takes under ONNX Runtime: one process and one GPU each, as our backend serves it."""

from __future__ import annotations

import math

from roadwork_export.catalogue import Entry

from roadwork_deploy.errors import PlanError
from roadwork_deploy.planner import measured
from roadwork_deploy.planner.hardware import Gpu
from roadwork_deploy.planner.need import Need

PLACED = ("boxes", "open_vocabulary", "scene", "distance")
"""Roles that perception asks."""
PATCHES = {
    "dinov2": 14,
    "dinov3": 16,
    "vit": 16,
    "clip": 14,
    "owlv2": 16,
    "depth_anything": 14,
    "rfdetr": 14,
    "sam3": 14,
}
"""Family -> pixels of a patch's side, of those that are transformers from the first layer on; the smallest where sizes
differ."""
BATCHES = (32, 16, 8, 4, 2, 1)
ROOM = 0.02
"""Share of the GPU up to which the activations of a batch may grow; a larger batch would make room for nothing else."""


def activations(entry: Entry, precision: str) -> int:
    """Live activations of one image, in bytes.

    Convolutional networks: side² · CONV_BYTES · sqrt(parameters / 1e6), since width grows as the root of the
    parameters; the first stages, at a half and a quarter of the side, are the peak. Transformers: T = (side / patch)²
    tokens of `width` with twelve vectors at once (query, key, value, result, sum, normalised, and the network's 4 ·
    width before and after), and attention, which ONNX Runtime computes in full: heads · T² scores before and after the
    softmax. Both in float32 (4 bytes), half of it in fp16."""
    if entry.input is None or entry.parameters is None:
        raise PlanError(f"{entry.name}: its size is not known, so neither is its memory")
    bytes_each = 2 if precision in ("fp16", "int8") else 4
    if entry.family == "grounding_dino":
        return int(entry.input**2 * measured.GROUNDING_BYTES * bytes_each / 4)
    patch = PATCHES.get(entry.family or "")
    if patch is None or "convnext" in entry.name:
        return int(entry.input**2 * measured.CONV_BYTES * math.sqrt(entry.parameters / 1e6) * bytes_each / 4)
    tokens = (entry.input / patch) ** 2
    width, heads = _transformer(entry.parameters)
    return int((tokens * width * 12 + 2 * heads * tokens**2) * bytes_each)


def _transformer(parameters: float) -> tuple[int, int]:
    """Width and heads of the usual sizes: small, base, large, and SAM 3's."""
    for limit, size in ((60e6, (384, 6)), (250e6, (768, 12))):
        if parameters < limit:
            return size
    return 1024, 16


def need(entry: Entry, precision: str, gpu: Gpu) -> Need:
    """What one instance takes, with the largest batch whose activations fit into `ROOM` of the smallest GPU there is.

    Weights are parameters times bytes (`Entry.memory`); ONNX Runtime's arena reserves more than is in use.

    Raises:
        PlanError: it is not an ONNX network that perception asks, or its size is not known.
    """
    if entry.status == "rejected":
        raise PlanError(f"{entry.name}: is not served: {entry.reason}")
    if entry.served == "vllm":
        raise PlanError(f"{entry.name}: is a tier; name it in --tiers")
    if entry.served != "onnx" or entry.role not in PLACED:
        raise PlanError(f"{entry.name}: is no ONNX network (served: {entry.served}); only those go to a GPU here")
    one = activations(entry, precision)
    batch = next((size for size in BATCHES if size * one <= ROOM * gpu.bytes), 1)
    weights = entry.memory(precision) or 0
    convolutions = entry.family not in PATCHES
    parts = {
        "weights": int(weights * measured.ARENA_SLACK),
        "activations": int(one * batch * measured.ARENA_SLACK),
        "workspace": measured.CUDNN_WORKSPACE if convolutions else 0,
        "CUDA context": measured.ORT_CONTEXT,
    }
    return Need(
        name=entry.name,
        kind="detector",
        precision=precision,
        gpus=1,
        parts={name: size for name, size in parts.items() if size},
        at_start=parts["weights"] + parts["CUDA context"],
        batch=batch,
    )
