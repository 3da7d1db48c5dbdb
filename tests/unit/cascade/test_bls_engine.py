"""The engine over BLS, against a stand-in for Triton's Python module."""

from __future__ import annotations

import asyncio
import sys
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
    def __init__(self, error: str = "") -> None:
        self._error = error

    def has_error(self) -> bool:
        return bool(self._error)

    def error(self) -> Any:
        return types.SimpleNamespace(message=lambda: self._error)

    def output_tensors(self) -> list[Tensor]:
        return [Tensor("presence", np.array([[0.5]], np.float32))]


class World:
    """What the stand-in server does with the next call."""

    def __init__(self) -> None:
        self.response: Response | Exception = Response()
        self.gate: asyncio.Event | None = None
        self.asked: dict[str, Any] = {}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    class InferenceRequest:
        def __init__(self, **asked: Any) -> None:
            world.asked = asked

        async def async_exec(self) -> Response:
            if world.gate is not None:
                await world.gate.wait()
            if isinstance(world.response, Exception):
                raise world.response
            return world.response

    fake = types.ModuleType("triton_python_backend_utils")
    fake.Tensor, fake.InferenceRequest, fake.TritonModelException = Tensor, InferenceRequest, TritonModelException  # type: ignore[attr-defined]
    fake.PreferredMemory, fake.TRITONSERVER_MEMORY_CPU = lambda kind, device: (kind, device), 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    monkeypatch.syspath_prepend(str(Path(engine_module.__file__).parents[1]))
    monkeypatch.delitem(sys.modules, "bls_engine", raising=False)
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


async def test_calls_that_never_come_back_cannot_use_up_all_threads(bls: Any, world: World) -> None:
    world.gate = asyncio.Event()
    for _ in range(8):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(bls.infer("scene", INPUTS, ["presence"], 1.0), 0.01)
    with pytest.raises(EngineTimeout, match="8 earlier calls have not come back"):
        await bls.infer("scene", INPUTS, ["presence"], 1.0)
    world.gate.set()
    await asyncio.sleep(0.01)
    assert (await bls.infer("scene", INPUTS, ["presence"], 1.0))["presence"].tolist() == [[0.5]]
