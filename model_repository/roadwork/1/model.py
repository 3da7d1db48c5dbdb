"""Triton's side of the cascade: requests in, verdicts out. What is decided is in `roadwork_cascade`."""

from __future__ import annotations

import asyncio
import gc
import locale
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from bls_engine import BlsEngine
from roadwork_cascade.verdict import verdict_bytes
from service import count, ends_with_caller, explain, load_cascade, read_request
from verdict_metrics import Metrics


class TritonPythonModel:
    """One instance: a cascade with its own breakers.

    It serves one request at a time, or as many as the parameter `requests` says. Then each is answered when it is
    ready, and Triton counts as computing what passes until the next one can be taken.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the policy. Raises `PolicyError`, which Triton shows as the reason why the model did not load."""
        # The stub starts in an ASCII locale, in which words read on signs could not be logged.
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        self._engine = BlsEngine()
        self._cascade = load_cascade(args["model_repository"], args["model_config"], self._engine)
        self._metrics = Metrics(instance=args["model_instance_name"])
        requests = count(args["model_config"], "requests") or 1
        self._slots = asyncio.Semaphore(requests) if requests > 1 else None
        self._running: set[asyncio.Task[None]] = set()  # the loop itself does not keep its tasks
        gc.freeze()  # what was imported stays: collections need not walk through it in the middle of requests

    async def execute(self, requests: list[Any]) -> list[Any] | None:
        """A response for each request; one that fails never takes another with it."""
        if self._slots is None:
            return list(await asyncio.gather(*(self._answer(request) for request in requests)))
        for request in requests:
            await self._slots.acquire()
            task = asyncio.create_task(self._answer_later(request, request.get_response_sender()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        async with self._slots:  # Triton hands on the next request when this returns
            return None

    def finalize(self) -> None:
        """Let go of the threads without waiting for calls that hang."""
        self._engine.close()
        self._metrics.close()

    async def _answer_later(self, request: Any, sender: Any) -> None:
        try:
            # Tensors are held until they are sent; see roadwork_stream, which says why.
            tensors, error = await self._tensors(request)
            response = pb_utils.InferenceResponse(tensors) if error is None else pb_utils.InferenceResponse(error=error)
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            assert self._slots is not None
            self._slots.release()

    async def _answer(self, request: Any) -> Any:
        tensors, error = await self._tensors(request)
        return pb_utils.InferenceResponse(tensors) if error is None else pb_utils.InferenceResponse(error=error)

    async def _tensors(self, request: Any) -> tuple[list[Any], Any]:
        """The outputs and None, or nothing and the error."""
        try:
            verdict = await self._run(request)
        except (Exception, asyncio.CancelledError) as error:
            message, code, outcome = explain(error)
            self._metrics.count_error(outcome)
            return [], pb_utils.TritonError(message, code)
        self._metrics.count(verdict, self._cascade.breakers.states())
        probability = np.array([verdict["probability"]], dtype=np.float32)
        text = np.array([verdict_bytes(verdict)], dtype=np.object_)
        return [pb_utils.Tensor("probability", probability), pb_utils.Tensor("verdict", text)], None

    async def _run(self, request: Any) -> dict[str, Any]:
        """The verdict on a request, or `CancelledError` soon after its caller has gone."""
        image, options = read_request(request, self._cascade)
        with ends_with_caller(request):
            return await self._cascade.decide(image, options)
