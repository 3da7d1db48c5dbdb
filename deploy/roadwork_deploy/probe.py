"""Asks a served model real questions: health says ready even when a model's process has died, and the first question
that a process is asked is the slowest, so each is asked before callers are let in."""

from __future__ import annotations

import base64
import json
import queue
import time
from pathlib import Path
from typing import Any

import numpy as np

from roadwork_deploy.errors import StartError

STREET = Path(__file__).with_name("street.jpg")
"""A rendered street with works, 640 x 360 pixels: every stage has something to do."""
OPTIONS = json.dumps({"all_stages": True, "tiers": False}).encode()
"""Every stage of perception; tiers are not there yet and are asked by themselves when they join."""

ATTEMPTS = 3
"""A model that bounds its own time (reading signs) may miss the bound with its first question on a busy machine."""


class ProbeError(StartError):
    """A model that is loaded does not answer."""


def probe(client: Any, model: str, timeout: float) -> None:
    """Ask every instance of a model a question, so that none of them is cold for a caller.

    Args:
        client: `tritonclient.grpc.InferenceServerClient` without a stream of its own.
        model: name of a loaded model.
        timeout: seconds that the answers may take.

    Raises:
        ProbeError: an answer is missing, or is an error.
    """
    from tritonclient.utils import InferenceServerException

    try:
        config = client.get_model_config(model, client_timeout=timeout).config
        inputs = _inputs(config)
        if config.model_transaction_policy.decoupled:
            _ask_stream(client, model, inputs, timeout)
            return
        deadline = time.monotonic() + timeout
        # Triton takes its instances in turn. One after another: all at once would run into stages' deadlines.
        for _ in range(max(1, sum(group.count for group in config.instance_group))):
            for attempt in range(ATTEMPTS):
                try:
                    client.infer(model, inputs, client_timeout=max(0.1, deadline - time.monotonic()))
                    break
                except InferenceServerException:
                    if attempt == ATTEMPTS - 1 or time.monotonic() > deadline:
                        raise
    except InferenceServerException as error:
        raise ProbeError(f"{model} is loaded but does not answer: {error.message()}") from None


def probe_tier(client: Any, model: str, timeout: float, prompt: Path) -> None:
    """Ask a tier its own question about a picture; where it has no `prompt.json`, for one token.

    Args and errors as `probe`; `prompt` is where the tier's `prompt.json` would be. One that cannot be used is a
    `ProbeError` too.
    """
    import tritonclient.grpc as grpc

    texts: dict[str, str] = {"text_input": "?", "sampling_parameters": json.dumps({"max_tokens": 1})}
    if prompt.is_file():
        try:
            data = json.loads(prompt.read_text(encoding="utf-8"))
            texts = {
                "text_input": data["prompt"].replace("{findings}", ""),
                "sampling_parameters": json.dumps({**data["sampling"], "max_tokens": 1}),
                "image": base64.b64encode(sample_image()).decode(),
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProbeError(f"{prompt} cannot be used: {type(error).__name__}: {error}") from None
    inputs = []
    for name, text in texts.items():
        inputs.append(grpc.InferInput(name, [1], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array([text.encode()], dtype=object))
    _ask_stream(client, model, inputs, timeout)


def _ask_stream(client: Any, model: str, inputs: list[Any], timeout: float) -> None:
    """One request over a stream, as a decoupled model needs, to its last response.

    The stream is cancelled only where the model does not answer: Triton 2.51 can keep a request for ever whose stream
    is cancelled just as it is answered, and a model does not unload while one of its requests is kept.
    """
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    answered = False
    client.start_stream(lambda result, error: answers.put((result, error)), stream_timeout=timeout)
    try:
        client.async_stream_infer(model, inputs, enable_empty_final_response=True)
        while True:
            result, error = answers.get(timeout=timeout)
            if error is not None:
                raise ProbeError(f"{model} is loaded but does not answer: {error.message()}")
            answered = result.get_response().parameters["triton_final_response"].bool_param
            if answered:
                return
    except queue.Empty:
        raise ProbeError(f"{model} is loaded but does not answer within {timeout:g} s") from None
    finally:
        client.stop_stream(cancel_requests=not answered)


def sample_image() -> bytes:
    """A JPEG file that every stage finds something in."""
    return STREET.read_bytes()


def _inputs(config: Any) -> list[Any]:
    """Made-up inputs of a model's own signature."""
    import tritonclient.grpc as grpc
    from tritonclient.utils import triton_to_np_dtype

    batch = [1] if config.max_batch_size > 0 else []
    inputs = []
    asked = [tensor for tensor in config.input if not tensor.optional or tensor.name == "options"]
    for tensor in asked or config.input[:1]:  # a model whose inputs are all optional takes any one of them
        kind = _datatype(tensor.data_type)
        shape = batch + [max(1, dim) for dim in tensor.dims]
        made = grpc.InferInput(tensor.name, shape, kind)
        made.set_data_from_numpy(_value(tensor.name, kind, shape, triton_to_np_dtype(kind)))
        inputs.append(made)
    return inputs


def _datatype(number: int) -> str:
    """Name on the wire ("FP32", "BYTES") of a data type's number in a model configuration."""
    from tritonclient.grpc import model_config_pb2

    name = model_config_pb2.DataType.Name(number).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _value(name: str, kind: str, shape: list[int], dtype: Any) -> np.ndarray:
    """Zeros, or for our own string tensors something that they accept."""
    if kind != "BYTES":
        return np.zeros(shape, dtype)
    content = sample_image() if name == "image" else OPTIONS if name == "options" else b""
    return np.full(shape, content, dtype=object)
