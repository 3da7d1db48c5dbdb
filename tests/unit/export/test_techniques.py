"""The plan's serving techniques: each is an option that becomes engine arguments, or is refused with a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from roadwork_export.catalogue import CatalogueError, Entry, load_catalogue
from roadwork_export.commands import techniques as command
from roadwork_export.techniques import TechniqueError, apply, load_techniques, merge, missing_package

PLAN = """
NVIDIA KVPress (Expected Attention, SnapKV, StreamingLLM); LMCache; AWQ 4-bit; KVCache-Factory / SnapKV; GEAR 4-bit KV;
SparK; EVICPRESS; FP4 / NVFP4 via ModelOpt; bitsandbytes NF4; INT8 via llm-compressor; FP8 online;
MXINT8 / neural-compressor; Hadamard rotation; p-MoD; Semantic-aware sparsity; Probe-cache-corrector;
Batch-DP (--mm-encoder-tp-mode data); Chunked prefill; Prefix caching; Speculative decoding: draft model;
Speculative decoding: EAGLE-3 / Speculators; Speculative decoding: n-gram, suffix, MTP; UnSloth; VL2Lite; SGLang;
LMDeploy; vLLM Semantic Router; FlashInfer; vLLM / torch versions; Triton 25.12; NVIDIA DALI; Dynamic resolution;
Sleep mode; KV cache dtype; Structured output; Phoenix / Weave / W&B; torchvision beside CPU torch; Parallel ensemble;
Warmup; Adaptive batching; Circuit breaker / retry;
GPT-4.1 patterns / inference-time scaling / RadixAttention in vLLM / context parallelism
"""
NAMES = [" ".join(name.split()) for name in PLAN.split(";")]


def entry(name: str) -> Entry:
    return load_catalogue().get(name)


@pytest.fixture
def run(run_of: Callable[..., Callable[..., str]]) -> Callable[..., str]:
    return run_of(command)


class TestShipped:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_technique_of_the_plan_is_named(self, name: str) -> None:
        assert [each.name for each in load_techniques().values() if name in each.plan]

    def test_a_refused_one_names_what_can_be_had(self) -> None:
        for technique in load_techniques().values():
            if technique.instead is not None and not technique.usable:
                other = load_techniques()[technique.instead]
                assert other.usable or other.elsewhere

    def test_whatever_names_a_package_knows_whether_it_is_there(self) -> None:
        found = {name: missing_package(each) for name, each in load_techniques().items() if "package" in each.needs}
        assert set(found) == {"flashinfer", "suffix", "lmcache", "tracing"}
        assert all(missing in (None, load_techniques()[name].needs["package"]) for name, missing in found.items())


class TestApply:
    @pytest.mark.parametrize(
        ("wanted", "name", "expected"),
        [
            (["kv_fp8"], "qwen3_vl_4b", {"kv_cache_dtype": "fp8"}),
            (["fp8"], "qwen3_vl_4b", {"quantization": "fp8"}),
            (["int8_experts"], "qwen3_vl_30b_a3b", {"quantization": "int8_per_channel_weight_only"}),
            (["fp8_weights"], "qwen3_vl_4b", {"model": "Qwen/Qwen3-VL-4B-Instruct-FP8"}),
            (["awq"], "qwen2_5_vl_72b", {"model": "Qwen/Qwen2.5-VL-72B-Instruct-AWQ"}),
            (["w8a8=mine/w8a8"], "qwen3_vl_4b", {"model": "mine/w8a8"}),
            (["chunked_prefill"], "qwen3_vl_4b", {"enable_chunked_prefill": True, "max_num_batched_tokens": 2048}),
            (["batch=16", "prefix_caching"], "qwen3_vl_4b", {"max_num_seqs": 16, "enable_prefix_caching": True}),
            (
                ["visual_tokens=256"],
                "qwen3_vl_4b",
                {"mm_processor_kwargs": {"min_pixels": 32 * 32, "max_pixels": 256 * 32 * 32}},
            ),
            (
                ["visual_tokens=100"],
                "qwen2_5_vl_72b",
                {"mm_processor_kwargs": {"min_pixels": 28 * 28, "max_pixels": 78_400}},
            ),
            (["visual_tiles=256"], "internvl3_5_38b", {"mm_processor_kwargs": {"max_patches": 1}}),
            (["visual_tiles=1300"], "internvl3_5_38b", {"mm_processor_kwargs": {"max_patches": 4}}),
            (
                ["eagle3=mine/head"],
                "qwen3_vl_8b_thinking",
                {"speculative_config": {"method": "eagle3", "model": "mine/head", "num_speculative_tokens": 3}},
            ),
            (["mtp"], "qwen3_5_9b", {"speculative_config": {"method": "mtp", "num_speculative_tokens": 1}}),
            (["kv_offload=8"], "qwen3_vl_4b", {"kv_offloading_size": 8, "kv_offloading_backend": "native"}),
            ([], "qwen3_vl_4b", {}),
        ],
    )
    def test_becomes_engine_arguments(self, wanted: list[str], name: str, expected: dict[str, Any]) -> None:
        assert apply(wanted, entry(name)) == expected

    def test_batch_dp_needs_two_gpus(self) -> None:
        assert apply(["batch_dp"], entry("qwen3_vl_32b"), tensor_parallel=2) == {"mm_encoder_tp_mode": "data"}

    @pytest.mark.parametrize(
        ("wanted", "name", "gpu", "problem"),
        [
            (["kv_fp9"], "qwen3_vl_4b", None, "no technique 'kv_fp9'; did you mean kv_fp8"),
            (["zzzzz"], "qwen3_vl_4b", None, "no technique 'zzzzz'; `roadwork-export techniques` lists them"),
            (["nf4"], "qwen3_vl_4b", None, "nf4: vLLM 0.32 has taken out bitsandbytes; use awq"),
            (["dali"], "qwen3_vl_4b", None, "dali: not a setting of an engine: a backend of Triton's containers"),
            (
                ["kv_fp8", "kv_int8"],
                "qwen3_vl_4b",
                None,
                "kv_int8 and kv_fp8 exclude each other (the cache's precision",
            ),
            (["kv_fp8", "kv_fp8"], "qwen3_vl_4b", None, "kv_fp8 and kv_fp8 exclude each other"),
            (["fp8", "fp8_weights"], "qwen3_vl_4b", None, "fp8_weights and fp8 exclude each other (the weights' prec"),
            (["kv_fp8=1"], "qwen3_vl_4b", None, "kv_fp8: takes no value, got '1'"),
            (["visual_tokens"], "qwen3_vl_4b", None, "visual_tokens: value is missing (tokens): visual_tokens=..."),
            (["visual_tokens=2"], "qwen3_vl_4b", None, "visual_tokens: must be a whole number of at least 4 (tokens)"),
            (["visual_tokens=9.5"], "qwen3_vl_4b", None, "visual_tokens: must be a whole number of at least 4 (token"),
            (
                ["visual_tokens=64"],
                "internvl3_5_38b",
                None,
                "visual_tokens: vLLM's InternVLForConditionalGeneration can",
            ),
            (
                ["visual_tiles=64"],
                "internvl3_5_38b",
                None,
                "visual_tiles: a tile of internvl3_5_38b has 256 tokens, got",
            ),
            (["awq"], "qwen3_vl_4b", None, "awq: qwen3_vl_4b has no published awq weights; give a folder or hub id"),
            (["int8_experts"], "qwen3_vl_4b", None, "int8_experts: qwen3_vl_4b has no experts"),
            (["batch_dp"], "qwen3_vl_4b", None, "batch_dp: needs a tier on 2 GPUs, this one is on 1"),
            (["mtp"], "qwen3_vl_4b", None, "mtp: vLLM's Qwen3VLForConditionalGeneration cannot do it; use ngram"),
            (["kv_fp8"], "yolox_nano", None, "kv_fp8: yolox_nano is not served by vLLM"),
            (["sleep"], "qwen3_vl_4b", "cpu", "sleep: vLLM does not do it on a CPU"),
            (
                ["kv_nvfp4"],
                "qwen3_vl_4b",
                "hopper",
                "kv_nvfp4: needs a GPU of the generation blackwell or newer, got ho",
            ),
            (["kv_fp8"], "qwen3_vl_4b", "h100", "gpu is 'h100', must be one of ampere, ada, hopper, blackwell, cpu"),
        ],
    )
    def test_is_told_in_one_line(self, wanted: list[str], name: str, gpu: str | None, problem: str) -> None:
        with pytest.raises(TechniqueError, match="^" + re.escape(problem)) as raised:
            apply(wanted, entry(name), gpu=gpu)
        assert "\n" not in str(raised.value)

    def test_merging_keeps_what_is_not_named(self) -> None:
        settings = {"limit_mm_per_prompt": {"image": 1, "video": 0}, "dtype": "auto"}
        assert merge(settings, apply(["images=2"], entry("qwen3_vl_4b"))) == {
            "limit_mm_per_prompt": {"image": 2, "video": 0},
            "dtype": "auto",
        }
        assert settings["limit_mm_per_prompt"] == {"image": 1, "video": 0}


class TestFile:
    @pytest.mark.parametrize(
        ("lines", "problem"),
        [
            ("", "mine.yaml: must be a mapping with version 1 and a list of techniques"),
            ("- {name: a}", "mine.yaml: a: plan is missing"),
            ("- {name: a, plan: [A], does: it}", "mine.yaml: a: arguments are of techniques that are neither"),
            ("- {name: a, plan: [A], does: it, refused: no, arguments: {b: 1}}", "mine.yaml: a: refused must be text"),
            (
                "- {name: a, plan: [A], does: it, arguments: {b: 1}, needs: {gpu: t4}}",
                "mine.yaml: a: needs.gpu must",
            ),
            ("- {name: a, plan: [A], does: it, arguments: {b: 1}, instead: c}", "mine.yaml: a: instead names no tech"),
            ("- {name: a, plan: [A], does: it, argument: {}}", "mine.yaml: a: no field 'argument': did you mean argum"),
        ],
    )
    def test_names_technique_and_field(self, tmp_path: Path, lines: str, problem: str) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(f"version: 1\ntechniques:\n  {lines}\n")
        with pytest.raises(CatalogueError, match="^" + re.escape(problem)):
            load_techniques(path)


class TestCommand:
    def test_lists_all(self, run: Callable[..., str]) -> None:
        text = run("techniques")
        for name in load_techniques():
            assert re.search(rf"^{name}(=\S+)?: ", text, re.M)
        assert "refused: vLLM 0.32 has taken out bitsandbytes\n    instead: awq" in text
        assert max(map(len, text.splitlines())) <= 120

    def test_as_json(self, run: Callable[..., str]) -> None:
        found = {each["name"]: each for each in json.loads(run("techniques", "--json"))}
        assert list(found) == list(load_techniques())
        assert found["kv_fp8"]["arguments"] == {"kv_cache_dtype": "fp8"}
        assert found["gguf"]["refused"]
