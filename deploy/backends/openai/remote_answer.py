"""Reads what an OpenAI-compatible server answers, whole or in pieces, into what `vllm_answer` makes tensors of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remote_engines import ENGINES
from remote_settings import RemoteSettings

TOKEN_ID = "token_id:"
# How vocabularies write a space and a line's end (byte-level BPE and SentencePiece).
MARKS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})


class AnswerError(Exception):
    """The server's answer is not what it promised; one line."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability (natural). `rank` counts from 1, None where the server does not tell it."""

    logprob: float
    rank: int | None
    decoded_token: str | None


@dataclass
class Output:
    """What is new of one answer. `token_ids` has an entry a token, -1 where its id is unknown."""

    text: str = ""
    token_ids: Sequence[int] = ()
    logprobs: list[dict[int, TokenLogprob]] | None = None
    cumulative_logprob: float | None = None
    finish_reason: str | None = None


@dataclass
class Result:
    """What is new of a request's answers; attributes as `vllm.RequestOutput` has them, as far as they are used."""

    outputs: list[Output]
    prompt_token_ids: range = field(default_factory=lambda: range(0))
    finished: bool = False
    prompt_text: str | None = None


class Reader:
    """Reads the answers to one request.

    Args:
        settings: of the tier.
        wanted: whether log-probabilities were asked for.
        shown: whether the caller gets them; else only their sum.

    Attributes:
        input_tokens: that the server has read, as far as it has told.
    """

    def __init__(self, settings: RemoteSettings, wanted: bool, shown: bool) -> None:
        self._settings = settings
        self._api = ENGINES[settings.engine]
        self._wanted = wanted
        self._shown = shown
        self.input_tokens = 0
        self._counted = 0
        self._sum = 0.0

    def whole(self, data: Any) -> Result:
        """An answer that came at once. Raises AnswerError."""
        choices = _list(_object(data, "answer").get("choices"), "choices")
        if not choices:
            raise AnswerError("has no choices")
        usage = _usage(data)
        outputs = []
        for choice in sorted((_object(c, "choice") for c in choices), key=lambda c: int(c.get("index") or 0)):
            output = self._output(choice, "message")
            output.finish_reason = str(choice.get("finish_reason"))
            if self._wanted and output.logprobs is None:
                raise _lacking()
            if not output.token_ids and len(choices) == 1:
                output.token_ids = [-1] * usage[1]
            outputs.append(self._hide(output))
        return Result(outputs, range(usage[0]), True, data.get("prompt_text"))

    def piece(self, data: Any) -> Result | None:
        """A piece of a streamed answer; None where it brings nothing new. Raises AnswerError."""
        data = _object(data, "answer")
        input_tokens, made = _usage(data)
        self.input_tokens = max(self.input_tokens, input_tokens)
        choices = _list(data.get("choices"), "choices")
        output = self._output(_object(choices[0], "choice"), "delta") if choices else Output()
        if choices and choices[0].get("finish_reason") is not None:
            output.finish_reason = str(choices[0]["finish_reason"])
        if not output.token_ids and made > self._counted:
            output.token_ids = [-1] * (made - self._counted)
        self._counted += len(output.token_ids)
        if self._wanted and output.text and output.logprobs is None:
            raise _lacking()
        if output.cumulative_logprob is not None:
            self._sum += output.cumulative_logprob
            output.cumulative_logprob = self._sum
        text = data.get("prompt_text")
        new = output.text or output.token_ids or output.finish_reason or text
        if not new:
            return None
        return Result([self._hide(output)], range(self.input_tokens), output.finish_reason is not None, text)

    def _hide(self, output: Output) -> Output:
        if not self._shown:
            output.logprobs = None
        return output

    def _output(self, choice: Mapping[str, Any], part: str) -> Output:
        said = choice.get(part) if self._settings.api == "chat" else {"content": choice.get("text")}
        said = _object({} if said is None else said, part)
        if said.get("reasoning") or said.get("reasoning_content"):
            raise AnswerError("takes the model's thoughts out of its text; start the server without a reasoning parser")
        text = said.get("content") or ""
        if not isinstance(text, str):
            raise AnswerError(f"has a content that is no text: {type(text).__name__}")
        output = Output(text, [i for i in choice.get("token_ids") or () if isinstance(i, int)])
        entries = _entries(choice.get("logprobs"), self._settings.api)
        if self._wanted and entries is not None:
            ids = output.token_ids if len(output.token_ids) == len(entries) else [None] * len(entries)
            output.logprobs = [self._token(entry, known) for entry, known in zip(entries, ids, strict=True)]
            output.token_ids = output.token_ids or [next(iter(token)) for token in output.logprobs]
            output.cumulative_logprob = sum(next(iter(token.values())).logprob for token in output.logprobs)
        return output

    # A token's log-probabilities ------------------------------------------------------------------------------------
    def _token(self, entry: Any, known: int | None) -> dict[int, TokenLogprob]:
        """One position: the token that was said first, then the likeliest ones.

        A token whose id the server does not tell, and whose text is none of yes and no, gets a negative number.
        """
        said = _object(entry, "logprobs entry")
        tops = [_object(top, "top_logprobs entry") for top in _list(said.get("top_logprobs") or [], "top_logprobs")]
        values = [_number(top) for top in tops]
        words = dict(self._settings.words)
        first, text = self._name(said, words, known)
        value = _number(said)
        place = next((i for i, top in enumerate(tops) if top.get("token") == said.get("token")), None)
        found = {first: TokenLogprob(value, _rank(value, values, place), text)}
        unknown = -2
        for index, top in enumerate(tops):
            if index == place:
                continue
            token, text = self._name(top, words, None)
            if token == -1 or token in found:
                token, unknown = unknown, unknown - 1
            found[token] = TokenLogprob(values[index], 1 + sum(v > values[index] for v in values), text)
        return found

    def _name(self, entry: Mapping[str, Any], words: dict[str, int], known: int | None) -> tuple[int, str | None]:
        """Id (-1: unknown) and text of a token; takes what it finds out of `words`."""
        text = entry.get("token")
        if not isinstance(text, str):
            raise AnswerError("has a log-probability without its token")
        if text.startswith(TOKEN_ID) and text[len(TOKEN_ID) :].isdigit():
            number = int(text[len(TOKEN_ID) :])
            spelt = _spelt(entry.get("bytes"))
            if spelt is None or spelt.startswith(TOKEN_ID):  # vLLM spells out the token that was said, no other
                spelt = next((word for word, token in words.items() if token == number), None)
            return number, spelt
        if self._api.byte_tokens:
            text = text.translate(MARKS)
        if known is not None:
            return known, text
        # Several tokens have one text where a server strips the space before it.
        match = text if text in words else next((word for word in words if word.strip() == text), None)
        return (-1 if match is None else words.pop(match)), text


def _rank(value: float, values: Sequence[float], place: int | None) -> int | None:
    """Of the token that was said. One from outside the likeliest has no place in the list or, in vLLM's, stands before
    them all though it is the least likely: nobody knows its rank.
    """
    if place is None or (place == 0 and value <= min(values)):
        return None
    return 1 + sum(other > value for other in values)


def _entries(logprobs: Any, api: str) -> list[Any] | None:
    """The chat API's list, an entry a token; the completions API's columns are turned into it."""
    if logprobs is None:
        return None
    logprobs = _object(logprobs, "logprobs")
    if api == "chat":
        content = logprobs.get("content")
        return None if content is None else _list(content, "logprobs.content")
    tokens, values = (_list(logprobs.get(name), f"logprobs.{name}") for name in ("tokens", "token_logprobs"))
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(values) == len(tops):
        raise AnswerError("has log-probabilities of another number than tokens")
    return [
        {
            "token": token,
            "logprob": value,
            "top_logprobs": [{"token": text, "logprob": other} for text, other in (top or {}).items()],
        }
        for token, value, top in zip(tokens, values, tops, strict=True)
    ]


def _usage(data: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens read and written, 0 where they are not told."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return 0, 0
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (read if isinstance(read, int) else 0), (written if isinstance(written, int) else 0)


def _number(entry: Mapping[str, Any]) -> float:
    value = entry.get("logprob")
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value:
        raise AnswerError(f"has a log-probability that is no number: {value!r}")
    return float(value)


def _spelt(numbers: Any) -> str | None:
    try:
        return None if numbers is None else bytes(numbers).decode("utf-8", "replace")
    except (TypeError, ValueError):
        return None


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise AnswerError(f"is malformed: {what} is no JSON object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise AnswerError(f"is malformed: {what} is no list")
    return value


def _lacking() -> AnswerError:
    return AnswerError(
        "has no log-probabilities, though they were asked for; the server or its model does not give them"
    )
