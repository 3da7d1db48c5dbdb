"""The vllm backend on a real server and a real engine: NVIDIA's contract, tensor by tensor, and how things end."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from PIL import Image
from roadwork_deploy.server import EmbeddedServer
from tritonclient.utils import InferenceServerException

sys.path.append(str(Path(__file__).parent))
from asker import WAIT, Asker, asking
from tiny_tier import CONFIG, PROMPT, TEXT_PROMPT, WORDS, add_tier
from watching import engines, gone, metric, parent

pytest.importorskip("vllm", reason="vLLM is not installed (python -m roadwork_deploy.install_vllm)")

pytestmark = pytest.mark.timeout(400)
START = 240.0  # seconds that engines may take to start on a busy machine
RETURNS = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
LONG = {"temperature": 0, "max_tokens": 400, "ignore_eos": True}


def parameter(key: str, value: object) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'


MORE = "\n".join(
    [
        parameter("REPORT_CUSTOM_METRICS", "true"),
        parameter("max_image_bytes", 40_000),
        parameter("max_image_pixels", 90_000),
    ]
)
FORWARD = '''
import json

import numpy
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Hands a request on to the tier as the cascade does: BLS, with parameters."""

    def execute(self, requests):
        answers = []
        for request in requests:
            inputs = [pb_utils.get_input_tensor_by_name(request, "text_input")]
            asked = pb_utils.InferenceRequest(
                model_name="tiny",
                requested_output_names=["text_output"],
                inputs=inputs,
                parameters=json.loads(request.parameters()),
            )
            text = b""
            error = None
            for answer in asked.exec(decoupled=True):
                if answer.has_error():
                    error = answer.error().message()
                elif len(answer.output_tensors()):
                    text += answer.output_tensors()[0].as_numpy()[0]
            if error:
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(error)))
            else:
                tensor = pb_utils.Tensor("text_output", numpy.array([text], object))
                answers.append(pb_utils.InferenceResponse([tensor]))
        return answers
'''


def jpeg(width: int = 320, height: int = 240, *, noise: bool = False) -> bytes:
    """Base64 text of a JPEG."""
    picture = Image.new("RGB", (width, height), (200, 90, 20))
    if noise:
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return base64.b64encode(file.getvalue())


@pytest.fixture(scope="module")
def tokens(module_repository: Any) -> dict[str, int]:
    """Vocabulary of the tier."""
    return add_tier(module_repository.path, "tiny", config=MORE)


@pytest.fixture(scope="module")
def served(module_repository: Any, tokens: dict[str, int]) -> Iterator[EmbeddedServer]:
    repository = module_repository
    weights = "tiny/1/weights"
    add_tier(repository.path, "unknown_key", weights=False, model=weights, max_modl_len=64)
    add_tier(repository.path, "bad_value", weights=False, model=weights, max_model_len=-5)
    add_tier(repository.path, "no_weights", weights=False)
    add_tier(repository.path, "bad_limit", weights=False, model=weights, config=parameter("max_image_bytes", "much"))
    add_tier(repository.path, "sleeper", weights=False, model=weights, config=parameter("SLEEP_AFTER_SECONDS", 60))
    coupled = CONFIG.format(name="coupled", more="").replace("decoupled: true", "decoupled: false")
    add_tier(repository.path, "coupled", weights=False, model=weights, text=coupled)
    repository.add_adder("add")
    folder = repository.path / "forward" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(FORWARD)
    tensor = '{ name: "%s" data_type: TYPE_STRING dims: [1] }'
    (folder.parent / "config.pbtxt").write_text(
        f'backend: "python" input [{tensor % "text_input"}] output [{tensor % "text_output"}] '
        "instance_group [{ count: 1 kind: KIND_CPU }]"
    )
    tiers = ["no_weights", "nowhere", "unknown_key", "tiny"]
    with EmbeddedServer(repository.path, ["add", "forward"], probes=["add"], tiers=tiers) as server:
        yield server


@pytest.fixture(scope="module")
def tiers(served: EmbeddedServer) -> dict[str, Any]:
    """States of the tiers, once all have settled."""
    return served.wait_for_tiers(START)


@pytest.fixture
def asker(served: EmbeddedServer, tiers: dict[str, Any]) -> Iterator[Asker]:
    assert tiers["tiny"].state == "ready", tiers["tiny"].reason
    with asking(served) as made:
        yield made


def idle(server: EmbeddedServer, wait_until: Callable) -> None:
    """The engine has nothing to do, by its own counters, and makes no more tokens."""
    time.sleep(0.8)
    wait_until(lambda: metric(server, "vllm:num_requests_running") == 0, 10, "the engine ends its work")
    time.sleep(0.6)
    made = metric(server, "vllm:generation_tokens_total")
    time.sleep(1)
    assert metric(server, "vllm:generation_tokens_total") == made


# Joining -------------------------------------------------------------------------------------------------------------
def test_the_server_answers_before_its_tiers_have_joined(served: EmbeddedServer, infer: Callable) -> None:
    np.testing.assert_array_equal(infer(served, "add", x=np.zeros((1, 4), np.float32))["y"], np.ones((1, 4)))
    assert not all(tier.settled for tier in served.tiers.values())


def test_a_tier_that_cannot_join_is_left_out_with_one_line(tiers: dict[str, Any]) -> None:
    assert tiers["tiny"].state == "ready"
    assert str(tiers["tiny"]).startswith("tier tiny has joined after ")
    assert tiers["nowhere"].state == "absent"
    assert "nowhere is missing; make it with: roadwork-export tier nowhere" in tiers["nowhere"].reason
    assert tiers["no_weights"].state == "absent"
    assert "no_weights/1/weights is missing; make it with: " in tiers["no_weights"].reason
    assert tiers["unknown_key"].state == "failed"
    assert "unknown_key/1/model.json: 'max_modl_len' is not an engine setting" in tiers["unknown_key"].reason
    assert tiers["unknown_key"].reason.endswith("did you mean 'max_model_len'?")
    assert "\n" not in str(tiers["unknown_key"])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("bad_value", ["the engine does not start with this model.json", "max_model_len"]),
        ("no_weights", ["model.json: model:", "no_weights/1/weights is missing", "roadwork-export tier no_weights"]),
        ("coupled", ["coupled: config.pbtxt must say model_transaction_policy { decoupled: true }"]),
        ("sleeper", ["SLEEP_AFTER_SECONDS in config.pbtxt", "needs a GPU", "roadwork-deploy tier unload sleeper"]),
    ],
)
def test_a_tier_that_does_not_load_names_the_setting(asker: Asker, model: str, words: list[str]) -> None:
    with pytest.raises(InferenceServerException) as caught:
        asker.client.load_model(model, client_timeout=START)
    for word in words:
        assert word in str(caught.value.message())


# Answers -------------------------------------------------------------------------------------------------------------
def test_one_answer_repeats_the_prompt_unless_told_not_to(asker: Asker) -> None:
    whole = asker.ask(sampling={"temperature": 0})
    assert len(whole.pieces) == whole.finals == 1
    assert whole.text.startswith(TEXT_PROMPT)
    bare = asker.ask(sampling={"temperature": 0}, exclude_input_in_output=True)
    assert TEXT_PROMPT + bare.text == whole.text
    explicit = asker.ask(sampling={"temperature": 0}, exclude_input_in_output=False, stream=False)
    assert explicit.text == whole.text


def test_a_stream_gives_new_text_alone_and_ends_once(asker: Asker) -> None:
    sampling = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
    whole = asker.ask(sampling=sampling, exclude_input_in_output=True)
    streamed = asker.ask(sampling=sampling, stream=True, returns=RETURNS)
    assert streamed.text == whole.text
    assert streamed.finals == 1
    assert len(streamed.pieces) > 1
    assert sum(int(piece["num_output_tokens"][0]) for piece in streamed.pieces) == 6
    assert [piece["finish_reason"][0] for piece in streamed.pieces][-1] == b"length"
    assert {piece["finish_reason"][0] for piece in streamed.pieces[:-1]} == {b"None"}
    assert asker.ask(sampling=sampling, stream=True, exclude_input_in_output=True).text == whole.text
    refused = asker.ask(stream=True, exclude_input_in_output=False)
    assert "exclude_input_in_output: cannot be false when stream is true" in refused.message


def test_every_optional_output_comes_when_asked_for_and_only_then(asker: Asker) -> None:
    sampling = {"temperature": 0, "max_tokens": 3, "ignore_eos": True, "logprobs": 2}
    answer = asker.ask(PROMPT, (jpeg(),), sampling=sampling, returns=RETURNS).pieces[0]
    assert set(answer) == {"text_output", *RETURNS}
    assert answer["finish_reason"].tolist() == [b"length"]
    assert answer["num_output_tokens"].dtype == np.uint32
    assert answer["num_output_tokens"].tolist() == [3]
    assert answer["num_input_tokens"].shape == (1,)
    assert answer["num_input_tokens"][0] > 40  # the image's tokens are among them
    entries = json.loads(answer["logprobs"][0])
    assert len(entries) == 3
    best = [max(entry.values(), key=lambda e: e["logprob"]) for entry in entries]
    assert all(set(entry) == {"logprob", "rank", "decoded_token"} for entry in best)
    assert all(key.isdigit() for entry in entries for key in entry)
    np.testing.assert_allclose(answer["cumulative_logprob"], [sum(entry["logprob"] for entry in best)], rtol=1e-4)
    for name in RETURNS:
        assert set(asker.ask(sampling=sampling, returns=(name,)).pieces[0]) == {"text_output", name}
    assert json.loads(asker.ask(sampling={"max_tokens": 1}, returns=("logprobs",)).pieces[0]["logprobs"][0]) is None


def test_sixteen_tokens_are_the_default(asker: Asker) -> None:
    answer = asker.ask(sampling={"ignore_eos": True}, returns=("num_output_tokens",))
    assert answer.pieces[0]["num_output_tokens"].tolist() == [16]


def test_logprobs_are_raw_where_only_some_tokens_are_allowed(asker: Asker, tokens: dict[str, int]) -> None:
    """The mass of the allowed tokens is small on an untrained model: they are not renormalised among themselves."""
    allowed = [tokens[word] for word in WORDS[:4]]
    sampling = {"temperature": 0, "max_tokens": 1, "logprobs": 20, "allowed_token_ids": allowed}
    answer = asker.ask(PROMPT, (jpeg(),), sampling=sampling, returns=("logprobs",), exclude_input_in_output=True)
    assert answer.text in WORDS[:4]
    (entry,) = json.loads(answer.pieces[0]["logprobs"][0])
    chosen = [key for key in entry if int(key) in allowed]
    assert chosen
    free = dict(sampling, allowed_token_ids=None)
    (unmasked,) = json.loads(
        asker.ask(PROMPT, (jpeg(),), sampling=free, returns=("logprobs",)).pieces[0]["logprobs"][0]
    )
    for key in set(entry) & set(unmasked):
        assert entry[key]["logprob"] == pytest.approx(unmasked[key]["logprob"], abs=1e-4)
    assert sum(math.exp(entry[key]["logprob"]) for key in chosen) < 0.5


def test_several_answers_come_as_one_response(asker: Asker) -> None:
    sampling = {"n": 3, "temperature": 1.0, "seed": 1, "max_tokens": 2, "ignore_eos": True}
    piece = asker.ask(sampling=sampling, returns=RETURNS).pieces[0]
    assert all(piece[name].shape == (3,) for name in ("text_output", "finish_reason", "num_output_tokens"))
    assert (
        "sampling_parameters.n: can only be 1 when stream is true" in asker.ask(sampling=sampling, stream=True).message
    )


def test_an_answer_can_be_held_to_a_schema(asker: Asker) -> None:
    schema = {"type": "object", "properties": {"roadwork": {"type": "boolean"}}, "required": ["roadwork"]}
    schema["additionalProperties"] = False
    sampling = {"temperature": 0, "max_tokens": 64, "structured_outputs": json.dumps({"json": schema})}
    answer = asker.ask(sampling=sampling, exclude_input_in_output=True)
    assert answer.error is None, answer.message
    assert answer.text.lstrip().startswith("{")


def test_sampling_comes_from_request_parameters_where_there_is_no_tensor(asker: Asker) -> None:
    """As in NVIDIA's backend; Triton's clients send numbers there as they like."""
    answer = asker.ask(parameters={"max_tokens": 2, "temperature": "0", "ignore_eos": True}, returns=RETURNS)
    assert answer.pieces[0]["num_output_tokens"].tolist() == [2]


def test_different_images_give_different_answers(asker: Asker) -> None:
    sampling = {"temperature": 0, "max_tokens": 1, "logprobs": 5}
    first, second = (
        asker.ask(PROMPT, (image,), sampling=sampling, returns=("logprobs",)).pieces[0]["logprobs"][0]
        for image in (jpeg(), jpeg(128, 128, noise=True))
    )
    assert first != second


# Refusals ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ("{", "sampling_parameters: is not JSON"),
        ("[1]", "sampling_parameters: is a JSON object"),
        ({"max_tokns": 1}, "sampling_parameters.max_tokns: is unknown; did you mean 'max_tokens'?"),
        ({"temperature": "warm"}, "sampling_parameters.temperature: is a number, got 'warm'"),
        ({"temperature": -1}, "sampling_parameters.temperature: is a number of at least 0"),
        ({"top_p": 2}, "sampling_parameters.top_p: is a number of between 0 and 1"),
        ({"max_tokens": 0}, "sampling_parameters.max_tokens: is a whole number of at least 1"),
        ({"min_tokens": 9, "max_tokens": 3}, "sampling_parameters.m"),
        ({"logprobs": 500}, "sampling_parameters.logprobs: "),
        ({"allowed_token_ids": [10**6]}, "sampling_parameters.allowed_token_ids: "),
        ({"allowed_token_ids": []}, "sampling_parameters.allowed_token_ids: is a list of token ids"),
        ({"stop": [1]}, "sampling_parameters.stop: is a text or a list of texts"),
        ({"structured_outputs": "{"}, "sampling_parameters.structured_outputs: is not JSON"),
        ({"structured_outputs": {"json": "{", "max": 1}}, "sampling_parameters"),
        ({"lora_name": "x"}, "sampling_parameters.lora_name: LoRA is not enabled"),
        ({"output_kind": 1}, "sampling_parameters.output_kind: cannot be set here"),
    ],
)
def test_bad_sampling_parameters_name_the_field(asker: Asker, sampling: Any, words: str) -> None:
    answer = asker.ask(sampling=sampling)
    assert answer.message.split("] ")[-1].startswith(words)
    assert not answer.pieces


def test_a_prompt_that_is_too_long_says_how_long(asker: Asker) -> None:
    assert "text_input: has 700 tokens, and prompt and answer may have 512" in asker.ask("a" * 700).message
    assert "text_input: has " in asker.ask(PROMPT + "a" * 700, (jpeg(),)).message


def test_images_that_cannot_be_used_are_named(asker: Asker) -> None:
    good, noisy = jpeg(), jpeg(290, 290, noise=True)
    cases = [
        ((good, good), "image: 2 images, and this model takes 1"),
        ((base64.b64encode(base64.b64decode(good)[:-400]),), "image[0]: cannot be decoded (image file is truncated"),
        ((b"@@@",), "image[0]: is not base64 text"),
        ((base64.b64encode(b"no picture"),), "image[0]: is not an image in a known format (JPEG, PNG"),
        ((jpeg(400, 300),), "image[0]: has 400 x 300 = 120000 pixels, the limit is 90000 (max_image_pixels"),
        ((noisy,), "bytes, the limit is 40000 (max_image_bytes in config.pbtxt)"),
    ]
    for images, words in cases:
        assert words in asker.ask(PROMPT, images, sampling={"max_tokens": 1}).message
    assert "text_input: has not one placeholder" in asker.ask(TEXT_PROMPT, (good,)).message


# Ending early --------------------------------------------------------------------------------------------------------
def test_a_cancelled_stream_ends_and_the_engine_stops(
    served: EmbeddedServer, tiers: dict[str, Any], wait_until: Callable
) -> None:
    with asking(served) as asker:
        asker.send(sampling=LONG, stream=True)
        asker.answers.get(timeout=WAIT)
        asker.client.stop_stream(cancel_requests=True)
        asker.client.start_stream(lambda result, error: asker.answers.put((result, error)))
    idle(served, wait_until)


def test_a_cancelled_request_without_stream_stops_the_engine(
    served: EmbeddedServer, tiers: dict[str, Any], wait_until: Callable
) -> None:
    with asking(served) as asker:
        before = metric(served, "vllm:generation_tokens_total")
        asker.send(sampling=LONG)
        wait_until(lambda: metric(served, "vllm:generation_tokens_total") > before, WAIT, "the engine begins")
        asker.client.stop_stream(cancel_requests=True)
        asker.client.start_stream(lambda result, error: asker.answers.put((result, error)))
        idle(served, wait_until)
    assert metric(served, "vllm:generation_tokens_total") - before < LONG["max_tokens"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_deadline_ends_the_engines_work(
    served: EmbeddedServer, asker: Asker, wait_until: Callable, stream: bool
) -> None:
    answer = asker.ask(sampling=LONG, stream=stream, parameters={"deadline_ms": 150})
    assert "deadline_ms: 150 ms have passed" in answer.message
    assert answer.seconds < 2
    idle(served, wait_until)
    assert asker.ask(sampling={"max_tokens": 1}, parameters={"deadline_ms": 20000}).error is None
    assert "parameters.deadline_ms: is a number" in asker.ask(parameters={"deadline_ms": "soon"}).message


@pytest.mark.parametrize("stream", [True, False])
def test_another_request_can_abort_one(
    served: EmbeddedServer, asker: Asker, wait_until: Callable, stream: bool
) -> None:
    with asking(served) as other:
        asker.send(sampling=LONG, stream=stream, request_id="first")
        time.sleep(0.2)
        answer = other.ask("", parameters={"abort": "first"})
        assert (answer.text, len(answer.pieces), answer.finals) == ("", 1, 1)
        assert answer.seconds < 2
        assert other.ask("", parameters={"abort": "nobody"}).error is None
    assert "aborted: another request asked for it" in asker.receive().message
    idle(served, wait_until)


def test_parameters_reach_the_tier_through_bls(served: EmbeddedServer, tiers: dict[str, Any], infer: Callable) -> None:
    with grpc.InferenceServerClient(served.grpc_url) as client:
        text = grpc.InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array([TEXT_PROMPT.encode()], object))
        result = client.infer("forward", [text], parameters={"max_tokens": 2}, client_timeout=WAIT)
        assert result.as_numpy("text_output")[0].decode().startswith(TEXT_PROMPT)
        with pytest.raises(InferenceServerException, match="deadline_ms: 1 ms have passed"):
            client.infer("forward", [text], parameters={"max_tokens": 300, "deadline_ms": 1}, client_timeout=WAIT)


def test_many_requests_at_once_are_all_answered(served: EmbeddedServer, asker: Asker) -> None:
    askers = [Asker(served.grpc_url) for _ in range(6)]
    try:
        for one in askers:
            one.send(PROMPT, (jpeg(),), sampling={"temperature": 0, "max_tokens": 4}, request_id="same")
        texts = {one.receive().text for one in askers}
        assert len(texts) == 1
    finally:
        for one in askers:
            one.close()


# Death ---------------------------------------------------------------------------------------------------------------
def test_an_engine_that_dies_fails_its_requests_at_once_and_comes_back(
    served: EmbeddedServer, asker: Asker, wait_until: Callable
) -> None:
    (engine,) = engines(served)
    asker.send(sampling=LONG, stream=True)
    asker.answers.get(timeout=WAIT)
    os.kill(engine, signal.SIGKILL)
    while (answer := asker.receive(10)).error is None:
        assert not answer.finals
    assert "unavailable: the engine of tiny has died" in answer.message
    after = asker.ask()
    assert "unavailable: the engine of tiny has died" in after.message
    assert after.seconds < 2
    with asking(served) as other:  # an error has not ended the stream for others
        wait_until(lambda: other.ask(sampling={"max_tokens": 1}).error is None, START, "the engine is back")
    assert engines(served) != [engine]


def test_a_killed_stub_takes_its_engine_with_it(served: EmbeddedServer, asker: Asker, wait_until: Callable) -> None:
    (engine,) = engines(served)
    os.kill(parent(engine), signal.SIGKILL)
    wait_until(lambda: gone(engine), 5, "the engine is gone")


def test_a_second_server_with_health_check_and_a_killed_server_leaves_nothing(
    module_repository: Any, tokens: dict[str, int], wait_until: Callable, tmp_path: Path
) -> None:
    """Two servers of one machine; with ENABLE_VLLM_HEALTH_CHECK a dead engine makes its model not ready."""
    repository = tmp_path / "repository"
    repository.mkdir()
    weights = str(module_repository.path / "tiny" / "1" / "weights")
    add_tier(repository, "sick", weights=False, model=weights, config=parameter("ENABLE_VLLM_HEALTH_CHECK", "true"))
    minimal = 'backend: "vllm"\ninstance_group [{ count: 1 kind: KIND_MODEL }]'
    add_tier(repository, "minimal", weights=False, model=weights, text=minimal)
    log = tmp_path / "log"
    tiers = ["sick", "minimal"]
    with EmbeddedServer(repository, [], tiers=tiers, tiers_at_once=2, log_path=log) as server:
        states = server.wait_for_tiers(START)
        assert {tier.state for tier in states.values()} == {"ready"}, states
        with asking(server) as asker:
            config = asker.client.get_model_config("minimal").config
            assert len(config.input) == 10
            assert len(config.output) == 6
            assert config.model_transaction_policy.decoupled
            assert asker.ask(model="minimal", sampling={"max_tokens": 1}).error is None
            first, second = engines(server)
            for engine in (first, second):
                if "sick" in Path(f"/proc/{parent(engine)}/cmdline").read_text():
                    os.kill(engine, signal.SIGKILL)
            assert "unavailable: " in asker.ask(model="sick").message
            wait_until(lambda: not asker.client.is_model_ready("sick", client_timeout=5), 30, "the model is not ready")
        left = engines(server)
        server.kill()
        wait_until(lambda: all(gone(engine) for engine in left), 20, "no engine outlives the server")
