"""How much GPU memory a vision-language tier takes under vLLM: formulas, no measurements (those are in `measured.py`).

All results are bytes on one GPU. The sources are vLLM's own files (0.32), named below without `vllm/` in front. Two
facts make the sum a plain one: `kv_cache_memory_bytes` fixes the cache, and PyTorch's allocator keeps what the largest
step has once needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from roadwork_export.serving import Serving, TextModel, VisionModel

from roadwork_deploy.planner import measured
from roadwork_deploy.planner.hardware import GIB

BLOCK = 16
"""Tokens of a block of the key-value cache (`config/cache.py`)."""
BF16 = 2
BITS = {"bf16": 16.0, "fp8": 8.0, "int8": 8.0, "w8a8": 8.0, "awq": 4.16, "gptq": 4.16, "fp4": 4.5}
"""Of one quantised weight with its scales: AWQ and GPTQ 4 bits, and 16 + 4 bits a group of 128; FP4 4 bits, and 8 a
group of 16. One scale a channel or a block of 128 x 128 (fp8, int8) does not show."""
DEEPSTACK = ("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")
"""Architectures whose vision encoder hands on the features of three of its layers beside its output (DeepStack), so
that each visual token is four vectors (`model_executor/models/qwen3_vl.py`: `deepstack_visual_indexes`)."""
STATE_KEY = 128
"""Width of a key head of the layers without a growing cache (transformers' `configuration_qwen3_5.py`)."""


@dataclass(frozen=True)
class Shape:
    """What an engine is told, as far as its memory depends on it.

    Attributes:
        sequences: `max_num_seqs`, requests under way at the same time.
        batched_tokens: `max_num_batched_tokens`, of one step.
        image_tokens: most visual tokens of one image.
        request_tokens: image, question and answer of one request.
        context: `max_model_len`.
        tensor_parallel: GPUs that share the model.
        kv_bytes: of one number in the cache: 2 in bf16, 1 in fp8.
        encoder_data_parallel: `mm_encoder_tp_mode` is `data`: every GPU has the whole vision encoder.
        eager: no CUDA graphs.
    """

    sequences: int
    batched_tokens: int
    image_tokens: int
    request_tokens: int
    context: int
    tensor_parallel: int = 1
    kv_bytes: int = 2
    encoder_data_parallel: bool = False
    eager: bool = False

    @property
    def encoder_parallel(self) -> int:
        """GPUs that share the vision encoder's matrices."""
        return 1 if self.encoder_data_parallel else self.tensor_parallel


def vectors(serving: Serving) -> int:
    """Vectors that the vision encoder makes of one visual token."""
    return 4 if serving.architecture in DEEPSTACK else 1


def weights(serving: Serving, text: TextModel, vision: VisionModel, precision: str, shape: Shape, online: bool) -> int:
    """Bytes of the weights on each GPU.

    (words + vision + other + rest) with rest = parameters - words - vision - other. Quantisation touches the matrices
    of layers alone: word embeddings and head stay in bf16 whatever the precision (`layers/quantization/online/base.py`
    and `fp8.py` choose a method for `LinearBase` and experts, and `ParallelLMHead` is neither). Made while loading,
    fp8 takes the vision encoder too (its layers are `LinearBase` with the same `quant_config`, `models/qwen3_vl.py`);
    published checkpoints leave it in bf16. int8 made while loading is of experts alone (`config/quantization.py`:
    `int8_per_channel_weight_only` has no `linear`). Tensor parallelism divides everything but `other`, and the vision
    encoder unless each GPU has its own."""
    bits = BITS[precision]
    words = text.vocabulary * text.hidden * (1 if text.tied else 2)
    seen, other = vision.params * 1e9, serving.other * 1e9
    rest = max(0.0, serving.params * 1e9 - words - seen - other)
    quantised = rest
    if online and precision == "int8":
        quantised = min(rest, text.expert_layers * 3.0 * text.hidden * text.experts * text.expert_intermediate)
    seen_bits = bits if online and precision != "int8" else 16.0
    shared = words * BF16 + (rest - quantised) * BF16 + quantised * bits / 8
    total = shared / shape.tensor_parallel + seen * seen_bits / 8 / shape.encoder_parallel + other * BF16
    return int(total)


def kv_token(text: TextModel, shape: Shape) -> int:
    """Bytes of one token in the key-value cache on each GPU: 2 · kv_layers · kv_heads · head_dim · bytes.

    Key-value heads are divided among the GPUs, and copied where there are fewer of them than GPUs (`layers/linear.py`,
    `QKVParallelLinear`). With multi-head latent attention a token is one vector of width `latent` a layer, on every
    GPU."""
    if text.latent:
        return text.kv_layers * text.latent * shape.kv_bytes
    heads = max(1, text.kv_heads // shape.tensor_parallel)
    return 2 * text.kv_layers * heads * text.head_dim * shape.kv_bytes


def kv_cache(text: TextModel, shape: Shape) -> int:
    """Bytes of the key-value cache for all requests under way, at least for one of the longest context: vLLM refuses
    less (`v1/core/kv_cache_utils.py`, `check_enough_kv_cache_memory`). Tokens are rounded up to blocks, and one block
    is vLLM's own.

    Layers without a growing cache keep one state a request, linear_values · 128 numbers of 4 bytes (less would be
    possible); vLLM makes blocks of attention as large as that state, so a hybrid's block is hundreds of tokens."""
    token = kv_token(text, shape)
    block, states = BLOCK, 0
    steady = text.layers - text.kv_layers
    if steady and text.linear_values:
        state = text.linear_values * STATE_KEY * 4 // shape.tensor_parallel
        block = _up(math.ceil(state * text.kv_layers / token), BLOCK)
        states = steady * block * token // text.kv_layers
    request = _up(shape.request_tokens, block) * token + states
    longest = _up(shape.context, block) * token + states
    return max(shape.sequences * request, longest) + block * token


def encoder_step(vision: VisionModel, text: TextModel, shape: Shape, copies: int) -> int:
    """Peak of the vision encoder over one step's images.

    vLLM gives it up to max(max_num_batched_tokens, tokens of the largest image) visual tokens
    (`v1/core/encoder_cache_manager.py`, `compute_mm_encoder_budget`), merge² patches each. A patch is, at once: its
    pixels (two frames of RGB, in float32 and in bf16), three vectors of width hidden (the sum so far, what is added,
    the normalised), and the larger of attention (query, key and value, then query and key made contiguous and rotated,
    and the result: 8 · hidden) and the network behind it (before and after the activation: 2 · intermediate)
    (`models/qwen2_5_vl.py`, `Qwen2_5_VisionAttention`; `models/qwen3_vl.py`). Its tokens come out as `copies` vectors
    of the language model's width, once as a list and once joined."""
    tokens = max(shape.batched_tokens, shape.image_tokens)
    patches = tokens * vision.merge**2
    widest = max(8 * vision.hidden, 2 * vision.intermediate) / shape.encoder_parallel
    pixels = 3 * 2 * vision.patch**2 * (4 + BF16)
    made = 2 * tokens * text.hidden * copies * BF16
    return int(patches * (pixels + (3 * vision.hidden + widest) * BF16) + made)


def language_step(text: TextModel, shape: Shape) -> int:
    """Peak of the language model over one step's tokens (`max_num_batched_tokens`), without the head.

    A token is, at once: three vectors of width hidden (residual, input, normalised) and the largest of attention
    (query, key, value before and after rotation, and the result), the dense network (gate and up joined, and their
    product: 3 · intermediate) and the experts (for each that is asked 3 · its width and one result of width hidden,
    `layers/fused_moe`)."""
    parallel = shape.tensor_parallel
    attention = (3 * text.heads + 4 * max(text.kv_heads, parallel)) * text.head_dim / parallel
    dense = 3 * text.intermediate / parallel
    experts = (
        text.active_experts * (3 * text.expert_intermediate / parallel + text.hidden)
        + 3 * text.shared_expert / parallel
    )
    return int(shape.batched_tokens * (3 * text.hidden + max(attention, dense, experts)) * BF16)


def sampler_step(text: TextModel, shape: Shape) -> int:
    """Peak of the sampler over `max_num_seqs` rows of the vocabulary: logits in bf16 and float32, log-probabilities,
    probabilities and random numbers in float32, 18 bytes a word (`v1/sample/sampler.py`,
    `v1/sample/ops/topk_topp_sampler.py`). vLLM runs it at its start."""
    return min(shape.sequences, shape.batched_tokens) * text.vocabulary * (BF16 + 4 * 4)


def buffers(text: TextModel, shape: Shape, copies: int, context: int) -> int:
    """What stands ready for a step's tokens: their embeddings, DeepStack's features and the tables of rotary positions
    (`v1/worker/gpu_model_runner.py`, `models/qwen3_vl.py`, `layers/rotary_embedding`; `context` is the model's
    longest), and the cache of the encoder's outputs, which holds one step's visual tokens
    (`compute_mm_encoder_budget`)."""
    steps = shape.batched_tokens * text.hidden * copies * BF16
    kept = max(shape.batched_tokens, shape.image_tokens) * text.hidden * copies * BF16
    return steps + kept + context * text.head_dim * BF16


def graphs(shape: Shape) -> int:
    """CUDA graphs of vLLM's default batch sizes, 1, 2, 4, then every 8 up to 256 and every 16 up to min(512, 2 ·
    max_num_seqs) (`config/compilation.py`); the measured total shared out by their number."""
    if shape.eager:
        return 0
    largest = min(512, 2 * shape.sequences)
    count = 3 + min(largest, 256) // 8 + max(0, largest - 256) // 16
    return max(measured.GRAPH_LEAST, int(measured.CUDA_GRAPHS * count / measured.GRAPH_SIZES))


def parts(serving: Serving, precision: str, shape: Shape, online: bool) -> dict[str, int]:
    """What a tier takes on each of its GPUs, in bytes, by name; the sum is what it holds once it has been busy.

    Raises:
        ValueError: the sizes of text or vision are not known.
    """
    text, vision = serving.text, serving.vision
    if text is None or vision is None:
        raise ValueError(f"{serving.architecture}: sizes of text and vision are not known")
    copies = vectors(serving)
    loaded = weights(serving, text, vision, precision, shape, online)
    step = max(encoder_step(vision, text, shape, copies), language_step(text, shape), sampler_step(text, shape))
    ready = buffers(text, shape, copies, serving.context)
    found = {
        "weights": int(loaded * (1 + measured.ALLOCATOR_SLACK)),
        "KV cache": kv_cache(text, shape),
        "activations": step + ready,
        "CUDA context": measured.VLLM_CONTEXT,
        "CUDA graphs": graphs(shape),
    }
    if shape.tensor_parallel > 1:
        found["NCCL"] = measured.NCCL_BUFFERS
    return {name: size for name, size in found.items() if size}


def at_start(serving: Serving, precision: str, shape: Shape, online: bool) -> int:
    """Bytes that a tier holds on each GPU before its first request: as `parts`, but of the activations only the
    sampler's, which vLLM runs last, and no encoder outputs (`v1/worker/gpu_worker.py`, `compile_or_warm_up_model`: the
    cache of PyTorch's allocator is emptied behind the capture of graphs). Without graphs nothing is emptied, and it is
    the same as later."""
    found = parts(serving, precision, shape, online)
    text = serving.text
    if text is None or shape.eager:
        return sum(found.values())
    copies = vectors(serving)
    steps = shape.batched_tokens * text.hidden * copies * BF16 + serving.context * text.head_dim * BF16
    return sum(found.values()) - found["activations"] + sampler_step(text, shape) + steps


def gib(size: int) -> float:
    """In GiB, as vLLM's log has it."""
    return size / GIB


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
