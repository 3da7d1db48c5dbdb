"""Builds the tensors of a response out of what the engine gives. NumPy only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

# Outputs of NVIDIA's vLLM backend: name -> (data type, dims).
OUTPUTS: dict[str, tuple[str, list[int]]] = {
    "text_output": ("TYPE_STRING", [-1]),
    "finish_reason": ("TYPE_STRING", [-1]),
    "cumulative_logprob": ("TYPE_FP32", [-1]),
    "logprobs": ("TYPE_STRING", [-1]),
    "num_input_tokens": ("TYPE_UINT32", [1]),
    "num_output_tokens": ("TYPE_UINT32", [-1]),
}


def answer_tensors(result: Any, returns: frozenset[str], echo: str) -> dict[str, np.ndarray]:
    """Name -> array of one response.

    Args:
        result: `vllm.RequestOutput` whose outputs hold what is new since the last response (all of it, if it is the
            only one).
        returns: optional outputs that are wanted.
        echo: text before each answer, the prompt or nothing.

    Returns:
        Arrays of one entry an answer (`n` of the sampling parameters); `num_input_tokens` has one entry.
    """
    outputs: Sequence[Any] = result.outputs
    tensors = {"text_output": _texts([echo + output.text for output in outputs])}
    if "finish_reason" in returns:
        tensors["finish_reason"] = _texts([str(output.finish_reason) for output in outputs])
    if "cumulative_logprob" in returns:
        sums = [output.cumulative_logprob for output in outputs]
        tensors["cumulative_logprob"] = np.array([np.nan if s is None else s for s in sums], np.float32)
    if "logprobs" in returns:
        tensors["logprobs"] = _texts([logprobs_json(output.logprobs) for output in outputs])
    if "num_input_tokens" in returns:
        tensors["num_input_tokens"] = np.array([len(result.prompt_token_ids or ())], np.uint32)
    if "num_output_tokens" in returns:
        tensors["num_output_tokens"] = np.array([len(output.token_ids) for output in outputs], np.uint32)
    return tensors


def logprobs_json(logprobs: Sequence[Any] | None) -> str:
    """JSON list, an entry a token: `{"<token id>": {"logprob", "rank", "decoded_token"}}`; "null" where none were made.

    JSON has no minus infinity, which a token that cannot come has: it is written as -9999, as vLLM's own server does.
    """
    if logprobs is None:
        return "null"
    return json.dumps(
        [
            {
                str(token): {"logprob": _finite(p.logprob), "rank": p.rank, "decoded_token": p.decoded_token}
                for token, p in position.items()
            }
            for position in logprobs
        ]
    )


def empty_answer() -> dict[str, np.ndarray]:
    """The response of a request that only aborts another."""
    return {"text_output": _texts([""])}


def _finite(value: float) -> float:
    return max(float(value), -9999.0)


def _texts(texts: Sequence[str]) -> np.ndarray:
    # An object array made item by item: NumPy would cut trailing zero bytes off fixed-width ones.
    array = np.empty(len(texts), dtype=np.object_)
    for index, text in enumerate(texts):
        array[index] = text.encode("utf-8", "replace")
    return array
