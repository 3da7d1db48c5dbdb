"""Triton's side of the cascade: requests in, verdicts out. What is decided is in `roadwork_cascade`."""

from __future__ import annotations

import asyncio
import json
import locale
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from bls_engine import BlsEngine
from model_versions import latest_versions
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.engine import InvalidImage, InvalidOptions
from roadwork_cascade.options import parse_options
from roadwork_cascade.policy import load_policy
from roadwork_cascade.verdict import verdict_bytes
from verdict_metrics import Metrics

# Each running BLS call holds a thread until its model answers, also after the cascade gave it up.
THREADS = 64

# How often a running request looks whether its caller still wants the answer. Triton tells only who asks.
CANCEL_POLL_SECONDS = 0.1


class TritonPythonModel:
    """One instance: a cascade with its own breakers. It serves one request at a time."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the policy. Raises `PolicyError`, which Triton shows as the reason why the model did not load."""
        # The stub starts in an ASCII locale, in which words read on signs could not be logged.
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        folder = args["model_repository"]
        parameters = json.loads(args["model_config"]).get("parameters", {})
        named = parameters.get("policy", {}).get("string_value", "")
        policy = load_policy(os.path.join(folder, named or "policy.yaml"))
        models = [name for stage, member in policy.members() for name in (stage.prepare, member.name) if name]
        versions = latest_versions(os.path.dirname(os.path.normpath(folder)), models)
        self._cascade = Cascade(policy, BlsEngine(), versions=versions)
        self._cascade.warm()
        self._metrics = Metrics(instance=args["model_instance_name"])
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="bls")

    async def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request; one that fails never takes another with it."""
        # BLS calls run in the loop's default executor, which is sized for the cores and would queue them.
        asyncio.get_running_loop().set_default_executor(self._threads)
        return list(await asyncio.gather(*(self._answer(request) for request in requests)))

    def finalize(self) -> None:
        """Let go of the threads without waiting for calls that hang."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._metrics.close()

    async def _answer(self, request: Any) -> Any:
        try:
            verdict = await self._run(request)
        except InvalidImage as error:
            return _error(str(error), pb_utils.TritonError.INVALID_ARG, self._metrics, "invalid_image")
        except InvalidOptions as error:
            return _error(str(error), pb_utils.TritonError.INVALID_ARG, self._metrics, "invalid_options")
        except asyncio.CancelledError:
            return _error("the request was cancelled", pb_utils.TritonError.CANCELLED, self._metrics, "cancelled")
        except Exception as error:
            pb_utils.Logger.log_error(f"roadwork: {type(error).__name__}: {error}")
            message = f"roadwork failed: {type(error).__name__}: {error}"
            return _error(message, pb_utils.TritonError.INTERNAL, self._metrics, "failed")
        self._metrics.count(verdict, self._cascade.breakers.states())
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("probability", np.array([verdict["probability"]], dtype=np.float32)),
                pb_utils.Tensor("verdict", np.array([verdict_bytes(verdict)], dtype=np.object_)),
            ]
        )

    async def _run(self, request: Any) -> dict[str, Any]:
        """The verdict on a request, or `CancelledError` soon after its caller has gone."""
        options = parse_options(_text(request, "options") or b"")
        image = _text(request, "image")
        if image is None:
            raise InvalidImage("INVALID_IMAGE: the tensor image holds nothing")
        deadline_ms = options.deadline_ms
        if request.timeout() > 0:  # microseconds; the caller gives up then
            deadline_ms = min(deadline_ms or self._cascade.policy.deadline_ms, request.timeout() / 1000.0)
        run = self._cascade.run(image, deadline_ms=deadline_ms, all_stages=options.all_stages)
        task = asyncio.ensure_future(run)
        while True:
            done, _ = await asyncio.wait({task}, timeout=CANCEL_POLL_SECONDS)
            if done:
                return task.result()
            if request.is_cancelled():
                task.cancel()
                await asyncio.wait({task})
                raise asyncio.CancelledError


def _text(request: Any, name: str) -> bytes | None:
    """The bytes of a STRING [1] tensor; None where the request has none."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    if values.size != 1:
        return None
    return values[0] if isinstance(values[0], bytes) else str(values[0]).encode()


def _error(message: str, code: int, metrics: Metrics, outcome: str) -> Any:
    metrics.count_error(outcome)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
