"""The planner's formulas, against what is known by other means."""

from __future__ import annotations

import dataclasses

import pytest
from roadwork_deploy.planner import detector, memory
from roadwork_deploy.planner.hardware import GIB
from roadwork_deploy.planner.memory import Shape
from roadwork_export.catalogue import load_catalogue
from roadwork_export.serving import Serving, TextModel, VisionModel


def serving(name: str) -> tuple[Serving, TextModel, VisionModel]:
    found = load_catalogue().get(name).serving
    assert found is not None
    assert found.text is not None
    assert found.vision is not None
    return found, found.text, found.vision


def shape(**changes: int | bool) -> Shape:
    given = {"sequences": 64, "batched_tokens": 4096, "image_tokens": 196, "request_tokens": 517, "context": 4096}
    return Shape(**{**given, **changes})  # type: ignore[arg-type]


def test_what_one_engine_held_on_a_gpu() -> None:
    """vLLM 0.25.1 on an H200: Qwen3-VL-4B in bf16, 6 GiB of cache, 1,024 tokens of context and vLLM's defaults (8,192
    tokens a step, 1,024 sequences, images of up to 16,384 tokens); four engines held 75 GiB
    (benchmarks/results/tier_h200.json)."""
    found, _, _ = serving("qwen3_vl_4b")
    default = shape(sequences=1024, batched_tokens=8192, image_tokens=16384, context=1024)
    parts = memory.parts(found, "bf16", default, online=False)
    parts["KV cache"] = 6 * GIB
    assert sum(parts.values()) / GIB == pytest.approx(75 / 4, rel=0.07)
    assert parts["weights"] / GIB == pytest.approx(8.6, rel=0.03)  # of vLLM's log


@pytest.mark.parametrize(
    ("name", "kilobytes"),
    [("qwen3_vl_4b", 147), ("qwen3_vl_8b", 147), ("qwen3_vl_32b", 262), ("qwen3_vl_30b_a3b", 98)],
)
def test_a_token_in_the_cache(name: str, kilobytes: int) -> None:
    _, text, _ = serving(name)
    assert memory.kv_token(text, shape()) / 1000 == pytest.approx(kilobytes, abs=1)
    assert memory.kv_token(text, shape(kv_bytes=1)) * 2 == memory.kv_token(text, shape())


def test_key_value_heads_are_divided_and_then_copied() -> None:
    _, text, _ = serving("qwen3_vl_30b_a3b")  # 4 key-value heads
    whole = memory.kv_token(text, shape())
    shares = [whole / memory.kv_token(text, shape(tensor_parallel=count)) for count in (1, 2, 4, 8)]
    assert shares == [1, 2, 4, 4]


@pytest.mark.parametrize(
    ("name", "bf16", "fp8"),
    [
        ("qwen3_vl_4b", 8.9, 4.4),
        ("qwen3_vl_8b", 17.5, 8.8),
        ("qwen3_vl_32b", 66.7, 33.4),
        ("qwen3_vl_30b_a3b", 62.1, 31.1),
    ],
)
def test_weights_shrink_where_layers_do(name: str, bf16: float, fp8: float) -> None:
    found, text, vision = serving(name)
    full = memory.weights(found, text, vision, "bf16", shape(), online=False)
    assert full / 1e9 == pytest.approx(bf16, abs=0.1)
    online = memory.weights(found, text, vision, "fp8", shape(), online=True)
    published = memory.weights(found, text, vision, "fp8", shape(), online=False)
    words = text.vocabulary * text.hidden * (1 if text.tied else 2)
    # Words and head stay in two bytes; so does the vision encoder of published weights.
    assert online / 1e9 == pytest.approx(fp8 + words / 1e9, abs=0.1)
    assert published - online == pytest.approx(vision.params * 1e9, rel=0.01)


def test_int8_while_loading_is_of_experts_alone() -> None:
    found, text, vision = serving("qwen3_vl_30b_a3b")
    experts = text.layers * text.experts * 3 * text.hidden * text.expert_intermediate
    full = memory.weights(found, text, vision, "bf16", shape(), online=False)
    assert full - memory.weights(found, text, vision, "int8", shape(), online=True) == pytest.approx(experts, rel=0.001)


def test_the_cache_holds_all_requests_and_one_of_the_longest_context() -> None:
    _, text, _ = serving("qwen3_vl_4b")
    token = memory.kv_token(text, shape())
    assert memory.kv_cache(text, shape()) == (64 * 528 + 16) * token  # 517 tokens are 33 blocks of 16
    assert memory.kv_cache(text, shape(sequences=1)) == (4096 + 16) * token


def test_a_hybrid_keeps_a_state_for_each_request() -> None:
    _, text, _ = serving("qwen3_5_4b")
    assert text.kv_layers < text.layers
    state = text.linear_values * memory.STATE_KEY * 4 * (text.layers - text.kv_layers)
    assert memory.kv_cache(text, shape()) > 64 * (state + 517 * memory.kv_token(text, shape()))


@pytest.mark.parametrize("name", ["qwen3_vl_4b", "qwen3_vl_32b", "qwen3_vl_235b_a22b", "internvl3_5_38b"])
def test_more_of_anything_takes_more_and_more_gpus_take_less(name: str) -> None:
    found, _, _ = serving(name)
    base = memory.parts(found, "bf16", shape(), online=False)
    assert memory.at_start(found, "bf16", shape(), online=False) <= sum(base.values())
    for more in (
        {"sequences": 128},
        {"batched_tokens": 8192},
        {"image_tokens": 16384},
        {"context": 100_000},
    ):
        assert sum(memory.parts(found, "bf16", shape(**more), online=False).values()) > sum(base.values())
    shared = memory.parts(found, "bf16", shape(tensor_parallel=4), online=False)
    assert shared["weights"] == pytest.approx(base["weights"] / 4, rel=0.001)
    assert "NCCL" in shared
    assert "NCCL" not in base
    assert "CUDA graphs" not in memory.parts(found, "bf16", shape(eager=True), online=False)


def test_sam3_takes_what_its_family_says_for_every_prompt() -> None:
    """0.86 GB each in float32 before the softmax (`roadwork_export/families/sam3.py`), and as much after it."""
    entry = load_catalogue().get("sam3")

    def taken(prompts: int, precision: str) -> float:
        asked = dataclasses.replace(entry, arguments={"prompts": {f"prompt {i}": "cone" for i in range(prompts)}})
        return detector.activations(asked, precision) / 1e9

    assert taken(20, "fp32") - taken(10, "fp32") == pytest.approx(10 * 2 * 0.86, rel=0.01)
    assert taken(20, "fp16") == pytest.approx(taken(20, "fp32") / 2)
    assert taken(1, "fp32") == taken(2, "fp32") > 0  # then the image's own encoder takes more
    assert detector.activations(entry, "fp32") / 1e9 > taken(2, "fp32")  # of the table: more than two prompts
