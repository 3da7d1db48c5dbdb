"""A model's own chat template turned into `prompt.json`: the rendered prompt and the ids of its possible answers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from roadwork_cascade.prompts import DEFAULT_QUALITY

from .prompts import FINDINGS, REASONER_QUESTION, SCORER_QUESTION

Kind = Literal["scorer", "reasoner"]
PLACE = "{findings}"
YES = ("yes", "Yes", " yes", " Yes", "YES", " YES")
NO = ("no", "No", " no", " No", "NO", " NO")
THINKING = ("<think>", "</think>")
REPAIR = '\n{"roadwork":'
ANSWER_TOKENS, THINKING_TOKENS = 96, 1024
SCHEMA = {
    "type": "object",
    "properties": {"thoughts": {"type": "string"}, "roadwork": {"type": "boolean"}},
    "required": ["thoughts", "roadwork"],
    "additionalProperties": False,
}


class TierError(ValueError):
    """A model cannot become a tier; one line that says why."""


@dataclass(frozen=True)
class Speech:
    """A model's tokenizer and chat template, from wherever its folder keeps the template."""

    tokenizer: Any
    template: str

    def render(self, question: str, image: bool) -> str:
        """One turn of a user, with or without an image before the text, up to where the answer begins."""
        content: list[dict[str, str]] = [{"type": "image"}] if image else []
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, chat_template=self.template, tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as error:  # jinja raises what it likes
            raise TierError(f"its chat template cannot be rendered: {type(error).__name__}: {error}") from None

    def ids(self, text: str) -> list[int]:
        """Token ids of a text by itself, without marks around it."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def read_speech(weights: str) -> Speech:
    """The tokenizer and template of a folder or a hub id.

    Raises TierError where either is missing or unusable.
    """
    from transformers import AutoTokenizer

    if Path(weights).is_dir() and not any(
        (Path(weights) / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    ):
        raise TierError(f"{weights}: has no tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights)
    except Exception as error:  # transformers raises what it likes for a damaged or a missing tokenizer
        raise TierError(f"{weights}: its tokenizer cannot be read: {type(error).__name__}: {_first(error)}") from None
    template = tokenizer.chat_template or _template_file(weights)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise TierError(f"{weights}: has no chat template (chat_template.jinja, or in its processor or tokenizer)")
    return Speech(tokenizer, str(template))


def _template_file(weights: str) -> str | None:
    """The template that only the processor has: older folders keep it in chat_template.json."""
    folder = Path(weights)
    if (folder / "chat_template.json").is_file():
        return str(json.loads((folder / "chat_template.json").read_text(encoding="utf-8")).get("chat_template") or "")
    if folder.is_dir():
        return None
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(weights).chat_template
    except Exception as error:
        raise TierError(f"{weights}: its processor cannot be read: {type(error).__name__}: {_first(error)}") from None


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def single(speech: Speech, variants: tuple[str, ...]) -> dict[str, int]:
    """Of the ways of writing an answer, those that are one token, with its id."""
    found = {text: ids[0] for text in variants if len(ids := speech.ids(text)) == 1}
    return {text: token for text, token in found.items() if speech.tokenizer.decode([token]).strip() == text.strip()}


def beginnings(speech: Speech, word: str) -> dict[str, int]:
    """Every token that can begin `word` in JSON: a part of it from its start, with or without spaces before."""
    found: dict[str, int] = {}
    for token in sorted(speech.tokenizer.get_vocab().values()):
        text = speech.tokenizer.decode([token])
        bare = text.lstrip(" ")
        if bare and (word.startswith(bare) or (bare.startswith(word) and not bare[len(word)].isalnum())):
            found.setdefault(text, token)
    return found


def make_prompt(
    speech: Speech, kind: Kind, model: str, *, question: str | None = None, max_side: int = 448
) -> dict[str, Any]:
    """The content of `prompt.json`. `model` is what model.json names, `question` the text asked (default: by kind).

    Raises TierError: the template puts no image anywhere or loses the text, or an answer is never a single token.
    """
    question = question or (SCORER_QUESTION if kind == "scorer" else REASONER_QUESTION)
    if PLACE in question:
        raise TierError(f"the question must not contain {PLACE}: perception's findings are put before it")
    rendered = speech.render(PLACE + question, image=True)
    if rendered == speech.render(PLACE + question, image=False):
        raise TierError(f"{model}: its chat template has no placeholder for an image; is it a text-only model?")
    if rendered.count(PLACE + question) != 1:
        raise TierError(f"{model}: its chat template does not write the user's text as it is, once")
    thinks = rendered.rstrip().endswith(THINKING[0])
    prompt: dict[str, Any] = {
        "schema": 1,
        "kind": kind,
        "model": model,
        "template_sha256": hashlib.sha256(speech.template.encode()).hexdigest(),
        "prompt": rendered,
        "findings": FINDINGS,
        "image": {"from": "canvas", "max_side": max_side, "quality": DEFAULT_QUALITY},
    }
    if kind == "scorer":
        if thinks:
            raise TierError(f"{model}: its template opens a thought before the answer; use --kind reasoner")
        yes, no = single(speech, YES), single(speech, NO)
        for name, tokens in (("yes", yes), ("no", no)):
            if not tokens:
                raise TierError(f"{model}: its tokenizer has no single token for {name}; use --kind reasoner")
        allowed = sorted({*yes.values(), *no.values()})
        sampling = {"temperature": 0, "max_tokens": 1, "logprobs": 20, "allowed_token_ids": allowed}
        return prompt | {"sampling": sampling, "yes": yes, "no": no}
    yes, no = beginnings(speech, "true"), beginnings(speech, "false")
    if not yes or not no:
        raise TierError(f"{model}: its tokenizer has no token that begins true or false")
    schema = {"type": "object", "properties": {"roadwork": {"type": "boolean"}}, "required": ["roadwork"]}
    return prompt | {
        "sampling": {
            "temperature": 0,
            "max_tokens": THINKING_TOKENS if thinks else ANSWER_TOKENS,
            "logprobs": 20,
            "structured_outputs": json.dumps({"json": schema if thinks else SCHEMA}),
        },
        "answer": {"field": "roadwork", "thoughts": None if thinks else "thoughts"},
        "thinking": list(THINKING) if thinks else None,
        "repair": REPAIR,
        "yes": yes,
        "no": no,
    }
