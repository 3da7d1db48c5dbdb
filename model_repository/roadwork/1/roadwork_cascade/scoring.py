"""A vision-language model's answer as a number: the share of yes in the probability of its yes and no tokens.

With m = sum over `yes` of exp(log-probability) and n the same over `no`, the raw answer is m / (m + n), and m + n is
the mass. Chance divided evenly is 0.5 at little mass too, which is why little mass is a question that failed, not 0.5.
The log-probabilities are those before any mask (vLLM's default `logprobs_mode: raw_logprobs`).
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema

from roadwork_cascade.engine import EngineError, Piece, TokenLogprob, first_line
from roadwork_cascade.prompts import Prompt

Logprobs = Mapping[int, TokenLogprob]
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class BrokenAnswer(EngineError):
    """A reasoner's text does not end in the JSON that it was asked for: worth one repair."""


@dataclass(frozen=True)
class Score:
    """Raw answer and mass, both in [0, 1], and a reasoner's thoughts where it told them."""

    raw: float
    mass: float
    thoughts: str | None = None


@dataclass
class Said:
    """All that a tier has said in one call."""

    text: str = ""
    logprobs: list[dict[int, TokenLogprob]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, piece: Piece) -> None:
        """Take in the next piece."""
        self.text += piece.text
        self.logprobs += piece.logprobs
        self.input_tokens = max(self.input_tokens, piece.input_tokens)
        self.output_tokens += piece.output_tokens


def score_scorer(said: Said, prompt: Prompt, minimum_mass: float) -> Score:
    """Read the one token of a scorer. Raises `EngineError` where the question failed."""
    if not said.logprobs:
        raise EngineError("the answer came without log-probabilities")
    return _share(said.logprobs[0], prompt, minimum_mass)


def score_reasoner(said: Said, prompt: Prompt, minimum_mass: float) -> Score:
    """Read a reasoner's boolean. Raises `BrokenAnswer` for text that is not as asked, else `EngineError`."""
    answer = _read_answer(said.text, prompt)
    if not said.logprobs:
        raise EngineError("the answer came without log-probabilities")
    score = _share(said.logprobs[_token_at(said, answer)], prompt, minimum_mass)
    return Score(score.raw, score.mass, answer.thoughts)


def score_repair(said: Said, repaired: Said, prompt: Prompt, minimum_mass: float) -> Score:
    """Read the one token of a repair; the thoughts are those of the broken answer. Raises `EngineError`."""
    score = score_scorer(repaired, prompt, minimum_mass)
    return Score(score.raw, score.mass, _marked_thoughts(said.text, prompt))


def repair_prompt(text: str, said: str, prompt: Prompt) -> str:
    """The prompt, what was said, and the beginning of the answer that is asked for again."""
    if prompt.thinking is not None and prompt.thinking[1] not in said:
        said += prompt.thinking[1]  # it ran out of tokens amid its thoughts
    return f"{text}{said}{prompt.repair}"


def _share(token: Logprobs, prompt: Prompt, minimum_mass: float) -> Score:
    """Tokens that are not in the list count 0: they are less likely than any that is."""
    yes = math.fsum(_probability(token[i]) for i in {*prompt.yes.values()} if i in token)
    no = math.fsum(_probability(token[i]) for i in {*prompt.no.values()} if i in token)
    mass = yes + no
    if not mass > 0.0:
        likeliest = max(token.values(), key=lambda entry: entry.logprob, default=None)
        instead = "" if likeliest is None else f"; the likeliest is {likeliest.text[:20]!r}"
        raise EngineError(f"it answered neither yes nor no: none of their tokens is among {len(token)}{instead}")
    if mass < minimum_mass:
        raise EngineError(f"it answered neither yes nor no: their mass is {mass:.3f}, under {minimum_mass:g}")
    return Score(yes / mass, min(mass, 1.0))


def _probability(token: TokenLogprob) -> float:
    if math.isnan(token.logprob) or token.logprob > 1e-3:
        raise EngineError(f"a log-probability must be at most 0, got {token.logprob}")
    return math.exp(min(token.logprob, 0.0))


@dataclass(frozen=True)
class _Answer:
    """Where the JSON's boolean stands: the key begins at `key`, the value at `value`, and it ends at `end`."""

    key: int
    value: int
    end: int
    thoughts: str | None


def _read_answer(text: str, prompt: Prompt) -> _Answer:
    begin = 0
    if prompt.thinking is not None and prompt.thinking[1] in text:
        begin = text.rindex(prompt.thinking[1]) + len(prompt.thinking[1])
    brace = text.find("{", begin)
    if brace < 0:
        raise BrokenAnswer(f"its answer has no JSON: {first_line(text[begin:] or 'nothing', 80)}")
    try:
        data, _ = _DECODER.raw_decode(text, brace)
    except (ValueError, RecursionError) as error:
        raise BrokenAnswer(f"its answer is broken JSON ({error}): {first_line(text[brace:], 80)}") from None
    assert prompt.answer_field is not None, "checked when the prompt is read"
    wrong = next(_validator(json.dumps(prompt.answer_schema, sort_keys=True)).iter_errors(data), None)
    if wrong is not None:
        raise BrokenAnswer(f"its answer is not as asked: {wrong.json_path}: {first_line(wrong.message, 120)}")
    key, value, end = _place(text, brace, prompt.answer_field)
    thoughts = data.get(prompt.thoughts) if prompt.thoughts is not None else _marked_thoughts(text, prompt)
    return _Answer(key, value, end, thoughts if isinstance(thoughts, str) else None)


@functools.lru_cache(maxsize=32)
def _validator(schema: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(schema))


def _marked_thoughts(text: str, prompt: Prompt) -> str | None:
    """What stands between the marks; the first may be the prompt's last word, and the second still to come."""
    if prompt.thinking is None:
        return None
    before, _, _ = text.rpartition(prompt.thinking[1]) if prompt.thinking[1] in text else (text, "", "")
    return before.rpartition(prompt.thinking[0])[2].strip() or None


def _place(text: str, brace: int, name: str) -> tuple[int, int, int]:
    """Where a key of a sound JSON object begins, and where its value begins and ends.

    Only the object's own keys: the word may stand in a thought too. The last of equal keys, as `json` reads it.
    """
    found = None
    at = _skip(text, brace + 1)
    while text[at] != "}":
        begin = at
        key, at = _DECODER.raw_decode(text, at)
        value = _skip(text, _skip(text, at) + 1)
        _, at = _DECODER.raw_decode(text, value)
        if key == name:
            found = begin, value, at
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    assert found is not None, "the schema demands the key"
    return found


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _token_at(said: Said, answer: _Answer) -> int:
    """Index of the token in which the boolean begins.

    The tokens' own texts are put together and the key with its value is looked for there: offsets in the text alone
    would be wrong wherever a special token or half a character is left out of it.
    """
    tokens = [next(iter(entry.values())).text if entry else "" for entry in said.logprobs]
    spoken = "".join(tokens)
    anchor = said.text[answer.key : answer.end]
    # It may be there several times (in thoughts): the same one counted from the end.
    behind = said.text.count(anchor, answer.key + 1)
    place = len(spoken)
    for _ in range(behind + 1):
        place = spoken.rfind(anchor, 0, max(0, place + len(anchor) - 1))
        if place < 0:
            raise EngineError("its tokens do not spell its answer: no log-probabilities of the boolean")
    wanted = place + answer.value - answer.key
    for index, token in enumerate(tokens):
        wanted -= len(token)
        if wanted < 0:
            return index
    raise EngineError("its tokens end before the boolean")
