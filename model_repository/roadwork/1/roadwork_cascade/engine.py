"""What the cascade needs of whatever runs the models, and how that may fail."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

INVALID_IMAGE = "INVALID_IMAGE: "
INVALID_OPTIONS = "INVALID_OPTIONS: "


class CascadeError(Exception):
    """Base of all that the cascade raises."""


class InvalidImage(CascadeError):
    """The image cannot be used. The message starts with `INVALID_IMAGE: `."""


class InvalidOptions(CascadeError):
    """The request's options cannot be used. The message starts with `INVALID_OPTIONS: `."""


class EngineError(CascadeError):
    """A model was asked and gave no usable answer. `reason` is the word for it in a verdict's `missing`."""

    reason = "error"


class ModelUnavailable(EngineError):
    """The model is not loaded."""

    reason = "unavailable"


class EngineTimeout(EngineError):
    """The model did not answer in time."""

    reason = "timed_out"


class RequestRefused(EngineError):
    """The model is well and does not take this very request, such as an image over its limit."""


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithm of a token's probability, its rank (1 is the likeliest) and its text."""

    logprob: float
    rank: int | None = None
    text: str = ""


@dataclass(frozen=True)
class Piece:
    """What a tier has just said.

    `logprobs`: an entry for each new token, the likeliest tokens there by id, the one that was said first; empty where
    none were asked for. `input_tokens`: of the whole request, as often as it is known. `output_tokens`: of this piece.
    """

    text: str
    logprobs: list[dict[int, TokenLogprob]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str | None = None


class Engine(Protocol):
    """Runs one model on one image."""

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> dict[str, np.ndarray]:
        """Return at least the named outputs.

        Arrays carry the batch dimension ([1, 640, 640, 3]) where the model has one. `image` is an object array of one
        `bytes`: [1, 1], but [1] for `text` members, which do not batch.

        Raise `EngineError`: `ModelUnavailable` for a model that is not loaded, `EngineTimeout` past `timeout` seconds.
        The cascade gives up by itself shortly after `timeout` and then cancels the call.
        """
        ...

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
        """Ask a vision-language tier: pieces as they come, a single one at the end where not `stream`.

        `prompt` is rendered, `images` are encoded files, `sampling` is what vLLM's `SamplingParams` takes. Closing the
        iterator, or cancelling who waits for it, stops the engine's work. Raises as `infer`, when it is iterated.
        """
        ...


# What BLS puts before the text of a model that is not loaded.
_BLS_PREFIX = re.compile(r"^Model \S+ - Error when running inference:\s*")
# How our vLLM backend begins what it says of a request's own image or prompt.
_REFUSED = re.compile(r"(image(\[\d+\])?|text_input): ")
_UNAVAILABLE = re.compile(r"is not ready|unknown model|no available versions|is not found|is not loaded", re.IGNORECASE)


def error_from_message(model: str, message: str) -> EngineError:
    """The `EngineError` for a server's error text: Triton 2.51 gives every BLS error the same code, so the text tells.

    An `INVALID_IMAGE` text is never taken for an unavailable model, whatever else it says.
    """
    text = _BLS_PREFIX.sub("", first_line(message))
    if INVALID_IMAGE not in message and _UNAVAILABLE.search(text):
        return ModelUnavailable(f"{model}: {text}")
    if _REFUSED.match(text):
        return RequestRefused(f"{model}: {text}")
    return EngineError(f"{model}: {text}")


def invalid_image(error: BaseException) -> InvalidImage | None:
    """The `InvalidImage` that an engine's error wraps, or None. Ensembles and BLS put their own words around it."""
    _, found, reason = str(error).partition(INVALID_IMAGE)
    return InvalidImage(INVALID_IMAGE + first_line(reason)) if found else None


def first_line(message: object, limit: int = 300) -> str:
    """The first line that says something: Python models append their traceback to the message."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return text if len(text) <= limit else text[: limit - 1] + "…"
