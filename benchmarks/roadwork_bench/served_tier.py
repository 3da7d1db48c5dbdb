"""A served vision-language tier as the cascade's `Engine`: over gRPC, with NVIDIA's vLLM backend's tensors."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.grpc.aio as grpc_aio
from roadwork_cascade.engine import EngineError, ModelUnavailable, Piece, TokenLogprob, error_from_message
from tritonclient.utils import InferenceServerException

FLAGS = (
    "exclude_input_in_output",
    "return_finish_reason",
    "return_logprobs",
    "return_num_input_tokens",
    "return_num_output_tokens",
)


class ServedTier:
    """Tiers of the server at `url` (HOST:PORT), for `roadwork_cascade.tier.TierRunner`."""

    def __init__(self, url: str) -> None:
        self._client = grpc_aio.InferenceServerClient(url)

    async def __aenter__(self) -> ServedTier:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> dict[str, np.ndarray]:
        """Only tiers are asked here."""
        raise ModelUnavailable(f"{model}: only tiers are served here")

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
        inputs = [
            _texts("text_input", [prompt.encode()]),
            _texts("sampling_parameters", [json.dumps(dict(sampling)).encode()]),
            _flag("stream", stream),
            *(_flag(name, True) for name in FLAGS),
        ]
        if images:
            inputs.append(_texts("image", [base64.b64encode(image) for image in images]))

        async def request() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": model, "inputs": inputs}

        try:
            async for result, error in self._client.stream_infer(request(), stream_timeout=timeout):
                if error is not None:
                    raise error_from_message(model, str(error.message()))
                yield _piece(model, result)
        except InferenceServerException as error:
            raise error_from_message(model, str(error.message())) from None


def _piece(model: str, result: Any) -> Piece:
    try:
        tokens = json.loads(_first(result, "logprobs") or "null") or []
        return Piece(
            text=str(_first(result, "text_output") or ""),
            logprobs=[{int(token): _logprob(entry) for token, entry in one.items()} for one in tokens],
            input_tokens=int(_first(result, "num_input_tokens") or 0),
            output_tokens=int(_first(result, "num_output_tokens") or 0),
            finish_reason=_first(result, "finish_reason"),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise EngineError(f"{model}: unreadable answer: {type(error).__name__}: {error}") from None


def _logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    return TokenLogprob(float(entry["logprob"]), entry.get("rank"), entry.get("decoded_token") or "")


def _first(result: Any, name: str) -> Any:
    """The first element of an output, text decoded; None where it is empty."""
    array = result.as_numpy(name)
    if array is None or array.size == 0:
        return None
    value = array.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _texts(name: str, values: Sequence[bytes]) -> grpc.InferInput:
    tensor = grpc.InferInput(name, [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, np.object_))
    return tensor


def _flag(name: str, value: bool) -> grpc.InferInput:
    tensor = grpc.InferInput(name, [1], "BOOL")
    tensor.set_data_from_numpy(np.array([value]))
    return tensor
