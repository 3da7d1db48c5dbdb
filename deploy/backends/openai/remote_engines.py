"""What each engine's API takes: names of sampling parameters, and what it has to be told so that nothing is changed.

Written against vLLM 0.32, SGLang 0.5.23 and LMDeploy 0.18; `openai` is what any server with that API takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

COMMON: tuple[str, ...] = (
    "temperature",
    "top_p",
    "max_tokens",
    "seed",
    "stop",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
)
VLLM: tuple[str, ...] = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "ignore_eos",
    "min_tokens",
    "stop_token_ids",
    "bad_words",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "logprob_token_ids",
    "thinking_token_budget",
)
SGLANG: tuple[str, ...] = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "ignore_eos",
    "min_tokens",
    "stop_token_ids",
    "skip_special_tokens",
)
LMDEPLOY: tuple[str, ...] = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
)
# Turned into other fields of the request, on every engine.
TURNED = ("logprobs", "structured_outputs", "allowed_token_ids")


@dataclass(frozen=True)
class EngineApi:
    """One engine's API.

    Attributes:
        fields: sampling parameter -> field of the request's body.
        neutral: fields that are sent where the caller says nothing: a server's own defaults (a model's
            generation_config.json among them) would change answers.
        always: fields of every request to the chat API.
        continues: fields that have it go on with an answer that has begun; None: it cannot.
        token_ids: the answer names tokens by id, not only by their text.
        allows: it knows `allowed_token_ids`.
        structured: it takes vLLM's `structured_outputs`; the others `response_format`.
        usage: fields of stream_options.
        byte_tokens: tokens come as the vocabulary writes them, a space as a mark.
    """

    fields: Mapping[str, str]
    neutral: Mapping[str, Any] = field(default_factory=dict)
    always: Mapping[str, Any] = field(default_factory=dict)
    continues: Mapping[str, Any] | None = None
    token_ids: bool = False
    allows: bool = False
    structured: bool = False
    usage: Mapping[str, bool] = field(default_factory=lambda: {"include_usage": True})
    byte_tokens: bool = False

    @property
    def names(self) -> list[str]:
        """Sampling parameters that it takes."""
        return [*self.fields, *TURNED]


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in (*COMMON, *names)}


NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
NO_PENALTY = {"presence_penalty": 0.0, "frequency_penalty": 0.0}

ENGINES: Mapping[str, EngineApi] = {
    "vllm": EngineApi(
        fields=_same(*VLLM),
        neutral={**NEUTRAL, **NO_PENALTY, "top_k": 0},
        continues={"add_generation_prompt": False, "continue_final_message": True},
        token_ids=True,
        allows=True,
        structured=True,
        usage={"include_usage": True, "continuous_usage_stats": True},
    ),
    "sglang": EngineApi(
        fields=_same(*SGLANG),
        neutral={**NEUTRAL, **NO_PENALTY, "top_k": -1},
        always={"separate_reasoning": False},
        continues={"continue_final_message": True},
        usage={"include_usage": True, "continuous_usage_stats": True},
    ),
    "lmdeploy": EngineApi(
        fields={**_same(*LMDEPLOY), "min_tokens": "min_new_tokens"},
        neutral={**NEUTRAL, "top_k": 0},
        byte_tokens=True,
    ),
    "openai": EngineApi(fields=_same()),
}
