"""`roadwork-deploy launch`: the commands of other engines, checked by these engines' own argument parsers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import engine_parsers
import pytest
from roadwork_deploy.cli import main
from roadwork_deploy.launch import LaunchError, launch_command, read_engine, read_gpus
from roadwork_deploy.launch_flags import LMDEPLOY, SGLANG
from roadwork_deploy.repository import default_repository

TIERS = ("tiny_vlm_s", "tiny_vlm_m", "tiny_reasoner")
# What the planner writes for a large tier, and techniques that several engines know.
LARGE: dict[str, Any] = {
    "model": "Qwen/Qwen3-VL-8B-Instruct",
    "revision": "main",
    "trust_remote_code": True,
    "dtype": "bfloat16",
    "quantization": "fp8",
    "kv_cache_dtype": "fp8",
    "max_model_len": 4096,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 8192,
    "tensor_parallel_size": 2,
    "data_parallel_size": 1,
    "enable_prefix_caching": False,
    "enable_chunked_prefill": True,
    "limit_mm_per_prompt": {"image": 1, "video": 0},
    "mm_processor_cache_gb": 0,
}
SGLANG_MORE: dict[str, Any] = {
    "tokenizer": "Qwen/Qwen3-VL-8B-Instruct",
    "load_format": "safetensors",
    "pipeline_parallel_size": 1,
    "mm_encoder_tp_mode": "data",
    "enforce_eager": True,
    "cpu_offload_gb": 4,
    "seed": 7,
}


# vLLM ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("settings", [*TIERS, LARGE], ids=[*TIERS, "large"])
def test_vllms_own_parser_reads_back_what_model_json_says(settings: str | dict[str, Any]) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed (python -m roadwork_deploy.install_vllm)")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    wanted = read_engine(default_repository(), settings) if isinstance(settings, str) else settings
    command = launch_command(wanted, "vllm", model_name="m", port=8123, key_env="KEY")
    assert command.arguments[:2] == ["vllm", "serve"]
    found = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", *command.arguments[2:]])
    assert {name: getattr(found, name) for name in wanted} == wanted
    assert (found.served_model_name, found.port, found.generation_config) == (["m"], 8123, "vllm")
    assert str(command).startswith('VLLM_API_KEY="$KEY" vllm serve ')


# SGLang and LMDeploy -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def packages() -> Path:
    path = engine_parsers.folder()
    if path is None:
        pytest.skip(
            f"{engine_parsers.VARIABLE} is not set; fill a folder: python tests/unit/deploy/engine_parsers.py FOLDER"
        )
    return path


def test_sglangs_own_parser_takes_every_flag_of_the_table(packages: Path) -> None:
    settings = {**LARGE, **SGLANG_MORE}
    found = engine_parsers.parse("sglang", launch_command(settings, "sglang", model_name="m").arguments, packages)
    expected = {
        "model_path": LARGE["model"], "served_model_name": "m", "context_length": 4096, "tp_size": 2, "pp_size": 1,
        "dp_size": 1, "max_running_requests": 64, "max_prefill_tokens": 8192, "kv_cache_dtype": "fp8_e4m3",
        "quantization": "fp8", "dtype": "bfloat16", "disable_radix_cache": True, "trust_remote_code": True,
        "limit_mm_data_per_request": {"image": 1, "video": 0}, "mm_preprocess_cache_size_mb": 0, "random_seed": 7,
        "sampling_defaults": "openai", "mm_enable_dp_encoder": True, "cpu_offload_gb": 4, "load_format": "safetensors",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert set(SGLANG) - set(settings) == {"gpu_memory_utilization", "kv_cache_memory_bytes"}  # refused, see below
    more = launch_command({**settings, "enable_chunked_prefill": False}, "sglang", model_name="m", more="--api-key k")
    assert engine_parsers.parse("sglang", more.arguments, packages)["chunked_prefill_size"] == -1


def test_lmdeploys_own_parser_takes_every_flag_of_the_table(packages: Path) -> None:
    settings = {**LARGE, "enable_prefix_caching": True}
    more = "--cache-max-entry-count 0.5 --api-keys k"
    command = launch_command(settings, "lmdeploy", model_name="m", port=8123, more=more)
    found = engine_parsers.parse("lmdeploy", command.arguments, packages)
    expected = {
        "model_path": LARGE["model"], "model_name": "m", "session_len": 4096, "tp": 2, "dp": 1, "max_batch_size": 64,
        "max_prefill_token_num": 8192, "quant_policy": 16, "model_format": "fp8", "dtype": "bfloat16",
        "trust_remote_code": True, "enable_prefix_caching": True, "backend": "turbomind", "server_port": 8123,
        "enable_abort_handling": True, "cache_max_entry_count": 0.5,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    left = set(LMDEPLOY) - set(settings)
    assert left == {"gpu_memory_utilization", "kv_cache_memory_bytes", "enforce_eager"}  # refused, see below


@pytest.mark.parametrize("engine", ["sglang", "lmdeploy"])
def test_the_parsers_refuse_what_is_wrong(packages: Path, engine: str) -> None:
    """Else the tests above could not fail."""
    command = launch_command(LARGE, engine, model_name="m", more="--no-such-flag 1")
    with pytest.raises(ValueError, match="unrecognized arguments: --no-such-flag"):
        engine_parsers.parse(engine, command.arguments, packages)


# What has no counterpart ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("engine", "settings", "words"),
    [
        (
            "sglang",
            {"kv_cache_memory_bytes": 1},
            "kv_cache_memory_bytes = 1 has no counterpart in SGLang: it sizes its",
        ),
        ("sglang", {"gpu_memory_utilization": 0.5}, "--mem-fraction-static"),
        ("sglang", {"speculative_config": {"method": "ngram"}}, 'speculative_config = {"method": "ngram"} has no'),
        ("sglang", {"kv_cache_dtype": "int8_per_token_head"}, "its --kv-cache-dtype has auto, bfloat16"),
        ("sglang", {"limit_mm_per_prompt": {"image": {"count": 1}}}, "--limit-mm-data-per-request takes counts alone"),
        ("lmdeploy", {"dtype": "float32"}, "its --dtype has auto, float16, bfloat16"),
        (
            "lmdeploy",
            {"enforce_eager": True},
            "TurboMind has no such switch; leave it out with --without enforce_eager",
        ),
        ("lmdeploy", {"enable_chunked_prefill": False}, "it always takes long prompts in chunks"),
        ("lmdeploy", {"mm_processor_cache_gb": 4}, "it keeps no cache of pixel values"),
        ("lmdeploy", {"limit_mm_per_prompt": None, "lora_modules": []}, "lora_modules = [] has no counterpart"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(engine: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(LaunchError) as caught:
        launch_command({"model": "m", **settings}, engine, model_name="m")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    left = launch_command({"model": "m", **settings}, engine, model_name="m", without=list(settings))
    assert "m" in left.arguments


def test_gpus_and_keys_stand_before_and_behind_the_command() -> None:
    command = launch_command(LARGE, "sglang", model_name="m", gpus=[2, 3], key_env="KEY")
    line = str(command)
    assert line.startswith("CUDA_VISIBLE_DEVICES=2,3 SGLANG_RETURN_ORIGINAL_LOGPROB=1 python -m sglang.launch_server ")
    assert line.endswith(' --api-key "$KEY"')
    assert json.loads(shlex.split(line)[shlex.split(line).index("--limit-mm-data-per-request") + 1])["image"] == 1
    assert str(launch_command(LARGE, "lmdeploy", model_name="m", key_env="KEY")).endswith(' --api-keys "$KEY"')
    with pytest.raises(LaunchError, match="--gpus names 1, and the tier's parallel sizes need 2"):
        launch_command(LARGE, "vllm", model_name="m", gpus=[0])


def test_bad_commands_get_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = ["--model-repository", str(tmp_path)]
    assert main(["launch", "nowhere", *repository]) == 2
    assert "nowhere/1/model.json is missing; make it with: roadwork-export tier nowhere" in capsys.readouterr().err
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.json").write_text("{")
    assert main(["launch", "broken", *repository]) == 2
    assert "broken/1/model.json cannot be read as JSON" in capsys.readouterr().err
    assert main(["launch", "tiny_vlm_s", "--without", "nothing"]) == 2
    assert "--without nothing: the tier has no such setting; it has model, dtype" in capsys.readouterr().err
    assert main(["launch", "tiny_vlm_s", "--more", "'"]) == 2
    assert "--more: No closing quotation" in capsys.readouterr().err
    for text in ("a", "0,0", ""):
        with pytest.raises(LaunchError, match="--gpus is"):
            read_gpus(text)


def test_the_command_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "tiny_vlm_s", "--engine", "vllm", "--port", "8123"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("vllm serve /")
    assert len(said.out.splitlines()) == 1
    assert "roadwork-export tier NAME --remote http://127.0.0.1:8123/v1 --model tiny_vlm_s" in said.err
