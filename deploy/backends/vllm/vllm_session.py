"""Requests under way: each is prepared off the engine's loop, answered, and can be ended from four sides.

A request ends early when its caller cancels it, its `deadline_ms` passes, another request aborts it, or the engine
dies. Answers go to Triton through one thread of their own, so that neither the engine's loop nor its callers wait for
shared memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from vllm_answer import answer_tensors
from vllm_engine import Engine, EngineError
from vllm_images import Limits, check_images, decode_image
from vllm_request import Request, RequestError

POLL_SECONDS = 0.1


class Caller(Protocol):
    """The other end of one request; implemented over Triton's response sender."""

    def answer(self, tensors: dict[str, np.ndarray], final: bool) -> None: ...
    def fail(self, message: str, code: str) -> None: ...
    def cancelled(self) -> bool: ...


@dataclass(eq=False)
class _Run:
    caller: Caller
    request: Request
    request_id: str
    began: float = field(default_factory=time.monotonic)
    task: asyncio.Task | None = None
    why: str | None = None  # it is being ended
    tokens: int = 0

    def end(self, why: str) -> None:
        """End it; on the engine's loop."""
        if self.why is None and self.task is not None and not self.task.done():
            self.why = why
            self.task.cancel()


class Session:
    """All requests of one model.

    Args:
        engine: started.
        limits: of images.
        log: takes one line, for what a caller cannot put right.
        decode: makes of an image's base64 text what the engine takes.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        log: Callable[[str], None],
        decode: Callable[[bytes, int, Limits], Any] = decode_image,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._log = log
        self._decode = decode
        self._runs: set[_Run] = set()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._decoders = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "vllm-images")
        self._outgoing: queue.SimpleQueue = queue.SimpleQueue()
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._send, "vllm-answers"), (self._watch, "vllm-cancellations"))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, caller: Caller, request: Request, request_id: str) -> None:
        """Begin a request; returns at once. `request_id` is the caller's own, may be empty and need not be unique."""
        why_not = self._engine.why_not
        if why_not is not None:
            self._engine.died()
            self.post(caller.fail, f"unavailable: {why_not}", "UNAVAILABLE")
            return
        run = _Run(caller, request, request_id)
        with self._lock:
            self._runs.add(run)
        self._engine.loop.call_soon_threadsafe(self._begin, run)

    def abort(self, request_id: str) -> None:
        """End every request of that id."""
        with self._lock:
            found = [run for run in self._runs if run.request_id == request_id]
        for run in found:
            self._engine.loop.call_soon_threadsafe(run.end, "aborted: another request asked for it")

    def post(self, work: Callable[..., None], *arguments: Any) -> None:
        """Have the answering thread call `work`."""
        self._outgoing.put((work, arguments))

    def close(self, wait: float = 10.0) -> None:
        """End what is under way and the threads."""
        deadline = time.monotonic() + wait
        with self._lock:
            runs = list(self._runs)
        for run in runs:
            self._engine.loop.call_soon_threadsafe(run.end, "cancelled: the model is being unloaded")
        while time.monotonic() < deadline and self._runs:
            time.sleep(0.02)
        self._closed.set()
        self._outgoing.put(None)
        for thread in self._threads:
            thread.join(5)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    # On the engine's loop --------------------------------------------------------------------------------------------
    def _begin(self, run: _Run) -> None:
        run.task = self._engine.loop.create_task(self._serve(run))
        run.task.add_done_callback(lambda _: self._forget(run))
        if run.request.deadline_ms is not None:
            left = run.request.deadline_ms / 1000 - (time.monotonic() - run.began)
            text = f"deadline_ms: {run.request.deadline_ms:g} ms have passed"
            timer = self._engine.loop.call_later(max(0.0, left), run.end, text)
            run.task.add_done_callback(lambda _: timer.cancel())

    def _forget(self, run: _Run) -> None:
        with self._lock:
            self._runs.discard(run)
        if run.task is not None and run.task.cancelled():  # ended before its first step
            self.post(run.caller.fail, run.why or "cancelled", "CANCELLED")

    async def _serve(self, run: _Run) -> None:
        caller = run.caller
        try:
            await self._answer(run)
        except asyncio.CancelledError:
            why = run.why or "cancelled"
            made = f" ({run.tokens} tokens were made)" if run.request.stream else ""
            self.post(caller.fail, f"{why}{made}", "CANCELLED")
        except RequestError as error:
            self.post(caller.fail, str(error), "INVALID_ARG")
        except EngineError as error:
            self.post(caller.fail, f"unavailable: {error}", "UNAVAILABLE")
            if self._engine.why_not is not None:
                self._engine.died()
        except Exception as error:
            self._log(f"a request failed: {traceback.format_exc()}")
            self.post(caller.fail, f"internal: {type(error).__name__}: {error}", "INTERNAL")

    async def _answer(self, run: _Run) -> None:
        request = run.request
        check_images(request.images, self._limits)
        work = [
            self._engine.loop.run_in_executor(self._decoders, self._decode, text, index, self._limits)
            for index, text in enumerate(request.images)
        ]
        images = list(await asyncio.gather(*work))
        request.images = []  # the text is not needed any more
        echo = request.prompt if request.echo else ""
        last = None
        # Closed whatever happens: a request that is over must not keep the engine awake.
        async with contextlib.aclosing(self._engine.generate(f"{next(self._numbers)}", request, images)) as results:
            async for result in results:
                run.tokens += sum(len(output.token_ids) for output in result.outputs)
                if request.stream:
                    tensors = answer_tensors(result, request.returns, "")
                    self.post(run.caller.answer, tensors, result.finished)
                last = result
        if last is None:
            raise EngineError(f"the engine of {self._engine.name} gave no answer")
        if not request.stream:
            self.post(run.caller.answer, answer_tensors(last, request.returns, echo), True)

    # Threads ---------------------------------------------------------------------------------------------------------
    def _send(self) -> None:
        while (item := self._outgoing.get()) is not None:
            work, arguments = item
            try:
                work(*arguments)
            except Exception:
                self._log(f"an answer could not be sent: {traceback.format_exc()}")

    def _watch(self) -> None:
        """Triton does not call when a request is cancelled, and vLLM not when it dies: both are asked."""
        while not self._closed.wait(POLL_SECONDS):
            with self._lock:
                runs = list(self._runs)
            for run in runs:
                try:
                    if run.why is None and run.caller.cancelled():
                        self._engine.loop.call_soon_threadsafe(run.end, "cancelled by its caller")
                except Exception:  # it has ended in the meantime
                    continue
            if self._engine.why_not is not None:
                self._engine.died()
