"""Every model.json that the catalogue and a technique give is built as vLLM's own arguments and configuration.

vLLM runs in one child process. What it refuses on a CPU is named below; for those only the parts that need no platform
are built.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from roadwork_export.catalogue import Entry, load_catalogue
from roadwork_export.techniques import Technique, apply, load_techniques, merge
from roadwork_export.written import engine_arguments, written

pytest.importorskip("vllm")

sys.path.insert(0, str(Path(__file__).parent))
from roadwork_bench.tiers.hub_config import FAMILIES, write_config

VALUES = {
    "visual_tokens": "256",
    "visual_tiles": "600",
    "batch": "16",
    "kv_offload": "4",
    "tracing": "http://127.0.0.1:4317",
    **dict.fromkeys(("fp8_weights", "awq", "gptq", "w8a8", "fp4_weights"), "mine/weights"),
}
REFUSED_ON_CPU = {"sleep": "Sleep mode is not supported on current platform"}
IN_DEPTH = ("qwen3_vl_4b", "qwen3_vl_30b_a3b", "qwen3_5_9b", "internvl3_5_38b")
"""Tiers of which each technique's whole configuration is built; of the others, that of the tier without techniques."""
EFFECTS: dict[str, dict[str, Any]] = {
    "kv_fp8": {"cache_dtype": "fp8"},
    "kv_int8": {"cache_dtype": "int8_per_token_head"},
    "kv_int4": {"cache_dtype": "int4_per_token_head"},
    "kv_nvfp4": {"cache_dtype": "nvfp4"},
    "fp8": {"quantization": "fp8"},
    "fp8_channel": {"quantization": "fp8_per_channel"},
    "mxfp8": {"quantization": "mxfp8"},
    "int8_experts": {"quantization": "int8_per_channel_weight_only"},
    "visual_tiles": {"processor": {"max_patches": 1}},
    "prefix_caching": {"prefix_caching": True},
    "chunked_prefill": {"chunked": True, "batched_tokens": 2048},
    "batch": {"sequences": 16},
    "batch_dp": {"encoder": "data", "ranks": 2},
    "ngram": {"drafting": "ngram"},
    "mtp": {"drafting": "mtp"},
    "eagle3": {"drafting": "eagle3"},
    "lmcache": {"transfer": "LMCacheConnectorV1"},
    "kv_offload": {"transfer": "OffloadingConnector"},
    "lora": {"lora_rank": 16},
    "tracing": {"traces": "http://127.0.0.1:4317"},
    "structured_output": {"structured": "auto"},
}


def tiers() -> list[Entry]:
    return [entry for entry in written(load_catalogue()) if entry.served == "vllm"]


def ranks(technique: Technique) -> int:
    return int(technique.needs.get("tensor_parallel", 1))


def applicable(entry: Entry) -> list[Technique]:
    return [each for each in load_techniques().values() if each.why_not(entry, tensor_parallel=ranks(each)) is None]


def with_technique(entry: Entry, technique: Technique, head: Path) -> dict[str, Any]:
    value = str(head) if technique.name == "eagle3" else VALUES.get(technique.name)
    wanted = technique.name if value is None else f"{technique.name}={value}"
    number = ranks(technique)
    settings = merge(engine_arguments(entry), apply([wanted], entry, tensor_parallel=number))
    return {**settings, "tensor_parallel_size": number} if number > 1 else settings


def eagle_head(folder: Path) -> Path:
    """The config.json of a head for qwen3_vl_4b: one layer of the model's width, as the heads on the hub have it."""
    sizes = {"hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32, "num_key_value_heads": 8}
    config = {
        "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "num_hidden_layers": 1, "head_dim": 128,
        "vocab_size": 151936, "draft_vocab_size": 32000, "max_position_embeddings": 262144, "dtype": "bfloat16",
        "tie_word_embeddings": False, **sizes,
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the child says: `cases` by name, `abilities` by architecture."""
    folder = tmp_path_factory.mktemp("engine")
    head = eagle_head(folder / "head")
    cases = []
    for entry in tiers():
        assert entry.serving is not None
        config = None
        if entry.serving.architecture in FAMILIES:
            config = str(write_config(entry, folder / entry.name))
        cases.append({"name": entry.name, "settings": engine_arguments(entry), "config": config})
        for technique in applicable(entry):
            whole = entry.name in IN_DEPTH and (technique.name != "eagle3" or entry.name == "qwen3_vl_4b")
            settings = with_technique(entry, technique, head)
            name = f"{entry.name} {technique.name}"
            cases.append({"name": name, "settings": settings, "config": config if whole else None})
    architectures = sorted({entry.serving.architecture for entry in tiers() if entry.serving})
    (folder / "cases.json").write_text(
        json.dumps({"cases": cases, "architectures": [*architectures, "LlamaForCausalLMEagle3"]})
    )
    child = [sys.executable, str(Path(__file__).with_name("vllm_child.py")), "cases.json", "results.json"]
    done = subprocess.run(child, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((folder / "results.json").read_text())
    assert set(found["cases"]) == {case["name"] for case in cases}
    return found


@pytest.mark.parametrize("entry", tiers(), ids=lambda entry: entry.name)
def test_vllm_takes_the_arguments_of_a_tier_and_of_each_technique(built: dict[str, Any], entry: Entry) -> None:
    names = [entry.name, *(f"{entry.name} {technique.name}" for technique in applicable(entry))]
    assert len(names) > 15
    refused = {name: built["cases"][name]["arguments"] for name in names if built["cases"][name]["arguments"]}
    assert refused == {}
    parts = {name: built["cases"][name]["parts"] for name in names}
    assert [part["error"] for part in parts.values() if "error" in part] == []
    assert all(part.get("known_quantization", True) for part in parts.values())


@pytest.mark.parametrize(
    "entry", [e for e in tiers() if e.serving and e.serving.architecture in FAMILIES], ids=lambda entry: entry.name
)
def test_vllm_reads_the_catalogues_sizes_from_a_config_of_them(built: dict[str, Any], entry: Entry) -> None:
    case = built["cases"][entry.name]
    assert case["config"] is None
    found = case["found"]
    assert entry.serving is not None
    assert entry.serving.text is not None
    text = entry.serving.text
    assert (found["kv_heads"], found["head_size"], found["layers"]) == (text.kv_heads, text.head_dim, text.layers)
    assert found["experts"] == text.experts
    assert found["length"] == engine_arguments(entry)["max_model_len"]


@pytest.mark.parametrize("name", IN_DEPTH)
def test_each_technique_reaches_the_configuration(built: dict[str, Any], name: str) -> None:
    entry = load_catalogue().get(name)
    seen = set()
    for technique in applicable(entry):
        case = built["cases"][f"{name} {technique.name}"]
        if technique.name in REFUSED_ON_CPU:
            assert REFUSED_ON_CPU[technique.name] in case["config"]
        elif technique.name == "suffix" and case["config"] is not None:
            assert "arctic-inference" in case["config"]  # the package is not among the project's
        elif case["config"] != "not asked for":
            assert case["config"] is None, technique.name
            seen.add(technique.name)
            for key, value in EFFECTS.get(technique.name, {}).items():
                assert case["found"][key] == value, f"{technique.name}: {key}"
            if technique.name == "visual_tokens":
                assert case["found"]["processor"] == {"min_pixels": 1024, "max_pixels": 256 * 1024}
    assert len(seen) > 12


def test_online_int8_leaves_dense_layers_as_they_are(built: dict[str, Any]) -> None:
    """Therefore it is an option of models with experts alone."""
    assert built["cases"]["qwen3_vl_30b_a3b int8_experts"]["parts"]["linear"] is False
    assert built["cases"]["qwen3_vl_4b fp8_channel"]["parts"]["linear"] is True


@pytest.mark.parametrize("name", ["eagle3", "lora", "batch_dp"])
def test_architectures_of_a_technique_are_those_that_vllm_says(built: dict[str, Any], name: str) -> None:
    told = {key: value for key, value in built["abilities"].items() if isinstance(value, dict)}
    able = {key for key, value in told.items() if value[name]} - {"LlamaForCausalLMEagle3"}
    assert set(load_techniques()[name].needs["architectures"]) == able
