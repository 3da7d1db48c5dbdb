"""The engine over BLS, against a stand-in for Triton's Python module."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roadwork_cascade import engine as engine_module
from roadwork_cascade.engine import EngineError, EngineTimeout, ModelUnavailable

INPUTS = {"canvas": np.zeros((1, 2), np.uint8)}


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonModelException(Exception):
    pass


class Response:
    def __init__(self, error: str = "", tensors: list[Tensor] | None = None) -> None:
        self._error = error
        self._tensors = tensors

    def has_error(self) -> bool:
        return bool(self._error)

    def error(self) -> Any:
        return types.SimpleNamespace(message=lambda: self._error)

    def output_tensors(self) -> list[Tensor]:
        return [Tensor("presence", np.array([[0.5]], np.float32))] if self._tensors is None else self._tensors


class World:
    """What the stand-in server does with the next call."""

    def __init__(self) -> None:
        self.response: Response | Exception = Response()
        self.gate: threading.Event | None = None
        self.asked: dict[str, Any] = {}
        # Of decoupled calls: what comes, one each time that the test lets one through, and what was asked.
        self.responses: list[Response | Exception] = []
        self.let = threading.Semaphore(100)
        self.calls: list[dict[str, Any]] = []
        self.taken = 0


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    class InferenceRequest:
        def __init__(self, **asked: Any) -> None:
            world.asked = self._asked = asked

        def exec(self, decoupled: bool = False) -> Any:
            if not decoupled:
                return self._response()
            world.calls.append(self._asked)
            if "abort" in self._asked["parameters"]:
                return iter([Response(tensors=[])])
            return self._responses()

        def _responses(self) -> Any:
            for response in world.responses:
                # With a deadline: a test that fails lets nothing through, and the pool's threads are joined at the end.
                if not world.let.acquire(timeout=5):
                    return
                world.taken += 1
                if isinstance(response, Exception):
                    raise response
                yield response

        def _response(self) -> Response:
            if world.gate is not None:
                world.gate.wait(timeout=5)
            if isinstance(world.response, Exception):
                raise world.response
            return world.response

    fake = types.ModuleType("triton_python_backend_utils")
    fake.Tensor, fake.InferenceRequest, fake.TritonModelException = Tensor, InferenceRequest, TritonModelException  # type: ignore[attr-defined]
    fake.PreferredMemory, fake.TRITONSERVER_MEMORY_CPU = lambda kind, device: (kind, device), 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    monkeypatch.syspath_prepend(str(Path(engine_module.__file__).parents[1]))
    for module in ("bls_engine", "tier_call"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return world


@pytest.fixture
def bls(world: World) -> Any:
    from bls_engine import BlsEngine

    return BlsEngine()


async def test_outputs_come_back_by_name_and_on_the_cpu(bls: Any, world: World) -> None:
    arrays = await bls.infer("scene", INPUTS, ["presence"], 1.0)
    assert arrays["presence"].tolist() == [[0.5]]
    assert world.asked["requested_output_names"] == ["presence"]
    assert world.asked["preferred_memory"] == (0, 0)


@pytest.mark.parametrize("how", ["response", "raised"])
async def test_errors_are_told_apart(bls: Any, world: World, how: str) -> None:
    def say(text: str) -> None:
        world.response = Response(text) if how == "response" else TritonModelException(text)

    say("Model 'scene' is not ready.")
    with pytest.raises(ModelUnavailable):
        await bls.infer("scene", INPUTS, ["presence"], 1.0)
    say("it broke")
    with pytest.raises(EngineError, match="scene: it broke"):
        await bls.infer("scene", INPUTS, ["presence"], 1.0)


async def test_calls_that_never_come_back_cannot_use_up_all_threads(
    bls: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["bls_engine"], "GRACE_SECONDS", 0.0)
    world.gate = threading.Event()
    for _ in range(8):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bls.infer("scene", INPUTS, ["presence"], 1.0), 0.01)
    with pytest.raises(EngineTimeout, match="8 earlier calls have not come back"):
        await bls.infer("scene", INPUTS, ["presence"], 1.0)
    world.gate.set()
    await asyncio.sleep(0.01)
    assert (await bls.infer("scene", INPUTS, ["presence"], 1.0))["presence"].tolist() == [[0.5]]


async def test_callers_that_leave_together_do_not_close_a_model_to_others(bls: Any, world: World) -> None:
    world.gate = threading.Event()
    for _ in range(9):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bls.infer("scene", INPUTS, ["presence"], 1.0), 0.01)
    held, world.gate = world.gate, None
    assert await bls.infer("scene", INPUTS, ["presence"], 1.0)
    held.set()


async def test_a_model_that_lost_many_calls_is_asked_again(
    bls: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["bls_engine"], "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(sys.modules["bls_engine"], "LOST_SECONDS", 0.3)
    world.gate = threading.Event()
    for _ in range(8):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bls.infer("scene", INPUTS, ["presence"], 1.0), 0.01)
    held, world.gate = world.gate, None
    with pytest.raises(EngineTimeout, match="8 earlier calls have not come back"):
        await bls.infer("scene", INPUTS, ["presence"], 1.0)
    await asyncio.sleep(0.4)
    assert await bls.infer("scene", INPUTS, ["presence"], 1.0)
    assert not bls._abandoned["scene"]
    held.set()


async def test_calls_lost_with_their_models_process_are_forgotten_once_it_answers(
    bls: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["bls_engine"], "LOST_SECONDS", 0.2)
    world.gate = threading.Event()
    for _ in range(7):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bls.infer("scene", INPUTS, ["presence"], 1.0), 0.01)
    held, world.gate = world.gate, None
    await bls.infer("scene", INPUTS, ["presence"], 1.0)
    assert len(bls._abandoned["scene"]) == 7  # they may still be on their way
    await asyncio.sleep(0.3)
    await bls.infer("scene", INPUTS, ["presence"], 1.0)
    assert not bls._abandoned["scene"]
    held.set()


def said(text: str, logprobs: str = "null", tokens: Any = 1, finish: str = "None") -> Response:
    """A response of a tier; the token counts have the shapes that NVIDIA's backend gives them."""
    return Response(
        tensors=[
            Tensor("text_output", np.array([text.encode()], np.object_)),
            Tensor("logprobs", np.array([logprobs.encode()], np.object_)),
            Tensor("finish_reason", np.array([finish.encode()], np.object_)),
            Tensor("num_input_tokens", np.asarray(70, np.uint32)),
            Tensor("num_output_tokens", np.asarray([tokens], np.uint32)),
        ]
    )


def ask(bls: Any, stream: bool = True) -> Any:
    sampling = {"max_tokens": 4, "logprobs": 5}
    return bls.generate("vlm", "Straße?", images=[b"jpeg"], sampling=sampling, stream=stream, timeout=1.5)


async def test_a_tier_gets_the_tensors_of_the_vllm_backend_and_its_pieces_come_in_order(bls: Any, world: World) -> None:
    logprobs = json.dumps([{"5": {"logprob": -0.1, "rank": 1, "decoded_token": "yes"}, "7": {"logprob": -3}}])
    world.responses = [said("ye"), said("s", logprobs, finish="stop"), Response(tensors=[])]
    pieces = [piece async for piece in ask(bls)]
    assert [piece.text for piece in pieces] == ["ye", "s"]
    assert pieces[0].logprobs == []
    assert list(pieces[1].logprobs[0]) == [5, 7]
    assert (pieces[1].logprobs[0][5].logprob, pieces[1].logprobs[0][5].text) == (-0.1, "yes")
    assert (pieces[1].input_tokens, pieces[1].output_tokens, pieces[1].finish_reason) == (70, 1, "stop")
    (call,) = world.calls
    sent = {tensor.name(): tensor.as_numpy() for tensor in call["inputs"]}
    assert sent["text_input"].tolist() == ["Straße?".encode()]
    assert base64.b64decode(sent["image"][0]) == b"jpeg"
    assert json.loads(sent["sampling_parameters"][0]) == {"max_tokens": 4, "logprobs": 5}
    assert all(sent[name].tolist() == [True] for name in ("stream", "exclude_input_in_output", "return_logprobs"))
    assert call["parameters"] == {"deadline_ms": 1500}


@pytest.mark.parametrize(
    ("response", "error", "message"),
    [
        (Response("Model 'vlm' is not ready."), ModelUnavailable, "not ready"),
        (TritonModelException("Request for unknown model: 'vlm' is not found"), ModelUnavailable, "unknown model"),
        (Response("CUDA out of memory"), EngineError, "vlm: CUDA out of memory"),
        (KeyError("bug"), EngineError, "vlm: KeyError"),
        (said("x", "{"), EngineError, "vlm: unreadable answer: JSONDecodeError"),
        (said("x", '[{"a": 1}]'), EngineError, "vlm: unreadable answer"),
    ],
)
async def test_a_tiers_errors_are_told_apart(
    bls: Any, world: World, response: Any, error: type[Exception], message: str
) -> None:
    world.responses = [response]
    with pytest.raises(error, match=message):
        [piece async for piece in ask(bls)]
    assert len(world.calls) == 1  # nothing is left to abort


async def test_a_stream_that_ends_before_its_answer_is_an_error(bls: Any, world: World) -> None:
    """Triton 2.51 leaves out an error that comes behind other responses."""
    world.responses = [said("ye"), Response(tensors=[])]
    pieces = ask(bls)
    assert (await anext(pieces)).text == "ye"
    with pytest.raises(EngineError, match="vlm: its answer broke off"):
        await anext(pieces)


async def test_an_error_past_the_deadline_is_a_timeout(bls: Any, world: World) -> None:
    """The engine keeps the deadline as well and may be the first to say so."""
    world.responses = [Response("deadline_ms: 1 ms have passed")]
    with pytest.raises(EngineTimeout, match="deadline_ms: 1 ms have passed"):
        [piece async for piece in bls.generate("vlm", "?", images=[], sampling={}, stream=False, timeout=0.0)]


@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_leaving_a_tier_aborts_its_request_and_takes_what_still_comes(bls: Any, world: World, how: str) -> None:
    world.responses = [said("a"), said("b"), said("c")]
    world.let = threading.Semaphore(1)
    pieces = ask(bls)
    assert (await anext(pieces)).text == "a"
    if how == "closed":
        await pieces.aclose()
    else:
        task = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(0.05)
    first, abort = world.calls
    assert abort["parameters"] == {"abort": first["request_id"]}
    assert abort["model_name"] == "vlm"
    world.let.release(5)
    await asyncio.sleep(0.05)
    assert world.taken == 3
    assert not any(bls._abandoned.values())


async def test_tiers_that_never_come_back_cannot_use_up_all_threads(
    bls: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["bls_engine"], "GRACE_SECONDS", 0.0)
    world.responses = [said("a")]
    world.let = threading.Semaphore(0)
    for _ in range(8):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(ask(bls)), 0.01)
    with pytest.raises(EngineTimeout, match="8 earlier calls have not come back"):
        await anext(ask(bls))
    world.let.release(8)
    await asyncio.sleep(0.05)
    world.let.release()
    assert (await anext(ask(bls))).text == "a"
