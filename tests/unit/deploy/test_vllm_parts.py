"""Parts of the vllm backend that need neither vLLM nor Triton: requests, limits, answers, settings, environment."""

from __future__ import annotations

import base64
import io
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import vllm_environment
from PIL import Image
from vllm_answer import OUTPUTS, answer_tensors, empty_answer, logprobs_json
from vllm_engine import Engine, EngineError
from vllm_images import Limits, check_images, decode_image, read_limits
from vllm_metrics import COUNTERS, GAUGES, HISTOGRAMS, Metrics, token_buckets
from vllm_request import INPUTS, Request, RequestError, read_request
from vllm_sampling import check_sampling
from vllm_settings import Settings, SettingsError, Sleep, check_device, check_sleep, read_settings

KNOWN = ["n", "temperature", "top_p", "max_tokens", "min_tokens", "logprobs", "seed", "stop", "allowed_token_ids"]
KNOWN += ["structured_outputs", "ignore_eos", "logit_bias", "output_kind", "_private"]
ENGINE = [
    "model",
    "tokenizer",
    "max_model_len",
    "enable_lora",
    "load_format",
    "tensor_parallel_size",
    "disable_log_stats",
    "enable_sleep_mode",
]
DECOUPLED: dict[str, Any] = {"model_transaction_policy": {"decoupled": True}}


def request(parameters: str = "", **tensors: Any) -> Request:
    arrays = {}
    for name, value in {"text_input": "hello", **tensors}.items():
        if value is not None:
            array = np.asarray(value)
            arrays[name] = (
                np.array([v.encode() for v in array.reshape(-1)], object) if array.dtype.kind == "U" else array
            )
    return read_request(arrays.get, parameters)


# Requests ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("stream", "exclude", "echo"),
    [
        (None, None, True),
        ([False], None, True),
        ([True], None, False),
        (None, [True], False),
        (None, [False], True),
        ([True], [True], False),
    ],
)
def test_the_prompt_is_repeated_as_in_nvidias_backend(stream: Any, exclude: Any, echo: bool) -> None:
    assert request(stream=stream, exclude_input_in_output=exclude).echo is echo


def test_a_stream_never_repeats_the_prompt() -> None:
    with pytest.raises(RequestError, match=r"^exclude_input_in_output: cannot be false when stream is true"):
        request(stream=[True], exclude_input_in_output=[False])


def test_sampling_is_taken_from_the_tensor_else_from_parameters() -> None:
    own = json.dumps({"max_tokens": 3, "deadline_ms": 50, "triton_enable_empty_final_response": True})
    found = request(own)
    assert found.sampling == {"max_tokens": 3}
    assert found.deadline_ms == 50
    found = request(own, sampling_parameters=['{"top_p": 0.5, "lora_name": "signs"}'])
    assert found.sampling == {"top_p": 0.5}
    assert found.lora_name == "signs"


def test_optional_outputs_are_named_without_their_prefix() -> None:
    found = request(return_logprobs=[True], return_finish_reason=[False], return_num_input_tokens=[True])
    assert found.returns == {"logprobs", "num_input_tokens"}
    assert found.returns <= set(OUTPUTS)


def test_an_abort_needs_nothing_else() -> None:
    assert request('{"abort": "seven"}', text_input=None).abort == "seven"


@pytest.mark.parametrize(
    ("parameters", "tensors", "message"),
    [
        ("", {"text_input": None}, "text_input: is missing"),
        ("", {"text_input": np.array([b"\xff"], object)}, "text_input: is not UTF-8 text"),
        ("", {"sampling_parameters": ["{"]}, "sampling_parameters: is not JSON"),
        ("", {"sampling_parameters": ["3"]}, "sampling_parameters: is a JSON object, got '3'"),
        ("", {"sampling_parameters": ["[" * 100_000]}, "sampling_parameters: is not JSON"),
        ("", {"sampling_parameters": ["1" * 5000]}, "sampling_parameters: is "),
        ("[" * 100_000, {}, "parameters: are not JSON"),
        ("", {"sampling_parameters": ['{"lora_name": 1}']}, "sampling_parameters.lora_name: is text"),
        ('{"deadline_ms": 0}', {}, "parameters.deadline_ms: is a number of milliseconds over 0, got 0"),
        ('{"deadline_ms": true}', {}, "parameters.deadline_ms: "),
        (f'{{"deadline_ms": {10**400}}}', {}, "parameters.deadline_ms: "),
        ('{"abort": ""}', {}, "parameters.abort: is the request_id of another request"),
    ],
)
def test_a_bad_request_names_the_field(parameters: str, tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        request(parameters, **tensors)
    assert str(caught.value).startswith(message)


# Sampling ------------------------------------------------------------------------------------------------------------
def test_numbers_may_come_as_text_and_nulls_mean_the_default() -> None:
    given = {"temperature": "0", "max_tokens": "7", "ignore_eos": "false", "seed": None, "logprobs": 2.0}
    checked = check_sampling(given, KNOWN, stream=False)
    assert checked == {"temperature": 0.0, "max_tokens": 7, "ignore_eos": False, "logprobs": 2}
    assert check_sampling({"max_tokens": None}, KNOWN, stream=False) == {"max_tokens": None}  # up to max_model_len
    assert check_sampling({"seed": 2**63 - 1}, KNOWN, stream=False) == {"seed": 2**63 - 1}  # no float holds it


def test_structured_outputs_come_as_json_text_or_as_an_object() -> None:
    for value in ('{"regex": "a"}', {"regex": "a"}):
        assert check_sampling({"structured_outputs": value}, KNOWN, False) == {"structured_outputs": {"regex": "a"}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tempreture": 1}, "tempreture: is unknown; did you mean 'temperature'?"),
        ({"zzz": 1}, "zzz: is unknown; known are "),
        ({"_private": 1}, "_private: is unknown"),
        ({"output_kind": 1}, "output_kind: cannot be set here"),
        ({"temperature": float("nan")}, "temperature: is a number, got nan"),
        ({"temperature": True}, "temperature: is a number, got True"),
        ({"top_p": 1.5}, "top_p: is a number of between 0 and 1, got 1.5"),
        ({"max_tokens": 1.5}, "max_tokens: is a whole number, got 1.5"),
        ({"max_tokens": "1.0"}, "max_tokens: is a whole number, got '1.0'"),
        ({"max_tokens": 10**400}, "max_tokens: is a whole number, got 1000"),
        ({"max_tokens": float("inf")}, "max_tokens: is a whole number, got inf"),
        ({"temperature": 10**400}, "temperature: is a number, got 1000"),
        ({"ignore_eos": "maybe"}, "ignore_eos: is true or false"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids: is a list of token ids, got [-1]"),
        ({"stop": [""]}, "stop: is a text or a list of texts"),
        ({"logit_bias": [1]}, "logit_bias: is a JSON object or the text of one"),
        ({"logit_bias": "[" * 100_000}, "logit_bias: is not JSON"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs: has exactly one of json, regex"),
    ],
)
def test_a_bad_sampling_parameter_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_sampling(given, KNOWN, stream=False)
    assert str(caught.value).startswith(f"sampling_parameters.{message}")


# Images --------------------------------------------------------------------------------------------------------------
def picture(kind: str = "JPEG", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("GIF", "P")]
)
def test_images_become_rgb(kind: str, mode: str) -> None:
    image = decode_image(base64.b64encode(picture(kind, mode=mode)), 0, Limits())
    assert (image.mode, image.size) == ("RGB", (40, 30))


@pytest.mark.parametrize(
    ("text", "limits", "message"),
    [
        (b"\x00\x01", Limits(), "is not base64 text"),
        (base64.b64encode(b""), Limits(), "is not an image in a known format (JPEG, PNG, WEBP, BMP, GIF)"),
        (base64.b64encode(picture("TIFF")), Limits(), "is not an image in a known format"),
        (base64.b64encode(picture()[:-20]), Limits(), "cannot be decoded (image file is truncated"),
        (base64.b64encode(picture()), Limits(pixels=1000), "has 40 x 30 = 1200 pixels, the limit is 1000 (max_image_"),
    ],
)
def test_a_bad_image_is_named_by_its_number(text: bytes, limits: Limits, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode_image(text, 2, limits)
    assert str(caught.value).startswith(f"image[2]: {message}")


def test_counts_and_sizes_are_checked_before_anything_is_decoded() -> None:
    with pytest.raises(RequestError, match=r"^image: 2 images, and this model takes 1 \(limit_mm_per_prompt"):
        check_images([b"x", b"x"], Limits(count=1))
    with pytest.raises(RequestError, match=r"^image\[0\]: is 3000 bytes, the limit is 1000 \(max_image_bytes"):
        check_images([b"A" * 4000], Limits(bytes=1000))
    check_images([b"A" * 1332], Limits(bytes=1000))


def test_limits_come_from_config_pbtxt() -> None:
    assert read_limits({"max_image_bytes": "5"}, 2) == Limits(count=2, bytes=5)
    with pytest.raises(ValueError, match=r"max_image_pixels in config.pbtxt is a whole number over 0, got '-1'"):
        read_limits({"max_image_pixels": "-1"}, 1)


# Answers -------------------------------------------------------------------------------------------------------------
def output(text: str, tokens: int, reason: str | None = None, logprob: float | None = None) -> Any:
    entry = {7: SimpleNamespace(logprob=float("-inf"), rank=2, decoded_token="é"), 8: _token(-0.5)}
    return SimpleNamespace(
        text=text,
        token_ids=[1] * tokens,
        finish_reason=reason,
        cumulative_logprob=logprob,
        logprobs=None if logprob is None else [entry] * tokens,
    )


def _token(value: float) -> Any:
    return SimpleNamespace(logprob=value, rank=1, decoded_token="a")


def test_tensors_have_an_entry_an_answer() -> None:
    result = SimpleNamespace(outputs=[output("ä\x00", 2, "stop", -1.0), output("b", 1)], prompt_token_ids=[1, 2, 3])
    tensors = answer_tensors(result, frozenset(name for name in OUTPUTS if name != "text_output"), "> ")
    assert set(tensors) == set(OUTPUTS)
    assert tensors["text_output"].tolist() == ["> ä\x00".encode(), b"> b"]
    assert tensors["finish_reason"].tolist() == [b"stop", b"None"]
    assert tensors["cumulative_logprob"].dtype == np.float32
    assert np.isnan(tensors["cumulative_logprob"][1])
    assert tensors["num_input_tokens"].tolist() == [3]
    assert tensors["num_output_tokens"].tolist() == [2, 1]
    assert tensors["logprobs"][1] == b"null"
    (first, _) = json.loads(tensors["logprobs"][0])
    assert first["7"] == {"logprob": -9999.0, "rank": 2, "decoded_token": "é"}
    assert set(answer_tensors(result, frozenset(), "")) == {"text_output"}


def test_an_empty_answer_is_one_empty_text() -> None:
    assert empty_answer()["text_output"].tolist() == [b""]
    assert logprobs_json([]) == "[]"


# Settings ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Folder of a tier's version, with weights."""
    folder = tmp_path / "tier" / "1"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "config.json").write_text("{}")
    (folder / "weights" / "model.safetensors").touch()
    return folder


def settings(version: Path, config: dict[str, Any] | None = None, **engine: Any) -> Any:
    (version / "model.json").write_text(json.dumps({"model": "tier/1/weights", **engine}))
    return read_settings("tier", version, config or DECOUPLED, lambda: ENGINE)


def test_a_relative_path_counts_from_the_repository(version: Path) -> None:
    assert settings(version).engine["model"] == str(version / "weights")
    assert settings(version, model="Qwen/Qwen3-VL-2B-Instruct").engine["model"] == "Qwen/Qwen3-VL-2B-Instruct"


def test_parameters_of_the_configuration_are_read(version: Path) -> None:
    parameters = {"REPORT_CUSTOM_METRICS": "true", "ENABLE_VLLM_HEALTH_CHECK": "TRUE", "threads": "3"}
    config = {**DECOUPLED, "parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    found = settings(version, config)
    assert (found.metrics, found.health_check, found.threads) == (True, True, 3)
    assert not settings(version, config, disable_log_stats=True).metrics


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            {"max_modl_len": 1},
            "'max_modl_len' is not an engine setting of the installed vLLM; did you mean 'max_model_len'",
        ),
        ({"model": 3}, "model: is a folder or a hub id, got 3"),
        ({"model": "tier/1/other"}, "tier/1/other is missing; make it with: roadwork-export tier tier"),
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all is missing"),
        ({"model": "tier/1"}, "tier/1 has no config.json"),
        ({"tokenizer": "tier/1/other"}, "tokenizer: "),
        ({"enable_lora": "true"}, "multi_lora.json is missing; enable_lora in model.json needs it"),
    ],
)
def test_a_bad_setting_is_named(version: Path, engine: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(version, **engine)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_say_how_to_make_them(version: Path) -> None:
    with pytest.raises(SettingsError, match=r"model.json is missing; make it with: roadwork-export tier tier"):
        read_settings("tier", version, DECOUPLED, lambda: ENGINE)
    (version / "weights" / "model.safetensors").unlink()
    with pytest.raises(SettingsError, match="weights has no weights; make them with: roadwork-export tier tier"):
        settings(version)
    assert settings(version, load_format="dummy")


def sleeping(**parameters: str) -> dict[str, Any]:
    return {**DECOUPLED, "parameters": {key: {"string_value": value} for key, value in parameters.items()}}


def test_a_tier_that_sleeps_gets_vllms_sleep_mode(version: Path) -> None:
    found = settings(version, sleeping(SLEEP_AFTER_SECONDS="60", SLEEP_LEVEL="2"))
    assert found.sleep == Sleep(60.0, 2)
    assert found.engine["enable_sleep_mode"] is True
    assert settings(version, sleeping(SLEEP_AFTER_SECONDS="0.5")).sleep == Sleep(0.5, 1)
    for never in (sleeping(), sleeping(SLEEP_AFTER_SECONDS="0")):
        assert settings(version, never).sleep is None
        assert "enable_sleep_mode" not in settings(version, never).engine


@pytest.mark.parametrize(
    ("parameters", "engine", "message"),
    [
        ({"SLEEP_AFTER_SECONDS": "soon"}, {}, "SLEEP_AFTER_SECONDS in config.pbtxt is a number of at least 0, got 'so"),
        ({"SLEEP_AFTER_SECONDS": "-1"}, {}, "is a number of at least 0, got '-1'"),
        ({"SLEEP_AFTER_SECONDS": "inf"}, {}, "is a number of at least 0, got 'inf'"),
        ({"SLEEP_AFTER_SECONDS": "1", "SLEEP_LEVEL": "3"}, {}, "SLEEP_LEVEL in config.pbtxt is 1 or 2, got '3'"),
        ({"SLEEP_AFTER_SECONDS": "1"}, {"enable_sleep_mode": False}, "enable_sleep_mode is false and config.pbtxt has"),
        ({"SLEEP_AFTER_SECONDS": "1", "SLEEP_LEVEL": "2"}, {"load_format": "dummy"}, "load_format dummy has not; use"),
    ],
)
def test_bad_words_of_sleep_are_named(
    version: Path, parameters: dict[str, str], engine: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(version, sleeping(**parameters), **engine)
    assert message in str(caught.value)


def test_sleep_without_a_gpu_is_refused_with_what_does_it_there() -> None:
    check_sleep("tier", None, False)
    check_sleep("tier", Sleep(1.0), True)
    with pytest.raises(SettingsError, match=r"needs a GPU; take it out, .*: roadwork-deploy tier unload tier$"):
        check_sleep("tier", Sleep(1.0), False)


def test_a_configuration_that_is_not_decoupled_is_refused(version: Path) -> None:
    with pytest.raises(SettingsError, match=r"^tier: config.pbtxt must say model_transaction_policy"):
        settings(version, {"model_transaction_policy": {"decoupled": False}})


def test_adapters_are_found_in_the_repository(version: Path) -> None:
    (version / "signs").mkdir()
    (version / "multi_lora.json").write_text('{"signs": "tier/1/signs"}')
    assert settings(version, enable_lora=True).loras == {"signs": str(version / "signs")}
    (version / "multi_lora.json").write_text('{"signs": "tier/1/none"}')
    with pytest.raises(SettingsError, match=r"multi_lora.json: signs: .*none is missing"):
        settings(version, enable_lora=True)


def test_one_gpu_cannot_be_several() -> None:
    check_device("tier", "MODEL", {"tensor_parallel_size": 2})
    with pytest.raises(SettingsError, match=r"KIND_GPU is one GPU and model.json asks for 2; set kind: KIND_MODEL"):
        check_device("tier", "GPU", {"tensor_parallel_size": 2})


# Environment ---------------------------------------------------------------------------------------------------------
def test_what_is_set_from_outside_is_left_alone() -> None:
    variables = {"VLLM_NO_USAGE_STATS": "0", "OMP_NUM_THREADS": "7"}
    vllm_environment.prepare_environment(variables)
    engine: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": 5}
    vllm_environment.prepare_cpu(engine, 0, variables)
    assert variables["VLLM_NO_USAGE_STATS"] == "0"
    assert variables["OMP_NUM_THREADS"] == "7"
    assert variables["TORCH_COMPILE_DISABLE"] == "1"
    assert engine == {"enforce_eager": True, "kv_cache_memory_bytes": 5, "distributed_executor_backend": "uni"}
    vllm_environment.prepare_cpu(engine, 2, variables)
    assert variables["OMP_NUM_THREADS"] == "2"  # config.pbtxt has the last word


def test_threads_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch, told = pytest.importorskip("torch"), []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    for threads, outside in ((0, {}), (0, {"OMP_NUM_THREADS": "7"}), (3, {"OMP_NUM_THREADS": "7"})):
        vllm_environment.prepare_gpu(threads, dict(outside))
    assert told == [1, 7, 3]


# Starting ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_a_port_that_is_taken_meanwhile_is_no_reason_to_give_up(taken: int) -> None:
    why = "DistNetworkError: The server socket has failed to listen on any local network address. name: EADDRINUSE"
    tries: list[str] = []

    class Unlucky(Engine):
        def _try(self) -> str:
            tries.append(why)
            if len(tries) <= taken:
                raise EngineError(why)
            return "settings"

    said: list[str] = []
    engine = Unlucky("tier", Settings({}), [], said.append, lambda: None)
    try:
        if taken < 3:
            assert engine._begin() == "settings"
        else:
            with pytest.raises(EngineError, match="EADDRINUSE"):
                engine._begin()
    finally:
        engine.loop.close()
    assert len(tries) == min(taken + 1, 3)
    assert said == ["tier: the port that vLLM has chosen is taken; starting the engine again"] * min(taken, 2)


# Metrics -------------------------------------------------------------------------------------------------------------
class Families:
    """What `pb_utils.MetricFamily` does, into a dictionary."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    told: dict[str, list[float]]
    ready = threading.Event()

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name = name
        self.told.setdefault(name, [])

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Any:
        add = self.told[self.name].append
        return SimpleNamespace(increment=add, set=add, observe=add)


def test_metrics_are_summed_before_they_are_told() -> None:
    Families.told = {}
    metrics = Metrics(Families, {"model": "tier"}, 100)
    assert set(Families.told) == {*COUNTERS, *GAUGES, *HISTOGRAMS}
    done = SimpleNamespace(e2e_latency=0.5, num_prompt_tokens=10, num_generation_tokens=2)
    for finished in ([], [done]):
        metrics.record(
            SimpleNamespace(num_running_reqs=2, num_waiting_reqs=1),
            SimpleNamespace(
                num_prompt_tokens=5,
                num_generation_tokens=1,
                time_to_first_tokens_iter=[0.1],
                inter_token_latencies_iter=[],
                n_params_iter=[1],
                finished_requests=finished,
            ),
        )
    metrics.record(None, None)
    metrics.close()
    assert Families.told["vllm:prompt_tokens_total"] == [10]
    assert Families.told["vllm:generation_tokens_total"] == [2]
    assert Families.told["vllm:num_requests_running"] == [2]
    assert Families.told["vllm:e2e_request_latency_seconds"] == [0.5]
    assert Families.told["vllm:request_params_n"] == [1, 1]
    assert token_buckets(12) == [1, 2, 5, 10]


def test_every_tensor_of_the_contract_is_known() -> None:
    assert len(INPUTS) == 10
    assert len(OUTPUTS) == 6
    assert [name for name, (_, _, optional) in INPUTS.items() if not optional] == ["text_input"]
