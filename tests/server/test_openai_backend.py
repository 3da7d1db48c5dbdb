"""The openai backend against vLLM's own server on the CPU: the tiers' contract, and how things end."""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from roadwork_cascade.prompts import Prompt, load_prompt
from roadwork_cascade.scoring import Said, repair_prompt, score_scorer
from roadwork_deploy.repository import default_repository
from roadwork_deploy.server import EmbeddedServer
from tritonclient.utils import InferenceServerException

sys.path.append(str(Path(__file__).parent))
from asker import WAIT, Asker, asking

pytest.importorskip("vllm", reason="vLLM is not installed (python -m roadwork_deploy.install_vllm)")

from roadwork_export import scenes
from roadwork_export.tiers.remote import write_remote
from vllm_serve import VllmServe

pytestmark = pytest.mark.timeout(400)
TIER, MODEL, KEY = "tiny_vlm_s", "far-away", "the-key-of-the-test"
RETURNS = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
MANY = 12
LONG = {"temperature": 0, "max_tokens": 400, "ignore_eos": True}


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServe]:
    """vLLM's server, with the flags of `roadwork-deploy launch`."""
    made = VllmServe(default_repository(), TIER, MODEL, KEY, tmp_path_factory.mktemp("vllm") / "log")
    try:
        made.start()
        yield made
    finally:
        made.stop()


def add_remote(repository: Path, name: str, serve: VllmServe, **changes: Any) -> None:
    weights = str(default_repository() / TIER / "1" / "weights")
    write_remote(
        name, repository, url=serve.url, model=MODEL, key_env="FAR_KEY", weights=weights, kind="scorer", max_side=288
    )
    path = repository / name / "1" / "remote.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


@pytest.fixture(scope="module")
def served(serve: VllmServe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    path = tmp_path_factory.mktemp("repository")
    add_remote(path, "far", serve)
    add_remote(path, "wrong_model", serve, model="nearby", timeouts={"ready": 2})
    add_remote(path, "wrong_key", serve, key_env="OTHER_KEY")
    add_remote(path, "no_key", serve, key_env=None)
    add_remote(path, "lazy", serve, lazy=True, key_env="OTHER_KEY")
    add_remote(path, "impatient", serve, timeouts={"total": 0.15})
    add_remote(path, "other_prompt", serve, extra_body={"add_generation_prompt": False})
    # Nothing listens on port 9 (discard) of this machine.
    add_remote(path, "nobody", serve, url="http://127.0.0.1:9/v1", timeouts={"ready": 1, "connect": 1})
    environment = {"FAR_KEY": KEY, "OTHER_KEY": "another-key"}
    tiers = ["far", "wrong_model", "wrong_key", "no_key", "lazy", "impatient", "other_prompt", "nobody"]
    log = tmp_path_factory.mktemp("log") / "triton"
    with EmbeddedServer(path, [], tiers=tiers, environment=environment, log_path=log) as server:
        yield server
    assert KEY not in log.read_text()
    assert "another-key" not in log.read_text()


@pytest.fixture(scope="module")
def states(served: EmbeddedServer) -> dict[str, Any]:
    return served.wait_for_tiers(60)


@pytest.fixture
def asker(served: EmbeddedServer, states: dict[str, Any], serve: VllmServe) -> Iterator[Asker]:
    assert states["far"].state == "ready", states["far"].reason
    serve.start()  # an earlier test may have killed it
    with asking(served) as made:
        yield made


@pytest.fixture(scope="module")
def prompt(served: EmbeddedServer) -> Prompt:
    return load_prompt(default_repository() / TIER / "prompt.json")


def picture(seed: int, works: bool) -> bytes:
    """Base64 text of a rendered street as the cascade would send it."""
    image = Image.fromarray(scenes.render_scene(seed, roadwork=works, width=512, height=288).image)
    file = io.BytesIO()
    image.resize((288, 162)).save(file, "JPEG", quality=92, subsampling=0)
    return base64.b64encode(file.getvalue())


STREET = picture(91_000_001, True)


def said(answer: Any) -> Said:
    """What the cascade reads out of an answer."""
    from roadwork_cascade.engine import TokenLogprob

    assert answer.error is None, answer.message
    piece = answer.pieces[0]
    tokens = [
        {int(i): TokenLogprob(e["logprob"], e["rank"], e["decoded_token"] or "") for i, e in entry.items()}
        for entry in json.loads(piece["logprobs"][0])
    ]
    return Said(answer.text, tokens, int(piece["num_input_tokens"][0]), int(piece["num_output_tokens"][0]))


# Joining -------------------------------------------------------------------------------------------------------------
def test_a_tier_joins_when_its_server_has_the_model_and_says_why_it_does_not(
    states: dict[str, Any], serve: VllmServe
) -> None:
    assert states["far"].state == "ready", states["far"].reason
    why = {name: tier.reason for name, tier in states.items()}
    assert f"{serve.url} has no model 'nearby' (model in remote.json), but {MODEL}" in why["wrong_model"]
    assert "does not take the key in the environment variable OTHER_KEY (401)" in why["wrong_key"]
    assert "wants a key (401): name its environment variable as key_env in remote.json" in why["no_key"]
    assert "http://127.0.0.1:9/v1 cannot be reached" in why["nobody"]
    assert "does not take the key in the environment variable OTHER_KEY (401)" in why["lazy"]  # by its first question
    assert "renders another prompt than prompt.json has" in why["other_prompt"]
    assert "(timeouts.total)" in why["impatient"] or states["impatient"].state == "ready"
    assert not any("\n" in reason for reason in why.values())


# Answers -------------------------------------------------------------------------------------------------------------
def test_the_probability_of_yes_is_that_of_the_engine_beside_triton(asker: Asker, prompt: Prompt, tiers: Any) -> None:
    """`tiers` serves the same weights by the vllm backend."""
    probabilities = []
    with asking(tiers.server) as near:
        for seed in range(3):
            for works in (True, False):
                image = picture(91_000_010 + 2 * seed + works, works)
                for findings in (None, "2 cone, 1 barrier; words ROAD WORK; probability 0.71"):
                    question = {
                        "prompt": prompt.text(findings), "images": (image,), "sampling": dict(prompt.sampling),
                        "returns": RETURNS, "exclude_input_in_output": True,
                    }  # fmt: skip
                    here, there = said(near.ask(model=TIER, **question)), said(asker.ask(model="far", **question))
                    assert there.text == here.text
                    assert (there.input_tokens, there.output_tokens) == (here.input_tokens, 1)
                    one, other = (score_scorer(answer, prompt, 0.2) for answer in (here, there))
                    assert other.raw == pytest.approx(one.raw, abs=1e-3)
                    assert other.mass == pytest.approx(one.mass, abs=1e-3)
                    assert set(there.logprobs[0]) == set(here.logprobs[0])
                    probabilities.append(other.raw)
    assert max(probabilities) - min(probabilities) > 0.05  # the images were really looked at


def test_every_optional_output_comes_when_asked_for_and_only_then(asker: Asker, prompt: Prompt) -> None:
    sampling = {"temperature": 0, "max_tokens": 3, "ignore_eos": True, "logprobs": 5}
    question = {"prompt": prompt.text(None), "images": (STREET,), "model": "far", "sampling": sampling}
    answer = asker.ask(**question, returns=RETURNS).pieces[0]
    assert set(answer) == {"text_output", *RETURNS}
    assert answer["text_output"][0].decode().startswith(prompt.text(None))
    assert answer["finish_reason"].tolist() == [b"length"]
    assert answer["num_output_tokens"].tolist() == [3]
    assert answer["num_input_tokens"][0] > 40
    entries = json.loads(answer["logprobs"][0])
    assert [len(entry) for entry in entries] == [5, 5, 5]
    firsts = [next(iter(entry.values())) for entry in entries]
    assert [first["rank"] for first in firsts] == [1, 1, 1]
    assert (
        "".join(first["decoded_token"] for first in firsts)
        == answer["text_output"][0].decode()[len(prompt.text(None)) :]
    )
    np.testing.assert_allclose(answer["cumulative_logprob"], [sum(first["logprob"] for first in firsts)], rtol=1e-4)
    bare = asker.ask(**{**question, "sampling": {"max_tokens": 1}}, returns=("logprobs", "cumulative_logprob"))
    assert json.loads(bare.pieces[0]["logprobs"][0]) is None
    assert bare.pieces[0]["cumulative_logprob"][0] < 0


def test_a_stream_gives_new_text_alone_and_the_same_as_at_once(asker: Asker, prompt: Prompt) -> None:
    sampling = {"temperature": 0, "max_tokens": 6, "ignore_eos": True, "logprobs": 2}
    question = {"prompt": prompt.text(None), "images": (STREET,), "model": "far", "sampling": sampling}
    whole = asker.ask(**question, exclude_input_in_output=True, returns=RETURNS)
    streamed = asker.ask(**question, stream=True, returns=RETURNS)
    assert streamed.text == whole.text
    assert streamed.finals == 1
    assert len(streamed.pieces) > 1
    assert sum(int(piece["num_output_tokens"][0]) for piece in streamed.pieces) == 6
    tokens = [entry for piece in streamed.pieces for entry in json.loads(piece["logprobs"][0]) or []]
    assert [list(entry) for entry in tokens] == [list(entry) for entry in json.loads(whole.pieces[0]["logprobs"][0])]
    assert [piece["finish_reason"][0] for piece in streamed.pieces][-1] == b"length"
    assert {piece["finish_reason"][0] for piece in streamed.pieces[:-1]} == {b"None"}
    assert {int(piece["num_input_tokens"][0]) for piece in streamed.pieces} == {
        int(whole.pieces[0]["num_input_tokens"][0])
    }


def test_an_answer_that_has_begun_is_gone_on_with_and_held_to_a_schema(asker: Asker, prompt: Prompt) -> None:
    """What a reasoner's tier asks: JSON by a schema, and the repair of a broken answer."""
    question = {"images": (STREET,), "model": "far", "exclude_input_in_output": True, "returns": RETURNS}
    schema = {"type": "object", "properties": {"roadwork": {"type": "boolean"}}, "required": ["roadwork"]}
    structured = json.dumps({"json": {**schema, "additionalProperties": False}})
    sampling = {"temperature": 0, "max_tokens": 40, "structured_outputs": structured}
    assert asker.ask(prompt.text(None), sampling=sampling, **question).text.lstrip().startswith("{")
    reasoner = load_prompt(default_repository() / "tiny_reasoner" / "prompt.json")
    begun = repair_prompt(prompt.text(None), '{"thoughts": "a ', reasoner)
    sampling = {"temperature": 0, "max_tokens": 1, "logprobs": 20, "allowed_token_ids": [*reasoner.yes.values()]}
    repaired = said(asker.ask(begun, sampling=sampling, **question))
    assert repaired.text in reasoner.yes
    assert repaired.output_tokens == 1


# Refusals ------------------------------------------------------------------------------------------------------------
def test_what_the_caller_does_wrong_names_the_field(asker: Asker, prompt: Prompt) -> None:
    text = prompt.text(None)
    cut = base64.b64encode(base64.b64decode(STREET)[:2000])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"prompt": "Is it?"}, "text_input: is not the prompt of this tier's prompt.json"),
        ({"images": ()}, "image: the prompt has a placeholder for one image, got 0"),
        ({"images": (STREET, STREET)}, "image: 2 images, and this model takes 1"),
        ({"images": (b"@@@",)}, "image[0]: is not base64 text"),
        ({"images": (cut,)}, "image: "),
        ({"prompt": prompt.text("cone " * 600)}, "text_input: "),
        ({"sampling": {"max_tokns": 1}}, "sampling_parameters.max_tokns: is unknown; did you mean 'max_tokens'?"),
        ({"sampling": {"logprobs": 500}}, "sampling_parameters.logprobs: "),
        ({"sampling": {"allowed_token_ids": [10**6]}}, "sampling_parameters.allowed_token_ids: "),
        ({"sampling": {"lora_name": "x"}}, "sampling_parameters.lora_name: is not taken by a remote tier"),
    ]
    for changes, words in cases:
        question: dict[str, Any] = {"prompt": text, "images": (STREET,), "sampling": {"max_tokens": 1}, **changes}
        message = asker.ask(model="far", **question).message.split("] ")[-1]
        assert message.startswith(words), message


# Ending early --------------------------------------------------------------------------------------------------------
def idle(serve: VllmServe, wait_until: Callable) -> None:
    """vLLM has nothing to do and makes no more tokens."""
    wait_until(lambda: serve.running() == 0, 10, "the server ends its work")
    made = serve.made()
    time.sleep(0.5)
    assert serve.made() == made


@pytest.mark.parametrize("stream", [True, False])
def test_a_cancelled_request_ends_the_servers_work(
    served: EmbeddedServer, asker: Asker, prompt: Prompt, serve: VllmServe, wait_until: Callable, stream: bool
) -> None:
    before = serve.made()
    sampling = {**LONG, "logprobs": 20}  # many of them, with much to write: one alone would be over too soon
    with asking(served) as other:
        for _ in range(MANY):
            other.send(prompt.text(None), (STREET,), model="far", sampling=sampling, stream=stream)
        wait_until(lambda: serve.running() == MANY, WAIT, "the server begins")
        other.client.stop_stream(cancel_requests=True)
        other.client.start_stream(lambda result, error: other.answers.put((result, error)))
        idle(serve, wait_until)
    assert serve.made() - before < MANY * LONG["max_tokens"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_deadline_ends_the_servers_work(
    asker: Asker, prompt: Prompt, serve: VllmServe, wait_until: Callable, stream: bool
) -> None:
    question = {"prompt": prompt.text(None), "images": (STREET,), "model": "far", "sampling": LONG, "stream": stream}
    answer = asker.ask(**question, parameters={"deadline_ms": 200})
    assert "deadline_ms: 200 ms have passed" in answer.message
    assert answer.seconds < 2
    idle(serve, wait_until)


def test_another_request_can_abort_one(
    served: EmbeddedServer, asker: Asker, prompt: Prompt, serve: VllmServe, wait_until: Callable
) -> None:
    with asking(served) as other:
        asker.send(prompt.text(None), (STREET,), model="far", sampling=LONG, request_id="first")
        wait_until(lambda: serve.running() == 1, WAIT, "the server begins")
        assert other.ask("", model="far", parameters={"abort": "first"}).text == ""
    assert "aborted: another request asked for it" in asker.receive().message
    idle(serve, wait_until)


def test_a_server_that_is_killed_fails_its_requests_at_once_and_is_asked_again_when_it_is_back(
    asker: Asker, prompt: Prompt, serve: VllmServe, wait_until: Callable
) -> None:
    question: dict[str, Any] = {"prompt": prompt.text(None), "images": (STREET,), "model": "far"}
    asker.send(**question, sampling=LONG, stream=True)
    asker.answers.get(timeout=WAIT)
    serve.kill()
    while (answer := asker.receive(10)).error is None:
        assert not answer.finals
    assert f"unavailable: {serve.url} closed the connection amid its answer" in answer.message
    after = asker.ask(**question)
    assert f"unavailable: {serve.url} cannot be reached" in after.message
    assert after.seconds < 2
    with pytest.raises(InferenceServerException, match="cannot be reached"):
        asker.client.load_model("wrong_model", client_timeout=60)
