"""The cascade's `Engine` over Triton's business logic scripting (BLS)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import triton_python_backend_utils as pb_utils
from roadwork_cascade.engine import EngineError, EngineTimeout, Piece, error_from_message
from tier_call import TierCall

AnyFuture: TypeAlias = "asyncio.Future[Any] | Future[Any]"

# A call that hangs keeps its thread for good. Without a limit, a probe every few seconds would use up all threads.
MOST_ABANDONED = 8

# Seconds. A call that was given up because its caller has left comes back soon: only older ones hang.
GRACE_SECONDS = 5.0

# Seconds. A process that dies may take calls with it that never come back. So a model that is refused for hanging calls
# is asked once again after so long, then after twice as long, and so on; once it answers, calls given up longer ago are
# taken for lost.
LOST_SECONDS = 60.0

# A call holds a thread until its model has answered, a tier's as long as the tier speaks, also after the cascade gave
# it up. Threads are made when they are needed.
THREADS = 256

# Bytes. A canvas has 1.2 million, and every stage is asked with it.
WORTH_KEEPING = 1 << 17


class BlsEngine:
    """Asks other models of the same server. A call given up goes on in the server: BLS cannot take it back."""

    def __init__(self) -> None:
        self._abandoned: defaultdict[str, dict[AnyFuture, float]] = defaultdict(dict)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bls")

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> dict[str, np.ndarray]:
        """See `roadwork_cascade.engine.Engine`. The cascade bounds the waiting: BLS knows only queue timeouts."""
        self._refuse_abandoned(model)
        request = pb_utils.InferenceRequest(
            model_name=model,
            requested_output_names=list(outputs),
            inputs=[_tensor(name, array) for name, array in inputs.items()],
            # Else a model on a GPU leaves its output there, where NumPy cannot read it.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        # `async_exec` does the same with more turns of the loop, in an executor that is sized for the cores.
        call = self._threads.submit(request.exec)
        try:
            response = await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            # The call itself cannot be taken back, and only its own end tells that its thread is free again.
            self._give_up(model, call)
            raise
        except pb_utils.TritonModelException as error:
            raise error_from_message(model, str(error)) from None
        if response.has_error():
            raise error_from_message(model, response.error().message())
        self._answers(model)
        return {tensor.name(): _array(tensor) for tensor in response.output_tensors()}

    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        images: Sequence[bytes],
        sampling: Mapping[str, Any],
        stream: bool,
        timeout: float,
    ) -> AsyncIterator[Piece]:
        """See `roadwork_cascade.engine.Engine`."""
        self._refuse_abandoned(model)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | EngineError | None] = asyncio.Queue()

        def hand(piece: Piece | EngineError | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it who asked
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        call = TierCall(model, prompt, images, sampling, stream, timeout)
        running = loop.run_in_executor(self._threads, call.run, hand)
        ended = False
        try:
            while (piece := await pieces.get()) is not None:
                if isinstance(piece, EngineError):
                    ended = True
                    raise piece
                yield piece
            ended = True
            self._answers(model)
        finally:
            if not ended and not running.done():
                self._give_up(model, running)
                loop.run_in_executor(self._threads, call.stop).add_done_callback(_fetched)

    def close(self) -> None:
        """Let go of the threads without waiting for calls that hang."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _refuse_abandoned(self, model: str) -> None:
        now = time.monotonic()
        hanging = [since for since in list(self._abandoned[model].values()) if now - since >= GRACE_SECONDS]
        more = len(hanging) - MOST_ABANDONED
        if more >= 0 and now - max(hanging) < GRACE_SECONDS + LOST_SECONDS * 2 ** min(more, 16):
            raise EngineTimeout(f"{model}: {len(hanging)} earlier calls have not come back yet")

    def _give_up(self, model: str, call: AnyFuture) -> None:
        self._abandoned[model][call] = time.monotonic()
        call.add_done_callback(self._returned(model))

    def _answers(self, model: str) -> None:
        calls = self._abandoned[model]
        lost = time.monotonic() - LOST_SECONDS
        for call, since in list(calls.items()):  # calls that come back leave it from threads of their own
            if since < lost:
                calls.pop(call, None)

    def _returned(self, model: str) -> Callable[[AnyFuture], None]:
        def forget(call: AnyFuture) -> None:
            self._abandoned[model].pop(call, None)
            _fetched(call)

        return forget


class Answered(np.ndarray):
    """A model's output in shared memory; handed on to another model it is not copied there again."""

    tensor: Any = None


def _array(tensor: Any) -> np.ndarray:
    array = tensor.as_numpy()
    if array.nbytes < WORTH_KEEPING or array.dtype.hasobject:
        return array
    array = array.view(Answered)
    array.tensor = tensor
    return array


def _tensor(name: str, array: np.ndarray) -> Any:
    tensor = getattr(array, "tensor", None)  # views of an Answered have none: they are other values
    return tensor if tensor is not None and tensor.name() == name else pb_utils.Tensor(name, array)


def _fetched(call: AnyFuture) -> None:
    """Take a lost call's exception, or asyncio reports it."""
    if not call.cancelled():
        call.exception()
