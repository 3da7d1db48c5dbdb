"""How much GPU memory a network takes under ONNX Runtime: one process and one GPU each, as our backend serves it."""

from __future__ import annotations

import math
from importlib.resources import files

import yaml
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
SAM3_MIXING_HEADS = 8
SUPPRESSING = ("yolo11", "yolo12")
"""Beginnings of names whose graphs end in suppression."""
BATCHES = (8, 4, 2, 1)
"""Sizes of a batch, the best first. Over 8, 32 gained eight networks 3 to 41% on an H200, for thrice the memory."""
ROOM = 0.02
"""Share of the GPU up to which the activations of a batch may grow; a larger batch would make room for nothing else."""


def activations(entry: Entry, precision: str) -> int:
    """Live activations of one image, in bytes.

    Convolutional networks: side² · CONV_BYTES · sqrt(parameters / 1e6), since width grows as the root of the
    parameters; the first stages, at a half and a quarter of the side, are the peak. Transformers: T = (side / patch)²
    tokens of `width` with twelve vectors at once (query, key, value, result, sum, normalised, and the network's 4 ·
    width before and after), and attention, which ONNX Runtime computes in full: heads · T² scores before and after the
    softmax. SAM 3 then lets every prompt's copy of the image attend to itself, all in one batch (8 heads, a layer of
    its `detr_encoder_config` in transformers). All in float32 (4 bytes), half of it in fp16."""
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
    live = tokens * width * 12 + 2 * heads * tokens**2
    if entry.family == "sam3":
        live = max(live, _prompts(entry) * 2 * SAM3_MIXING_HEADS * tokens**2)
    return int(live * bytes_each)


def _prompts(entry: Entry) -> int:
    """How many prompts are baked in: those given, else those of the table that the export takes."""
    given = entry.arguments.get("prompts")
    if given is None:  # roadwork_export.prompts reads it too, but brings torch, for which planning has no time
        given = yaml.safe_load((files("roadwork_export") / "tables" / "prompts.yaml").read_text(encoding="utf-8"))
    return len(given)


def _transformer(parameters: float) -> tuple[int, int]:
    """Width and heads of the usual sizes: small, base, large, and SAM 3's."""
    for limit, size in ((60e6, (384, 6)), (250e6, (768, 12))):
        if parameters < limit:
            return size
    return 1024, 16


def need(entry: Entry, precision: str, gpu: Gpu) -> Need:
    """What one instance takes, with the largest batch whose activations fit into `ROOM` of the smallest GPU there is.

    Two sessions, one for single images and one for batches, each with its weights and an arena of its own; see `arena`.
    Weights are parameters times bytes (`Entry.memory`).

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
    weights = int(entry.memory(precision) or 0)
    workspace = 0 if entry.family in PATCHES else measured.CUDNN_WORKSPACE
    sessions = sorted({1, batch})
    each = one + measured.CANVAS + (measured.SUPPRESSION if entry.name.startswith(SUPPRESSING) else 0)
    live = [measured.ARENA_SLACK * (weights + workspace + size * each) for size in sessions]
    held = sum(arena(used) for used in live)
    known = len(sessions) * (weights + workspace)
    parts = {
        "weights": len(sessions) * weights,
        "workspace": len(sessions) * workspace,
        "activations and arena": held - known,
        "CUDA context": measured.ORT_CONTEXT,
    }
    return Need(
        name=entry.name,
        kind="detector",
        precision=precision,
        gpus=1,
        parts={name: size for name, size in parts.items() if size},
        at_start=held + measured.ORT_CONTEXT,
        batch=batch,
    )


def arena(used: float) -> int:
    """Bytes that ONNX Runtime's arena holds once `used` of it have been in use.

    It grows by regions, each twice the last, from 1 MiB to `ARENA_LARGEST_REGION`, and a request never spans two:
    the sum of the first regions that hold `used` (onnxruntime/core/framework/bfc_arena.cc, `Extend`).
    """
    held, region = 0, 1 << 20
    while held < used:
        held += region
        region = min(2 * region, measured.ARENA_LARGEST_REGION)
    return held
