"""What `roadwork` and `roadwork_stream` share: a cascade out of the repository, and requests read for it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import triton_python_backend_utils as pb_utils
from bls_engine import BlsEngine
from model_versions import latest_versions
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.engine import InvalidImage, InvalidOptions
from roadwork_cascade.gather import Gatherer
from roadwork_cascade.options import Options, parse_options
from roadwork_cascade.policy import load_policy
from roadwork_cascade.prompts import Prompts

# How often a running request looks whether its caller still wants the answer. Triton tells only who asks.
CANCEL_POLL_SECONDS = 0.25


def load_cascade(folder: str, model_config: str, engine: BlsEngine) -> Cascade:
    """The cascade of the model `roadwork` in `folder`, by the parameters of `model_config` (JSON).

    `policy` names the policy, `perceiving` how many images are perceived at a time (empty: as many as come), `gather`
    how many of them a model is asked for in one call (see `Gatherer`; empty: one).
    Raises `PolicyError`, `PromptError` or `ValueError`, which Triton shows as the reason why the model did not load.
    """
    policy = load_policy(os.path.join(folder, parameter(model_config, "policy") or "policy.yaml"))
    repository = os.path.dirname(os.path.normpath(folder))
    prompts = Prompts(repository)
    for absent in prompts.check(policy):
        pb_utils.Logger.log_warn(f"roadwork: tier {absent} is not in the repository; it joins when it is there")
    gather = count(model_config, "gather") or 1
    models = [name for stage, member in policy.members() for name in (stage.prepare, member.name) if name]
    models += [tier.member.name for tier in policy.tiers]
    cascade = Cascade(
        policy,
        engine if gather == 1 else Gatherer(engine, gather),
        versions=latest_versions(repository, models),
        prompts=prompts,
        perceiving=count(model_config, "perceiving"),
    )
    cascade.warm()
    return cascade


def parameter(model_config: str, name: str) -> str:
    """A parameter of a model's configuration (JSON); empty where it has none."""
    return str(json.loads(model_config).get("parameters", {}).get(name, {}).get("string_value", "")).strip()


def count(model_config: str, name: str) -> int | None:
    """The same as a number of 1 or more; None where there is none. Raises `ValueError`."""
    text = parameter(model_config, name)
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"parameter {name} is {text!r}; it is a whole number of 1 or more")
    return int(text)


def read_request(request: Any, cascade: Cascade) -> tuple[bytes, Options]:
    """Image and options. Raises `InvalidImage` and `InvalidOptions`."""
    options = parse_options(_text(request, "options") or b"")
    image = _text(request, "image")
    if image is None:
        raise InvalidImage("INVALID_IMAGE: the tensor image holds nothing")
    if request.timeout() > 0:  # microseconds; the caller gives up then
        milliseconds = min(options.deadline_ms or cascade.policy.deadline_ms, request.timeout() / 1000.0)
        options = replace(options, deadline_ms=milliseconds)
    return image, options


@contextmanager
def ends_with_caller(request: Any) -> Iterator[None]:
    """Cancel the running task soon after the caller of its request has gone."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def look() -> None:
        nonlocal timer
        if request.is_cancelled():
            task.cancel()
        else:
            timer = loop.call_later(CANCEL_POLL_SECONDS, look)

    timer = loop.call_later(CANCEL_POLL_SECONDS, look)
    try:
        yield
    finally:
        timer.cancel()


def explain(error: BaseException) -> tuple[str, int, str]:
    """Message, Triton's error code and the outcome that metrics count, of whatever ended a request."""
    if isinstance(error, InvalidImage):
        return str(error), pb_utils.TritonError.INVALID_ARG, "invalid_image"
    if isinstance(error, InvalidOptions):
        return str(error), pb_utils.TritonError.INVALID_ARG, "invalid_options"
    if type(error).__name__ == "CancelledError":
        return "the request was cancelled", pb_utils.TritonError.CANCELLED, "cancelled"
    pb_utils.Logger.log_error(f"roadwork: {type(error).__name__}: {error}")
    return f"roadwork failed: {type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL, "failed"


def _text(request: Any, name: str) -> bytes | None:
    """The bytes of a STRING [1] tensor; None where the request has none."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    if values.size != 1:
        return None
    return values[0] if isinstance(values[0], bytes) else str(values[0]).encode()
