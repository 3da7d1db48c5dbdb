"""Reads one request: which tensors and parameters it has, what they mean, and what is wrong with them.

No Triton and no vLLM in here. A tensor comes in as a NumPy array (STRING: object array of bytes), the request's
parameters as the JSON text that Triton gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TensorOf = Callable[[str], "np.ndarray | None"]

# Inputs of NVIDIA's vLLM backend: name -> (data type, dims, optional).
INPUTS: Mapping[str, tuple[str, list[int], bool]] = {
    "text_input": ("TYPE_STRING", [1], False),
    "image": ("TYPE_STRING", [-1], True),
    "stream": ("TYPE_BOOL", [1], True),
    "sampling_parameters": ("TYPE_STRING", [1], True),
    "exclude_input_in_output": ("TYPE_BOOL", [1], True),
    "return_finish_reason": ("TYPE_BOOL", [1], True),
    "return_cumulative_logprob": ("TYPE_BOOL", [1], True),
    "return_logprobs": ("TYPE_BOOL", [1], True),
    "return_num_input_tokens": ("TYPE_BOOL", [1], True),
    "return_num_output_tokens": ("TYPE_BOOL", [1], True),
}
RETURNS = tuple(name for name in INPUTS if name.startswith("return_"))
# Request parameters that are ours; what else stands beside them may be sampling parameters.
OWN_PARAMETERS = ("deadline_ms", "abort")


class RequestError(ValueError):
    """The request cannot be answered as it is; the message begins with the field that is wrong."""


@dataclass(slots=True)
class Request:
    """What a caller wants.

    Attributes:
        prompt: rendered text, goes to the tokenizer as it is.
        images: base64 text of encoded files, not yet decoded.
        stream: a response for every new piece of text, else one at the end.
        echo: the prompt stands before the answer's text.
        sampling: parameters as the caller gave them, without `lora_name`.
        lora_name: adapter of `multi_lora.json`, or None.
        returns: which of `RETURNS` are wanted, without the prefix "return_".
        deadline_ms: of the whole request from its arrival, or None.
        abort: request id of another request of this model that is to be cancelled, or None.
    """

    prompt: str = ""
    images: list[bytes] = field(default_factory=list)
    stream: bool = False
    echo: bool = True
    sampling: dict[str, Any] = field(default_factory=dict)
    lora_name: str | None = None
    returns: frozenset[str] = frozenset()
    deadline_ms: float | None = None
    abort: str | None = None


def read_request(tensor: TensorOf, parameters: str) -> Request:
    """The request.

    Args:
        tensor: array of an input by its name, or None.
        parameters: the request's own, JSON text; empty for none.

    Raises:
        RequestError: a field is missing or malformed.
    """
    own = _own(parameters)
    request = Request(deadline_ms=_deadline(own.get("deadline_ms")), abort=_abort(own.get("abort")))
    if request.abort is not None:
        return request  # its other inputs mean nothing
    request.prompt = _text(tensor, "text_input")
    image = tensor("image")
    request.images = [] if image is None else [_bytes(item) for item in image.reshape(-1)]
    request.stream = _flag(tensor, "stream", False)
    exclude = _flag(tensor, "exclude_input_in_output", request.stream)
    if request.stream and not exclude:
        raise RequestError("exclude_input_in_output: cannot be false when stream is true")
    request.echo = not exclude
    request.sampling = _sampling(tensor, own)
    lora_name = request.sampling.pop("lora_name", None)
    if lora_name is not None and not isinstance(lora_name, str):
        raise RequestError(f"sampling_parameters.lora_name: is text, got {lora_name!r}")
    request.lora_name = lora_name
    request.returns = frozenset(name.removeprefix("return_") for name in RETURNS if _flag(tensor, name, False))
    return request


def _own(parameters: str) -> dict[str, Any]:
    try:
        data = json.loads(parameters or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"parameters: are not JSON ({error})") from None
    return data if isinstance(data, dict) else {}


def _deadline(value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise RequestError(f"parameters.deadline_ms: is a number of milliseconds over 0, got {value!r}")
    return number


def _abort(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise RequestError(f"parameters.abort: is the request_id of another request, got {value!r}")
    return value


def _text(tensor: TensorOf, name: str) -> str:
    array = tensor(name)
    if array is None or array.size == 0:
        raise RequestError(f"{name}: is missing")
    try:
        return _bytes(array.reshape(-1)[0]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{name}: is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _bytes(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def _flag(tensor: TensorOf, name: str, default: bool) -> bool:
    array = tensor(name)
    return default if array is None or array.size == 0 else bool(array.reshape(-1)[0])


def _sampling(tensor: TensorOf, own: Mapping[str, Any]) -> dict[str, Any]:
    """From the tensor; without it from the request's parameters, as NVIDIA's backend does."""
    if tensor("sampling_parameters") is None:
        # Triton's own parameters (triton_enable_empty_final_response and its like) are not for the sampler.
        return {k: v for k, v in own.items() if k not in OWN_PARAMETERS and not k.startswith(("triton_", "sequence_"))}
    text = _text(tensor, "sampling_parameters")
    try:
        data = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"sampling_parameters: is not JSON ({error})") from None
    if not isinstance(data, dict):
        raise RequestError(f"sampling_parameters: is a JSON object, got {text[:60]!r}")
    return data
