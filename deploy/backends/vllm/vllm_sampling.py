"""Checks a caller's sampling parameters by name, type and range, before anything of them reaches the engine."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from vllm_request import RequestError

# What cannot be set from outside: how answers are handed over is this backend's own affair.
REFUSED = frozenset({"output_kind", "skip_clone", "output_text_buffer_length", "stream_interval", "flat_logprobs"})
INTEGERS: Mapping[str, tuple[float, float]] = {
    "n": (1, 64),
    "top_k": (-1, math.inf),
    "seed": (-(2**63), 2**63 - 1),
    "max_tokens": (1, math.inf),
    "min_tokens": (0, math.inf),
    "logprobs": (-1, math.inf),
    "prompt_logprobs": (-1, math.inf),
    "thinking_token_budget": (-1, math.inf),
}
NUMBERS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, math.inf),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0, math.inf),
}
SWITCHES = frozenset(
    {
        "ignore_eos",
        "detokenize",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "include_stop_str_in_output",
        "skip_reading_prefix_cache",
    }
)
TOKEN_LISTS = frozenset({"allowed_token_ids", "stop_token_ids", "logprob_token_ids"})
TEXT_LISTS = frozenset({"stop", "bad_words"})
OBJECTS = frozenset({"logit_bias", "structured_outputs", "extra_args"})
STRUCTURED = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


def check_sampling(given: Mapping[str, Any], known: Collection[str], stream: bool) -> dict[str, Any]:
    """The parameters in the types that vLLM takes; numbers may come as text, as they do from Triton's HTTP.

    Args:
        given: name -> value as a caller wrote it.
        known: names that the installed vLLM has.
        stream: whether answers are streamed.

    Raises:
        RequestError: begins with "sampling_parameters.<name>:".
    """
    names = sorted(name for name in known if not name.startswith("_") and name not in REFUSED)
    checked = {}
    for name, value in given.items():
        if name not in names:
            raise fail(name, f"is unknown{_near(name, names)}" if name not in REFUSED else "cannot be set here")
        checked[name] = None if value is None else _value(name, value)
    if stream and (checked.get("n") or 1) > 1:
        raise fail("n", "can only be 1 when stream is true: a response does not say which answer it continues")
    return {name: value for name, value in checked.items() if value is not None or name == "max_tokens"}


def fail(name: str, problem: str) -> RequestError:
    return RequestError(f"sampling_parameters.{name}: {problem}")


def _near(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"


def _value(name: str, value: Any) -> Any:
    if name in INTEGERS:
        return _number(name, value, INTEGERS[name], whole=True)
    if name in NUMBERS:
        return _number(name, value, NUMBERS[name], whole=False)
    if name in SWITCHES:
        return _switch(name, value)
    if name in TOKEN_LISTS:
        return _tokens(name, value)
    if name in TEXT_LISTS:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
            raise fail(name, f"is a text or a list of texts, got {value!r}")
        return items
    if name in OBJECTS:
        return _object(name, value)
    return value  # vLLM's own check follows


def _number(name: str, value: Any, bounds: tuple[float, float], whole: bool) -> Any:
    what = "a whole number" if whole else "a number"
    try:
        number = int(value) if whole else float(value)
        if isinstance(value, bool) or not math.isfinite(number) or (isinstance(value, float) and number != value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise fail(name, f"is {what}, got {value!r}") from None
    low, high = bounds
    if not low <= number <= high:
        limits = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise fail(name, f"is {what} of {limits}, got {value!r}")
    return number


def _switch(name: str, value: Any) -> bool:
    spelled = {"true": True, "false": False}.get(str(value).lower())
    if spelled is None:
        raise fail(name, f"is true or false, got {value!r}")
    return spelled


def _tokens(name: str, value: Any) -> list[int]:
    if isinstance(value, str):
        value = _json(name, value)
    whole = isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value)
    if not whole or (not value and name == "allowed_token_ids"):
        raise fail(name, f"is a list of token ids, got {value!r}")
    return list(value)


def _object(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = _json(name, value)
    if not isinstance(value, dict):
        raise fail(name, f"is a JSON object or the text of one, got {value!r}")
    if name == "structured_outputs" and sum(value.get(key) is not None for key in STRUCTURED) != 1:
        raise fail(name, f"has exactly one of {', '.join(STRUCTURED)}, got {', '.join(value) or 'none'}")
    return value


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fail(name, f"is not JSON ({error})") from None
