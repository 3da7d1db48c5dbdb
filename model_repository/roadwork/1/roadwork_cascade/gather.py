"""Puts calls of several requests to the same model into one, for models that compute a batch faster than its images.

Images of a cascade come one by one and leave at the pace of the slowest network. So behind it no other network ever has
more than an image or two waiting, and Triton's dynamic batcher nothing to put together. Here the images that wait
for the slowest one go on together.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from roadwork_cascade.engine import Engine, EngineError, EngineTimeout, ModelUnavailable, Piece

Arrays: TypeAlias = Mapping[str, np.ndarray]
Key: TypeAlias = tuple[str, tuple[str, ...], tuple[tuple[str, str, tuple[int, ...]], ...]]

# What Triton says of a batch over a model's max_batch_size.
_TOO_LARGE = re.compile(r"batch-size must be <= (\d+)")


@dataclass(eq=False)
class _Call:
    """One image's call. `answer` is cancelled when nobody waits for it any more."""

    inputs: Arrays
    timeout: float
    answer: asyncio.Future[dict[str, np.ndarray]]


@dataclass
class _Kind:
    """Calls that can go together, and the batches of them that are being computed."""

    waiting: list[_Call] = field(default_factory=list)
    under_way: set[asyncio.Task[None]] = field(default_factory=set)


class Gatherer:
    """An `Engine` that asks another one for several images at a time.

    A call waits only while `batches` of its kind are being computed: a lone request is never held back. What has come
    meanwhile goes together. A batch that fails is asked image by image, so that no image fails another one; one that
    takes too long, or whose model is not there, is not asked again.

    Args:
        engine: that is asked.
        most: images of a batch.
        batches: of the same kind, under way at a time: with two, one is on its way while the other is computed.
    """

    def __init__(self, engine: Engine, most: int, batches: int = 2) -> None:
        if most < 2 or batches < 1:
            raise ValueError(f"batches are of 2 images or more, and 1 or more at a time; got {most} and {batches}")
        self._engine, self._most, self._batches = engine, most, batches
        self._kinds: defaultdict[Key, _Kind] = defaultdict(_Kind)
        self._limits: dict[str, int] = {}  # of models that take fewer images, as they have said

    async def infer(self, model: str, inputs: Arrays, outputs: Sequence[str], timeout: float) -> dict[str, np.ndarray]:
        """See `Engine`. Inputs of one image with a batch dimension are gathered; others are asked as they come."""
        if any(array.ndim < 2 or array.shape[0] != 1 for array in inputs.values()):
            return await self._engine.infer(model, inputs, outputs, timeout)
        shapes = ((name, array.dtype.str, array.shape) for name, array in sorted(inputs.items()))
        key = (model, tuple(outputs), tuple(shapes))
        call = _Call(inputs, timeout, asyncio.get_running_loop().create_future())
        self._kinds[key].waiting.append(call)
        self._send(key)
        return await call.answer

    def generate(
        self,
        model: str,
        prompt: str,
        *,
        images: Sequence[bytes],
        sampling: Mapping[str, Any],
        stream: bool,
        timeout: float,
    ) -> AsyncIterator[Piece]:
        """See `Engine`. Tiers put their requests together themselves."""
        return self._engine.generate(
            model, prompt, images=images, sampling=sampling, stream=stream, timeout=timeout
        )  # fmt: skip

    def _send(self, key: Key) -> None:
        kind = self._kinds[key]
        most = self._limits.get(key[0], self._most)
        while len(kind.under_way) < self._batches:
            kind.waiting = [call for call in kind.waiting if not call.answer.done()]
            calls, kind.waiting = kind.waiting[:most], kind.waiting[most:]
            if not calls:
                break
            task = asyncio.create_task(self._ask(key, calls))
            kind.under_way.add(task)
            task.add_done_callback(lambda task: self._ended(key, task))
            _end_with_callers(task, calls)
        if not kind.waiting and not kind.under_way:
            del self._kinds[key]

    def _ended(self, key: Key, task: asyncio.Task[None]) -> None:
        self._kinds[key].under_way.discard(task)
        self._send(key)

    async def _ask(self, key: Key, calls: Sequence[_Call]) -> None:
        """Answer all calls. It is cancelled when all their callers are gone."""
        if len(calls) == 1:
            await self._ask_alone(key, calls[0])
            return
        model, outputs, _ = key
        try:
            inputs = {name: np.concatenate([call.inputs[name] for call in calls]) for name in calls[0].inputs}
            found = await self._engine.infer(model, inputs, outputs, max(call.timeout for call in calls))
            if any(array.ndim < 1 or array.shape[0] != len(calls) for array in found.values()):
                raise EngineError(f"{model}: an output is not of the batch")
        except (EngineTimeout, ModelUnavailable) as error:
            for call in calls:
                _fail(call, error)
        except Exception as error:
            if too_large := _TOO_LARGE.search(str(error)):
                self._limits[model] = max(1, int(too_large[1]))
            await asyncio.gather(*(self._ask_alone(key, call) for call in calls if not call.answer.done()))
        else:
            for row, call in enumerate(calls):
                if not call.answer.done():
                    call.answer.set_result({name: array[row : row + 1] for name, array in found.items()})

    async def _ask_alone(self, key: Key, call: _Call) -> None:
        model, outputs, _ = key
        try:
            found = await self._engine.infer(model, call.inputs, outputs, call.timeout)
        except Exception as error:
            _fail(call, error)
        else:
            if not call.answer.done():
                call.answer.set_result(found)


def _end_with_callers(task: asyncio.Task[None], calls: Sequence[_Call]) -> None:
    """Cancel the batch once none of its callers waits any more: what hangs is then known to hang."""

    def look(_: asyncio.Future[dict[str, np.ndarray]]) -> None:
        if all(call.answer.done() for call in calls):
            task.cancel()

    for call in calls:
        call.answer.add_done_callback(look)


def _fail(call: _Call, error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)
