"""A tier in another server, without Triton: what is asked, how answers are read, what goes wrong and how it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_server import BadServer, Handler
from remote_answer import AnswerError, Reader, Result
from remote_body import make_body
from remote_engine import RemoteEngine
from remote_settings import RemoteSettings, read_remote
from vllm_answer import answer_tensors
from vllm_engine import EngineError
from vllm_request import Request, RequestError
from vllm_settings import SettingsError

PROMPT = {
    "prompt": "<u><img>{findings}Is it? yes or no<e><a>",
    "yes": {"yes": 11, " Yes": 12},
    "no": {"no": 21, " No": 22},
}
TEXT = "<u><img>Is it? yes or no<e><a>"
REMOTE: dict[str, Any] = {
    "url": "http://127.0.0.1:1/v1",
    "model": "m",
    "engine": "vllm",
    "question": "Is it? yes or no",
    "timeouts": {"connect": 2, "first_byte": 1, "total": 3, "ready": 1},
}
IMAGE = "data:image/jpeg;base64,AAAA"
KEY = "sk-secret-of-the-test"


def settings(folder: Path, environment: dict[str, str] | None = None, **changes: Any) -> RemoteSettings:
    """Settings as they are read from a folder; None takes one out."""
    (folder / "1").mkdir(exist_ok=True)
    data = {key: value for key, value in {**REMOTE, **changes}.items() if value is not None}
    (folder / "1" / "remote.json").write_text(json.dumps(data))
    if not (folder / "prompt.json").exists():
        (folder / "prompt.json").write_text(json.dumps(PROMPT))
    return read_remote(folder / "1", environment or {})


@pytest.fixture
def server() -> Iterator[BadServer]:
    made = BadServer()
    yield made
    made.close()


@contextlib.contextmanager
def engine(folder: Path, server: BadServer, **changes: Any) -> Iterator[RemoteEngine]:
    made = RemoteEngine(
        "far", settings(folder, {"KEY": KEY}, url=server.url, key_env="KEY", **changes), lambda line: None
    )
    try:
        made.start()
        yield made
    finally:
        made.close()


def ask(engine: RemoteEngine, request: Request, images: tuple[str, ...] = (IMAGE,)) -> list[Result]:
    async def collect() -> list[Result]:
        return [result async for result in engine.generate("1", request, list(images))]

    return asyncio.run_coroutine_threadsafe(collect(), engine.loop).result(10)


def request(**changes: Any) -> Request:
    return Request(**{"prompt": TEXT, "sampling": {"max_tokens": 1, "logprobs": 2}, **changes})


def token(text: str, logprob: float, *tops: tuple[str, float], **more: Any) -> dict[str, Any]:
    top = [{"token": name, "logprob": value, "bytes": None} for name, value in tops]
    return {"token": text, "logprob": logprob, "bytes": None, "top_logprobs": top, **more}


def chat(*tokens: dict[str, Any], text: str = "yes", finish: str | None = "length", part: str = "message") -> dict:
    choice = {"index": 0, part: {"content": text}, "finish_reason": finish}
    return {"choices": [{**choice, "logprobs": {"content": list(tokens)} if tokens else None}]}


USAGE = {"usage": {"prompt_tokens": 40, "completion_tokens": 1}}
YES = token("yes", -0.1, ("yes", -0.1), ("no", -2.5))


# Settings ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": None}, "remote.json: 'url' is a required property"),
        ({"url": "127.0.0.1:8000"}, "remote.json: url: is the address of an API such as http://127.0.0.1:8000/v1"),
        ({"url": "http://h:99999/v1"}, "remote.json: url: is the address"),
        ({"url": "http://me:secret@h/v1"}, "remote.json: url: holds a name or password"),
        ({"engine": "tgi"}, "remote.json: engine: 'tgi' is not one of"),
        ({"timeouts": {"total": 0}}, "remote.json: timeouts.total: 0 is less than or equal to"),
        ({"timeout": 1}, "'timeout' was unexpected"),
        ({"max_connections": "many"}, "remote.json: max_connections: 'many' is not of type 'integer'"),
        ({"question": None}, "remote.json: question: is missing, and api chat needs it"),
        ({"question": "Was it?"}, "remote.json: question: does not stand once in the prompt of"),
        ({"key_env": "KEY"}, "remote.json: key_env: the environment variable KEY is not set"),
        ({"key_env": "my key"}, "remote.json: key_env: 'my key' does not match"),
        ({"extra_body": {"messages": []}}, "remote.json: extra_body.messages: is written by the backend itself"),
    ],
)
def test_bad_settings_name_file_and_field(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path, **changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"remote\.json is missing; make it with: roadwork-export tier NAME --remote"
    ):
        read_remote(tmp_path / "1")
    (tmp_path / "prompt.json").write_text("{")
    with pytest.raises(SettingsError, match=r"prompt\.json cannot be read as JSON"):
        settings(tmp_path)


def test_the_key_comes_from_the_environment_and_is_not_shown(tmp_path: Path) -> None:
    read = settings(tmp_path, {"KEY": KEY}, key_env="KEY")
    assert read.key == KEY
    assert KEY not in repr(read)
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path, {"KEY": f"{KEY}\n"}, key_env="KEY")
    assert KEY not in str(caught.value)


# What is asked -------------------------------------------------------------------------------------------------------
def test_the_rendered_prompt_becomes_messages_again(tmp_path: Path) -> None:
    found = "<u><img>Detectors report: 2 cone\nIs it? yes or no<e><a>"
    body = make_body(request(prompt=found), [IMAGE], settings(tmp_path))
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": IMAGE}},
                {"type": "text", "text": "Detectors report: 2 cone\nIs it? yes or no"},
            ],
        }
    ]
    assert (body["model"], body["max_tokens"], body["logprobs"], body["top_logprobs"]) == ("m", 1, True, 2)
    assert body["return_tokens_as_token_ids"] is True
    begun = make_body(request(prompt=f'{TEXT}{{"roadwork":'), [IMAGE], settings(tmp_path))
    assert begun["messages"][1] == {"role": "assistant", "content": '{"roadwork":'}
    assert (begun["continue_final_message"], begun["add_generation_prompt"]) == (True, False)


def test_a_servers_own_defaults_do_not_change_answers(tmp_path: Path) -> None:
    """A model's generation_config.json often penalises repetition, which the engine beside Triton does not."""
    body = make_body(request(sampling={}), [IMAGE], settings(tmp_path))
    assert (body["repetition_penalty"], body["top_p"], body["top_k"], body["max_tokens"]) == (1.0, 1.0, 0, 16)
    body = make_body(request(sampling={"top_k": 5}), [IMAGE], settings(tmp_path, extra_body={"priority": 3}))
    assert (body["top_k"], body["priority"]) == (5, 3)


@pytest.mark.parametrize(
    ("engine", "sampling", "words"),
    [
        ("openai", {"top_k": 3}, "sampling_parameters.top_k: is unknown"),
        ("sglang", {"allowed_token_ids": [1], "max_tokens": 2}, "allowed_token_ids: sglang has it not"),
        ("openai", {"structured_outputs": {"regex": "a"}}, "structured_outputs: openai takes json alone, got regex"),
        ("lmdeploy", {"bad_words": ["x"]}, "sampling_parameters.bad_words: is unknown"),
    ],
)
def test_what_an_engine_does_not_take_is_refused(tmp_path: Path, engine: str, sampling: dict, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        make_body(request(sampling=sampling), [IMAGE], settings(tmp_path, engine=engine))
    assert words in str(caught.value)


def test_each_engine_gets_its_own_names(tmp_path: Path) -> None:
    asked = request(sampling={"max_tokens": 1, "allowed_token_ids": [11], "min_tokens": 1})
    assert make_body(asked, [IMAGE], settings(tmp_path))["allowed_token_ids"] == [11]
    lmdeploy = make_body(asked, [IMAGE], settings(tmp_path, engine="lmdeploy"))
    assert lmdeploy["min_new_tokens"] == 1
    assert "allowed_token_ids" not in lmdeploy
    asked = request(sampling={"structured_outputs": '{"json": {"type": "object"}}'})
    openai = make_body(asked, [IMAGE], settings(tmp_path, engine="openai"))
    assert openai["response_format"]["json_schema"]["schema"] == {"type": "object"}
    with pytest.raises(RequestError, match="cannot be gone on with over lmdeploy's API"):
        make_body(request(prompt=f"{TEXT}{{"), [IMAGE], settings(tmp_path, engine="lmdeploy"))
    plain = settings(tmp_path, api="completions", question=None)
    assert make_body(request(prompt="?"), [], plain)["prompt"] == "?"
    with pytest.raises(RequestError, match="image: the completions API takes no images"):
        make_body(request(), [IMAGE], plain)


# How answers are read ------------------------------------------------------------------------------------------------
def read(data: dict[str, Any], found: RemoteSettings) -> dict[str, Any]:
    result = Reader(found, wanted=True, shown=True).whole(data)
    tensors = answer_tensors(result, frozenset({"logprobs", "cumulative_logprob", "num_output_tokens"}), "")
    return {**tensors, "tokens": json.loads(tensors["logprobs"][0])}


def test_tokens_by_id_are_told_by_id(tmp_path: Path) -> None:
    entry = token(
        "token_id:11", -0.1, ("token_id:11", -0.1), ("token_id:21", -2.5), ("token_id:99", -4), bytes=[121, 101, 115]
    )
    (tokens,) = read({**chat(entry), **USAGE}, settings(tmp_path))["tokens"]
    assert list(tokens) == ["11", "21", "99"]
    assert tokens["11"] == {"logprob": -0.1, "rank": 1, "decoded_token": "yes"}
    assert tokens["21"] == {"logprob": -2.5, "rank": 2, "decoded_token": "no"}
    assert tokens["99"]["decoded_token"] is None


def test_tokens_by_text_are_matched_to_yes_and_no(tmp_path: Path) -> None:
    entry = token("maybe", -3.0, ("yes", -0.5), (" No", -1.5), ("Perhaps", -2.0), ("maybe", -3.0))
    found = read({**chat(entry, text="maybe"), **USAGE}, settings(tmp_path, engine="openai"))
    (tokens,) = found["tokens"]
    assert next(iter(tokens.values()))["decoded_token"] == "maybe"
    assert {key: entry["logprob"] for key, entry in tokens.items() if int(key) > 0} == {"11": -0.5, "22": -1.5}
    assert len(tokens) == 4
    assert found["num_output_tokens"].tolist() == [1]
    assert math.isclose(found["cumulative_logprob"][0], -3.0)


def test_a_vocabularys_marks_are_read_as_spaces(tmp_path: Path) -> None:
    """LMDeploy tells tokens as the vocabulary writes them, and the one that was said not among the likeliest."""
    entry = token("ĠYes", -0.2, ("no", -2.0), ("ĠNo", -3.0))
    (tokens,) = read({**chat(entry, text=" Yes"), **USAGE}, settings(tmp_path, engine="lmdeploy"))["tokens"]
    assert list(tokens) == ["12", "21", "22"]
    assert tokens["12"]["rank"] is None


def test_two_tokens_of_one_text_are_two(tmp_path: Path) -> None:
    """A server that strips the space before a word tells " Yes" as "Yes"."""
    entry = token("yes", -0.5, ("yes", -0.5), ("Yes", -1.0), ("No", -2.0))
    (tokens,) = read({**chat(entry), **USAGE}, settings(tmp_path, engine="openai"))["tokens"]
    assert list(tokens) == ["11", "12", "22"]


def test_the_completions_api_tells_log_probabilities_in_columns(tmp_path: Path) -> None:
    columns = {"tokens": ["yes"], "token_logprobs": [-0.1], "top_logprobs": [{"yes": -0.1, "no": -2.0}]}
    data = {"choices": [{"index": 0, "text": "yes", "finish_reason": "length", "logprobs": columns, "token_ids": [11]}]}
    (tokens,) = read({**data, **USAGE}, settings(tmp_path, api="completions", question=None))["tokens"]
    assert list(tokens) == ["11", "21"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "is malformed: answer is no JSON object"),
        ({}, "is malformed: choices is no list"),
        ({"choices": []}, "has no choices"),
        (chat(), "has no log-probabilities, though they were asked for"),
        (chat(token("yes", float("nan"))), "has a log-probability that is no number"),
        (chat({"token": "yes"}), "has a log-probability that is no number: None"),
        (
            {"choices": [{"message": {"content": "a", "reasoning": "hm"}}]},
            "start the server without a reasoning parser",
        ),
        ({"choices": [{"message": {"content": [1]}}]}, "has a content that is no text"),
    ],
)
def test_answers_that_are_not_as_promised_are_refused(tmp_path: Path, data: Any, words: str) -> None:
    with pytest.raises(AnswerError, match=words):
        Reader(settings(tmp_path), wanted=True, shown=True).whole(data)


def test_numbers_that_come_behind_the_last_piece_are_in_it(tmp_path: Path, server: BadServer) -> None:
    """OpenAI's own stream tells the number of tokens in a piece without choices, at the end."""
    text = [chat(text=t, finish=None, part="delta") for t in ("", "a ", "b")]
    last = chat(text="", finish="stop", part="delta")
    usage = {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 3}}
    server.play = lambda handler, body: handler.stream(": a comment\n\n", *text, last, usage, "data: [DONE]\n\n")
    with engine(tmp_path, server, engine="openai") as made:
        results = ask(made, request(stream=True, sampling={}))
    assert "".join(r.outputs[0].text for r in results) == "a b"
    assert [r.finished for r in results] == [False, False, True]
    assert sum(len(r.outputs[0].token_ids) for r in results) == 3
    assert len(results[-1].prompt_token_ids) == 40
    path, headers, body = server.seen[-1]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["stream_options"] == {"include_usage": True}


# What goes wrong -----------------------------------------------------------------------------------------------------
def error(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "Bad", "param": param, "code": 400}}


@pytest.mark.parametrize(
    ("status", "content", "kind", "words"),
    [
        (401, {"error": "Unauthorized"}, EngineError, "does not take the key in the environment variable KEY (401)"),
        (404, error("no model `m`"), EngineError, "answered 404 (is url or model in remote.json wrong?): no model"),
        (429, error("slow down"), EngineError, "has too much to do (429, to be asked again in 7 s): slow down"),
        (500, "<html>oh</html>", EngineError, "answered 500: <html>oh</html>"),
        (503, {"detail": "loading"}, EngineError, "answered 503: loading"),
        (307, "", EngineError, "answered 307"),
        (200, "{broken", EngineError, "sent what is no JSON: '{broken'"),
        (200, {"choices": "none"}, EngineError, "choices is no list"),
        (400, error("is bad", "temperature"), RequestError, "sampling_parameters.temperature: is bad"),
        (400, error("maximum context length is 512"), RequestError, "text_input: maximum context length is 512"),
        (400, error("Failed to load image"), RequestError, "image: Failed to load image"),
        (422, {"detail": [{"msg": "x"}]}, RequestError, 'sampling_parameters: the server refuses the request: [{"msg"'),
        (500, f"your key {KEY} is odd", EngineError, "answered 500: your key *** is odd"),
    ],
)  # fmt: skip
def test_an_error_of_the_server_is_told_in_one_line_without_the_key(
    tmp_path: Path, server: BadServer, status: int, content: Any, kind: type[Exception], words: str
) -> None:
    server.play = lambda handler, body: handler.answer(status, content, Retry_After="7")
    for stream in (False, True):
        with engine(tmp_path, server) as made, pytest.raises(kind) as caught:
            ask(made, request(stream=stream))
        if status != 200 or not stream:
            assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert KEY not in str(caught.value)


PIECE = chat(YES, finish=None, part="delta")


@pytest.mark.parametrize(
    ("pieces", "end", "words"),
    [
        ((PIECE,), True, "broke off amid its answer"),
        ((PIECE,), False, "closed the connection amid its answer"),
        ((PIECE, "data: {broken\n\n"), True, "sent what is no JSON: '{broken'"),
        ((PIECE, {"error": {"message": "out of memory"}}), True, "gave up amid its answer: out of memory"),
        ((PIECE, "data: [DONE]\n\n"), True, "broke off amid its answer"),
        ((chat(text="yes", finish=None, part="delta"),), True, "has no log-probabilities"),
        ((": nothing\n\n",), True, "broke off amid its answer"),
    ],
)
def test_a_stream_that_ends_badly_is_an_error(
    tmp_path: Path, server: BadServer, pieces: tuple[Any, ...], end: bool, words: str
) -> None:
    server.play = lambda handler, body: handler.stream(*pieces, end=end)
    with engine(tmp_path, server) as made, pytest.raises(EngineError, match=words):
        ask(made, request(stream=True))


def test_a_server_that_is_silent_runs_out_of_time(tmp_path: Path, server: BadServer) -> None:
    def silent(handler: Handler, body: dict[str, Any]) -> None:
        server.gone.wait(8)

    def half(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write(b'data: {"choices": []}\n\n' if body["max_tokens"] == 2 else b": alive\n\n")
        handler.wfile.flush()
        server.gone.wait(8)
        handler.close_connection = True

    times = {"connect": 1, "first_byte": 0.2, "total": 0.5, "ready": 1}
    with engine(tmp_path, server, timeouts=times) as made:
        for play, asked, words in (
            (silent, request(), r"has not answered within 0\.5 s \(timeouts\.total\)"),
            (half, request(stream=True), r"has not begun to answer within 0\.2 s \(timeouts\.first_byte\)"),
            (half, request(stream=True, sampling={"max_tokens": 2}), r"has not answered within 0\.5 s"),
        ):
            server.play = play
            began = time.monotonic()
            with pytest.raises(EngineError, match=words):
                ask(made, asked)
            assert time.monotonic() - began < 2


def test_giving_up_closes_the_connection(tmp_path: Path, server: BadServer) -> None:
    closed: list[bool] = []

    def endless(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not server.gone.wait(0.01):
                handler.wfile.write(f"data: {json.dumps(PIECE)}\n\n".encode())
                handler.wfile.flush()
        closed.append(not server.gone.is_set())
        handler.close_connection = True

    server.play = endless
    with engine(tmp_path, server) as made:

        async def first() -> None:
            async with contextlib.aclosing(made.generate("1", request(stream=True), [IMAGE])) as results:
                async for _ in results:
                    return

        asyncio.run_coroutine_threadsafe(first(), made.loop).result(5)
        until = time.monotonic() + 5
        while not closed and time.monotonic() < until:
            time.sleep(0.01)
    assert closed == [True]


def test_another_prompt_than_was_asked_for_is_noticed(tmp_path: Path, server: BadServer) -> None:
    """vLLM tells the prompt that its chat template made."""
    server.play = lambda handler, body: handler.answer(200, {**chat(YES), **USAGE, "prompt_text": "<u>Is it?"})
    with (
        engine(tmp_path, server) as made,
        pytest.raises(EngineError, match=r"renders another prompt .* \(character 3\)"),
    ):
        ask(made, request())
    with engine(tmp_path, server, check_prompt=False) as made:
        assert ask(made, request())[0].outputs[0].text == "yes"
        assert server.seen[-1][2]["return_prompt_text"] is False


# Joining -------------------------------------------------------------------------------------------------------------
def test_a_load_waits_for_a_server_that_starts(tmp_path: Path, server: BadServer) -> None:
    ready = time.monotonic() + 0.4

    def starting(handler: Handler, body: dict[str, Any]) -> None:
        handler.answer(*((503, "loading") if time.monotonic() < ready else (200, {"data": [{"id": "m"}]})))

    server.listed = starting
    with engine(tmp_path, server, timeouts={"ready": 5}):
        assert len(server.seen) > 1


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (401, {}, "far: http://.* does not take the key"),
        (200, {"data": [{"id": "n"}]}, "has no model 'm' .model in remote.json., but n"),
        (200, {"object": "list"}, "/models is no list of models"),
        (200, "hello", "sent what is no JSON"),
        (503, "loading", r"answered 503: loading after 0\.6 s \(timeouts\.ready in remote\.json\)"),
    ],
)
def test_a_load_says_why_not(tmp_path: Path, server: BadServer, status: int, content: Any, words: str) -> None:
    server.listed = lambda handler, body: handler.answer(status, content)
    with pytest.raises(EngineError, match=words), engine(tmp_path, server, timeouts={"ready": 0.6}):
        pass


def test_a_lazy_tier_loads_without_its_server(tmp_path: Path, server: BadServer) -> None:
    server.listed = lambda handler, body: handler.answer(503, "loading")
    with engine(tmp_path, server, lazy=True) as made:
        assert made.why_not is None
        assert server.seen == []
