"""Calls of several requests that go to a model together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from engine_double import POLICY, FakeEngine
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.engine import EngineError, EngineTimeout, InvalidImage, ModelUnavailable
from roadwork_cascade.gather import Gatherer
from roadwork_cascade.policy import parse_policy

SECONDS = 5.0


class Doubler:
    """y = 2 x for every image, once the test lets it; `refuses` are values that fail their whole batch."""

    def __init__(self, refuses: Mapping[float, Exception] | None = None) -> None:
        self.batches: list[list[float]] = []
        self.cancelled = 0
        self.timeouts: list[float] = []
        self._refuses = refuses or {}
        self._let = asyncio.Event()

    def let(self) -> None:
        self._let.set()

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> dict[str, np.ndarray]:
        values = [float(value) for value in inputs["x"].ravel()]
        self.batches.append(values)
        self.timeouts.append(timeout)
        try:
            await self._let.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        for value in values:
            if value in self._refuses:
                raise self._refuses[value]
        return {"y": 2 * inputs["x"]}

    def generate(self, *given: Any, **named: Any) -> Any:
        return ("generate", given, named)


def ask(gatherer: Gatherer, value: float, model: str = "double", timeout: float = 1.0) -> asyncio.Task[Any]:
    x = np.array([[value]], np.float32)
    return asyncio.create_task(gatherer.infer(model, {"x": x}, ["y"], timeout))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def answers(tasks: Sequence[asyncio.Task[Any]]) -> list[Any]:
    found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SECONDS)
    return [f if isinstance(f, BaseException) else float(f["y"].item()) for f in found]


async def test_a_lone_call_does_not_wait_and_what_comes_meanwhile_goes_together() -> None:
    engine = Doubler()
    gatherer = Gatherer(engine, most=4, batches=1)
    first = ask(gatherer, 1)
    await settle()
    assert engine.batches == [[1]]
    others = [ask(gatherer, value) for value in (2, 3, 4, 5, 6)]
    await settle()
    assert engine.batches == [[1]]
    engine.let()
    assert await answers([first, *others]) == [2, 4, 6, 8, 10, 12]
    assert engine.batches == [[1], [2, 3, 4, 5], [6]]


async def test_two_batches_are_under_way_unless_told_otherwise() -> None:
    engine = Doubler()
    gatherer = Gatherer(engine, most=8)
    tasks = [ask(gatherer, value) for value in range(6)]
    await settle()
    assert engine.batches == [[0], [1]]
    engine.let()
    assert await answers(tasks) == [0, 2, 4, 6, 8, 10]
    assert engine.batches[2] == [2, 3, 4, 5]


async def test_models_outputs_and_shapes_that_differ_do_not_mix() -> None:
    engine = Doubler()
    engine.let()
    gatherer = Gatherer(engine, most=8, batches=1)
    wide = asyncio.create_task(gatherer.infer("double", {"x": np.ones((1, 2), np.float32)}, ["y"], 1.0))
    tasks = [ask(gatherer, 1), ask(gatherer, 2, model="other"), ask(gatherer, 3)]
    assert await answers(tasks) == [2, 4, 6]
    assert (await wide)["y"].shape == (1, 2)
    assert engine.batches == [[1, 1], [1], [2], [3]]


async def test_what_has_no_batch_dimension_is_asked_as_it_comes() -> None:
    engine = Doubler()
    engine.let()
    gatherer = Gatherer(engine, most=8, batches=1)
    calls = (gatherer.infer("double", {"x": np.array([value])}, ["y"], 1.0) for value in (1.0, 2.0))
    found = await asyncio.gather(*calls)
    assert [f["y"].tolist() for f in found] == [[2.0], [4.0]]
    assert engine.batches == [[1], [2]]


async def test_an_image_that_fails_its_batch_fails_alone() -> None:
    bad = EngineError("INVALID_IMAGE: image 1 of 3: truncated")
    engine = Doubler({3: bad})
    gatherer = Gatherer(engine, most=4, batches=1)
    tasks = [ask(gatherer, value) for value in (1, 2, 3, 4)]
    await settle()
    engine.let()
    assert await answers(tasks) == [2, 4, bad, 8]
    assert engine.batches == [[1], [2, 3, 4], [2], [3], [4]]


@pytest.mark.parametrize("error", [EngineTimeout("late"), ModelUnavailable("gone")])
async def test_a_model_that_is_late_or_away_is_not_asked_again_image_by_image(error: Exception) -> None:
    engine = Doubler({2: error})
    gatherer = Gatherer(engine, most=4, batches=1)
    tasks = [ask(gatherer, value) for value in (1, 2, 3)]
    await settle()
    engine.let()
    assert await answers(tasks) == [2, error, error]
    assert engine.batches == [[1], [2, 3]]


async def test_a_batch_ends_when_all_its_callers_are_gone_and_not_before() -> None:
    engine = Doubler()
    gatherer = Gatherer(engine, most=4, batches=1)
    one, two, three = (ask(gatherer, value) for value in (1, 2, 3))
    await settle()
    one.cancel()
    await settle()
    assert (engine.cancelled, engine.batches) == (1, [[1], [2, 3]])
    two.cancel()
    await settle()
    assert engine.cancelled == 1
    three.cancel()
    await settle()
    assert engine.cancelled == 2


async def test_a_batch_ends_when_those_are_answered_who_did_not_leave() -> None:
    class HangsAlone(Doubler):
        """Refuses batches, and never answers 3."""

        async def infer(self, model: str, inputs: Any, outputs: Any, timeout: float) -> dict[str, np.ndarray]:
            if inputs["x"].size > 1:
                raise EngineError("too many")
            if inputs["x"].item() != 3:
                return {"y": 2 * inputs["x"]}
            return await super().infer(model, inputs, outputs, timeout)

    engine = HangsAlone()
    gatherer = Gatherer(engine, most=4, batches=1)
    tasks = [ask(gatherer, value) for value in (1, 2, 3)]
    assert await answers(tasks[:2]) == [2, 4]
    await settle()
    assert engine.cancelled == 0
    tasks[2].cancel()
    await settle()
    assert engine.cancelled == 1
    assert await answers([ask(gatherer, 5)]) == [10]


async def test_who_leaves_while_waiting_is_not_asked_for() -> None:
    engine = Doubler()
    gatherer = Gatherer(engine, most=4, batches=1)
    one, two, three = (ask(gatherer, value, timeout=value) for value in (1, 2, 3))
    await settle()
    three.cancel()
    await settle()
    engine.let()
    assert await answers([one, two]) == [2, 4]
    assert engine.batches == [[1], [2]]
    assert engine.timeouts == [1, 2]


async def test_a_batch_has_the_time_of_its_most_patient_caller_and_nothing_is_kept() -> None:
    engine = Doubler()
    gatherer = Gatherer(engine, most=4, batches=1)
    tasks = [ask(gatherer, value, timeout=value) for value in (1, 3, 2)]
    await settle()
    engine.let()
    await answers(tasks)
    await settle()
    assert engine.timeouts == [1, 3]
    assert not gatherer._kinds


async def test_an_output_that_is_not_of_the_batch_is_asked_for_image_by_image() -> None:
    class Adder(Doubler):
        async def infer(self, model: str, inputs: Any, outputs: Any, timeout: float) -> dict[str, np.ndarray]:
            await super().infer(model, inputs, outputs, timeout)
            return {"y": inputs["x"].sum(keepdims=True)}

    engine = Adder()
    gatherer = Gatherer(engine, most=4, batches=1)
    tasks = [ask(gatherer, value) for value in (1, 2, 3)]
    await settle()
    engine.let()
    assert await answers(tasks) == [1, 2, 3]


async def test_a_model_that_takes_fewer_images_is_asked_for_as_many() -> None:
    class Small(Doubler):
        async def infer(self, model: str, inputs: Any, outputs: Any, timeout: float) -> dict[str, np.ndarray]:
            found = await super().infer(model, inputs, outputs, timeout)
            if inputs["x"].size > 2:
                raise EngineError(
                    f"{model}: [request id: <id_unknown>] inference request batch-size must be <= 2 for '{model}'"
                )
            return found

    engine = Small()
    gatherer = Gatherer(engine, most=4, batches=1)
    tasks = [ask(gatherer, value) for value in range(9)]
    await settle()
    engine.let()
    assert await answers(tasks) == [2 * value for value in range(9)]
    assert engine.batches == [[0], [1, 2, 3, 4], [1], [2], [3], [4], [5, 6], [7, 8]]


async def test_tiers_are_asked_as_without_it() -> None:
    found: Any = Gatherer(Doubler(), most=2).generate(
        "tier", "prompt", images=[b"x"], sampling={}, stream=True, timeout=1.0
    )
    assert found == ("generate", ("tier", "prompt"), {"images": [b"x"], "sampling": {}, "stream": True, "timeout": 1.0})


@pytest.mark.parametrize(("most", "batches"), [(1, 2), (2, 0)])
def test_numbers_that_make_no_batch_are_refused(most: int, batches: int) -> None:
    with pytest.raises(ValueError, match="batches are of 2 images or more"):
        Gatherer(Doubler(), most, batches)


class Batching(FakeEngine):
    """Answers a row for every image, and refuses the batch of an image that cannot be read."""

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> dict[str, np.ndarray]:
        found = await super().infer(model, inputs, outputs, timeout)
        given = next(iter(inputs.values()))
        if given.dtype.hasobject and b"broken" in given.ravel().tolist():
            raise EngineError("INVALID_IMAGE: truncated")
        return {name: np.repeat(array, given.shape[0], 0) for name, array in found.items()}


async def test_a_crowd_gets_the_verdicts_that_each_would_get_alone() -> None:
    engine = Batching()
    engine.faults["glance"] = 0.01
    alone = await Cascade(parse_policy(POLICY), engine).run(b"an image", all_stages=True)
    engine.inputs.clear()
    cascade = Cascade(parse_policy(POLICY), Gatherer(engine, most=8))
    images = [b"an image"] * 6 + [b"broken"] + [b"an image"] * 3
    crowd = (cascade.run(image, all_stages=True) for image in images)
    verdicts = await asyncio.gather(*crowd, return_exceptions=True)
    assert isinstance(verdicts.pop(6), InvalidImage)
    for verdict in verdicts:
        assert isinstance(verdict, dict)
        assert (verdict["probability"], verdict["status"]) == (alone["probability"], "ok")
    assert max(next(iter(given.values())).shape[0] for given in engine.inputs) == 8
