"""The ways in which vLLM can serve a tier of the catalogue on given GPUs: precision, tensor parallelism, engine
settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roadwork_export.catalogue import Entry
from roadwork_export.serving import Serving, TextModel, VisionModel

from roadwork_deploy.errors import PlanError
from roadwork_deploy.planner import memory, techniques
from roadwork_deploy.planner.hardware import GB, Gpu
from roadwork_deploy.planner.need import Need

PRECISIONS = ("bf16", "fp8", "w8a8", "int8", "awq", "gptq", "fp4")
"""Best first."""
ONLINE = {"fp8": "fp8", "int8": "int8_per_channel_weight_only"}
"""Precision -> `quantization` of the engine that makes it while loading."""
GROUP = 128
"""Inputs that share a scale in AWQ, GPTQ and block-wise fp8: a GPU's part of a matrix is a whole number of such
groups."""
PARALLEL = (1, 2, 4, 8)
CONTEXT, IMAGES, SIDE = 4096, 64, 448
QUESTION_TOKENS = 320
"""Room for a question with perception's findings (`roadwork_export/tiers/folder.py`, TEXT_TOKENS)."""
ANSWER_TOKENS = {"scorer": 1, "reasoner": 1024, "words": 512}
"""By kind of prompt; a reasoner's is THINKING_TOKENS of `roadwork_export/tiers/prompting.py`."""
LEAST_PIXELS = 65536
"""Smallest image of Qwen's processors by default; an image limit below it has to lower this too."""
LIMITED = ("Qwen", "DotsOCR")
"""Beginnings of architectures whose image size `mm_processor_kwargs` limits by `max_pixels` (`models/qwen2_vl.py`)."""
NATIVE_TOKENS = {"InternVL": 3328, "Llama4": 2448}
"""Visual tokens of the largest image of the other architectures: InternVL 12 tiles and a thumbnail of 256, Llama 4 16
tiles and the whole of 144; vLLM makes room for that image at its start."""
OTHER_TOKENS = 2048
OWN_ENCODER = ("Qwen", "DotsOCR", "Llama4")
"""Beginnings of architectures with `supports_encoder_tp_data`: the encoder may be whole on every GPU."""


@dataclass(frozen=True)
class Wish:
    """What is wanted of every tier.

    Attributes:
        precision: one of `PRECISIONS`, or auto.
        images: requests under way at the same time.
        context: longest in tokens; None: 4096, or the model's own where that is shorter.
        side: of an image, in pixels.
        remote_code: models may run their publisher's Python.
        parallel: tier -> GPUs that are to share it; others get as few as do.
        techniques: `NAME` or `NAME=VALUE` of `roadwork-export techniques`.
    """

    precision: str = "auto"
    images: int = IMAGES
    context: int | None = None
    side: int = SIDE
    remote_code: bool = False
    parallel: Mapping[str, int] = field(default_factory=dict)
    techniques: tuple[str, ...] = ()


def sizes(entry: Entry, wish: Wish) -> tuple[Serving, TextModel, VisionModel]:
    """The facts of a tier that can be planned.

    Raises:
        PlanError: it cannot; the message begins with its name.
    """
    serving = entry.serving
    if entry.status == "rejected":
        raise PlanError(f"{entry.name}: is not served: {entry.reason}")
    if serving is None or entry.served != "vllm":
        raise PlanError(f"{entry.name}: is not served by vLLM; name it in --detectors if it is one")
    if serving.text is None or serving.vision is None:
        raise PlanError(f"{entry.name}: its sizes are not known ({serving.verified}), so neither is its memory")
    if serving.remote_code and not wish.remote_code:
        raise PlanError(f"{entry.name}: runs its publisher's own Python; allow that with --allow-remote-code")
    if wish.context is not None and wish.context > serving.context:
        raise PlanError(f"{entry.name}: --context {wish.context} is longer than the model's {serving.context}")
    return serving, serving.text, serving.vision


def precisions(entry: Entry, serving: Serving, wish: Wish) -> list[str]:
    """Those that this tier can have and that are wanted, best first.

    Raises:
        PlanError: it does not have the one that is wanted.
    """
    have = [each for each in PRECISIONS if each in serving.checkpoints or each in serving.online]
    if not serving.checkpoints:  # the project's own, whose weights lie in the folder
        have = ["bf16", *have]
    if wish.precision == "auto":
        return have
    if wish.precision not in have:
        raise PlanError(
            f"{entry.name}: has no {wish.precision} weights and vLLM cannot make them; it has {', '.join(have)}"
        )
    return [wish.precision]


def cannot_divide(serving: Serving, precision: str, published: bool, gpus: int) -> str:
    """Why vLLM does not divide this model among so many GPUs; empty where it does.

    Heads must divide (`config/model.py`, `verify_with_parallel_config`); key-value heads too, or GPUs must be a
    multiple of them (`layers/linear.py`, `QKVParallelLinear`); so must the widths of the networks, in whole groups
    where weights are quantised in groups. The vision encoder's heads and width must divide, unless the architecture
    can keep it whole on each GPU."""
    text, vision = serving.text, serving.vision
    if gpus == 1 or text is None or vision is None:
        return ""
    if text.heads % gpus:
        return f"{text.heads} heads do not divide by {gpus}"
    if (text.kv_heads % gpus) if gpus <= text.kv_heads else (gpus % text.kv_heads):
        return f"{text.kv_heads} key-value heads and {gpus} GPUs do not divide"
    widths = {
        "intermediate": text.intermediate,
        "expert_intermediate": text.expert_intermediate,
        "queries": text.heads * text.head_dim,
    }
    grouped = published and precision in ("fp8", "awq", "gptq")
    for name, width in widths.items():
        if width % gpus:
            return f"{name} {width} does not divide by {gpus}"
        if grouped and width // gpus % GROUP:
            return f"{name} {width} among {gpus} GPUs is no multiple of {precision}'s groups of {GROUP}"
    if _own_encoder(vision, gpus) and not serving.architecture.startswith(OWN_ENCODER):
        return f"{vision.heads} vision heads do not divide by {gpus}"
    return ""


def _own_encoder(vision: VisionModel, gpus: int) -> bool:
    return bool(vision.heads % gpus or vision.intermediate % gpus)


def image_tokens(serving: Serving, vision: VisionModel, side: int) -> tuple[int, int, dict[str, int]]:
    """Visual tokens of a square image of that side, those of the largest image that the engine makes room for, and the
    settings that limit it: (side / (patch · merge))², the side rounded up to whole tokens."""
    unit = vision.patch * vision.merge
    a_side = math.ceil(side / unit)
    tokens = a_side * a_side
    if not serving.architecture.startswith(LIMITED):
        native = next((n for name, n in NATIVE_TOKENS.items() if serving.architecture.startswith(name)), OTHER_TOKENS)
        return tokens, max(tokens, native), {}
    pixels = (a_side * unit) ** 2
    settings = {"max_pixels": pixels}
    if pixels < LEAST_PIXELS:
        settings["min_pixels"] = unit * unit
    return tokens, tokens, settings


def ways(entry: Entry, gpus: Sequence[Gpu], wish: Wish) -> list[Need]:
    """Every way to serve a tier on one or more of these GPUs: best precision first, then fewest GPUs.

    Raises:
        PlanError: there is none; the message says why.
    """
    serving, _, _ = sizes(entry, wish)
    kinds = {gpu.name: gpu for gpu in gpus}
    most = max(sum(other.name == name for other in gpus) for name in kinds)
    counts = [each for each in PARALLEL if each <= most]
    if entry.name in wish.parallel:
        counts = [wish.parallel[entry.name]]
        if counts[0] > most:
            raise PlanError(f"{entry.name}: --parallel asks for {counts[0]} GPUs of one kind, there are {most}")
    found: list[Need] = []
    why = ""
    for precision in precisions(entry, serving, wish):
        online = precision in serving.online and precision != "bf16"
        if online and precision == "int8" and serving.text is not None and not serving.text.experts:
            why = f"{entry.name}: vLLM makes int8 of experts alone, and this model has none"
            continue
        for count in counts:
            undivided = cannot_divide(serving, precision, not online, count)
            if undivided:
                why = f"{entry.name}: tensor parallelism over {count} GPUs: {undivided}"
                continue
            found += [_way(entry, precision, online, count, gpu, wish) for gpu in kinds.values()]
    if not found:
        raise PlanError(why)
    return found


def _way(entry: Entry, precision: str, online: bool, count: int, gpu: Gpu, wish: Wish) -> Need:
    serving, _text, vision = sizes(entry, wish)
    tokens, largest, limit = image_tokens(serving, vision, wish.side)
    request = tokens + QUESTION_TOKENS + ANSWER_TOKENS[serving.prompt]
    context = wish.context or min(CONTEXT, serving.context)
    if request > context:
        raise PlanError(
            f"{entry.name}: an image of {wish.side} pixels, a question and an answer are {request} tokens, and the "
            f"context is {context}; give --image-side less, or --context more where the model has more"
        )
    engine: dict[str, Any] = {
        **serving.settings,
        "max_model_len": context,
        "max_num_seqs": wish.images,
        "max_num_batched_tokens": 4096 if gpu.bytes > 40 * GB else 2048,
    }
    if limit:
        engine["mm_processor_kwargs"] = limit
    if count > 1:
        engine["tensor_parallel_size"] = count
        if _own_encoder(vision, count):
            engine["mm_encoder_tp_mode"] = "data"
    if online:
        engine["quantization"] = ONLINE[precision]
    if wish.techniques:
        engine = techniques.merged(engine, techniques.arguments(wish.techniques, entry, count, gpu))
    shape = _shape(engine, vision, tokens, largest, request)
    parts = memory.parts(serving, precision, shape, online)
    engine["kv_cache_memory_bytes"] = parts["KV cache"]
    # vLLM looks for this share of the GPU before it starts, and does nothing else with it beside kv_cache_memory_bytes:
    # with its default of 0.92 a second engine would be refused.
    engine["gpu_memory_utilization"] = max(0.01, math.floor(100 * sum(parts.values()) / gpu.bytes) / 100)
    notes = []
    if online is False and precision in serving.checkpoints and precision != "bf16":
        notes.append(f"weights {serving.checkpoints[precision]}")
    if precision == "fp8" and not gpu.fp8:
        notes.append("fp8 weights; a GPU under compute capability 8.9 computes in bf16 all the same")
    if precision == "fp4" and gpu.capability < (10, 0):
        notes.append("fp4 weights; a GPU under compute capability 10.0 computes in bf16 all the same")
    if not limit:
        notes.append(f"image size not limited by a setting: room for an image of {largest} tokens")
    if engine.get("speculative_config", {}).get("model"):
        notes.append("the draft head's memory is not in the sum")
    return Need(
        name=entry.name,
        kind="tier",
        precision=precision,
        gpus=count,
        parts=parts,
        on=gpu.name,
        at_start=memory.at_start(serving, precision, shape, online),
        engine=engine,
        checkpoint=None if online or precision == "bf16" else serving.checkpoints.get(precision),
        notes=tuple(notes),
    )


def _shape(engine: Mapping[str, Any], vision: VisionModel, tokens: int, largest: int, request: int) -> memory.Shape:
    """The engine's shape after all settings, techniques among them, have had their say."""
    pixels = (engine.get("mm_processor_kwargs") or {}).get("max_pixels")
    if pixels:
        largest = max(1, int(pixels) // (vision.patch * vision.merge) ** 2)
    return memory.Shape(
        sequences=int(engine["max_num_seqs"]),
        batched_tokens=int(engine["max_num_batched_tokens"]),
        image_tokens=largest,
        request_tokens=request - max(0, tokens - largest),
        context=int(engine["max_model_len"]),
        tensor_parallel=int(engine.get("tensor_parallel_size", 1)),
        kv_bytes=1 if str(engine.get("kv_cache_dtype", "auto")).startswith(("fp8", "int8")) else 2,
        encoder_data_parallel=engine.get("mm_encoder_tp_mode") == "data",
        eager=bool(engine.get("enforce_eager", False)),
    )
