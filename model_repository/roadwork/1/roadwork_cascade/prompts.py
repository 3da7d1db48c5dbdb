"""`prompt.json` of a tier's folder: what a vision-language model is asked, and how its answer is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jsonschema

from roadwork_cascade.policy_parts import Policy, Tier
from roadwork_cascade.schema_check import FileError, first_problem

SCHEMA_PATH = Path(__file__).with_name("prompt.schema.json")
FINDINGS, TEXT = "{findings}", "{text}"
DEFAULT_SIDE, DEFAULT_QUALITY = 448, 92


class PromptError(FileError):
    """A `prompt.json` cannot be used."""


@dataclass(frozen=True)
class TierImage:
    """Which picture a tier gets: the canvas scaled to `max_side` as a JPEG of `quality`, or the caller's bytes."""

    source: Literal["canvas", "original"]
    max_side: int = DEFAULT_SIDE
    quality: int = DEFAULT_QUALITY


@dataclass(frozen=True)
class Prompt:
    """What a tier is asked.

    `yes` and `no` are token ids by their text. Of a reasoner, `answer_field` is the boolean of its JSON, `thoughts` the
    JSON's field with its thoughts, `thinking` the marks around thoughts before the JSON, `repair` what is put behind a
    broken answer (None: a broken answer stays one), `answer_schema` the JSON schema of an answer.
    """

    kind: Literal["scorer", "reasoner"]
    prompt: str
    findings: str | None
    image: TierImage
    sampling: Mapping[str, Any]
    yes: Mapping[str, int]
    no: Mapping[str, int]
    answer_field: str | None = None
    thoughts: str | None = None
    thinking: tuple[str, str] | None = None
    repair: str | None = None
    answer_schema: Mapping[str, Any] = field(default_factory=dict)

    def text(self, findings: str | None) -> str:
        """The rendered prompt, with perception's findings where there are some."""
        said = "" if findings is None or self.findings is None else self.findings.replace(TEXT, findings)
        return self.prompt.replace(FINDINGS, said)

    def repair_sampling(self) -> dict[str, Any]:
        """One token among yes and no. Masked tokens keep their raw log-probabilities, so the mass can be checked."""
        ids = sorted({*self.yes.values(), *self.no.values()})
        return {
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": self.sampling["logprobs"],
            "allowed_token_ids": ids,
        }


class Prompts:
    """The prompts of a model repository, each read when it is first asked for.

    A folder that is not there is looked for again at each `get`: tiers join a running cascade.
    """

    def __init__(self, repository: str | Path | None = None, known: Mapping[str, Prompt] | None = None) -> None:
        self._repository = None if repository is None else Path(repository)
        self._known = dict(known or {})

    def get(self, tier: Tier) -> Prompt | None:
        """The tier's prompt, None where the repository lacks it. Raises `PromptError` naming file and field."""
        model = tier.member.name
        if model not in self._known:
            path = None if self._repository is None else self._repository / model / "prompt.json"
            if path is None or not path.is_file():
                return None
            prompt = load_prompt(path)
            _check_use(prompt, tier, path)
            self._known[model] = prompt
        return self._known[model]

    def check(self, policy: Policy) -> list[str]:
        """Read the prompts of all tiers; the models of those that are absent.

        Raises `PromptError` for a prompt that cannot be used or, where the policy says `absent_tiers: refuse`, for a
        tier that is absent.
        """
        absent = [tier for tier in policy.tiers if self.get(tier) is None]
        if absent and policy.absent_tiers == "refuse":
            tier = absent[0]
            where = f"tiers[{policy.tiers.index(tier)}].members.{tier.member.name}"
            problem = f"the model repository has no {tier.member.name}/prompt.json, and absent_tiers is refuse"
            raise PromptError(where, problem)
        return [tier.member.name for tier in absent]


def load_prompt(path: str | Path) -> Prompt:
    """Read a `prompt.json`. Raises `PromptError` naming the file and the field."""
    try:
        return parse_prompt(json.loads(Path(path).read_text(encoding="utf-8")))
    except PromptError as error:
        raise PromptError(error.field, error.problem, path=path) from None
    except OSError as error:
        raise PromptError("", f"cannot be read: {error.strerror or error}", path=path) from None
    except (ValueError, RecursionError) as error:
        raise PromptError("", f"is not JSON: {error}", path=path) from None


def parse_prompt(data: Any) -> Prompt:
    """Check a prompt given as plain dicts. Raises `PromptError` naming the field."""
    # Tokens may be white space, which no other key may be.
    texts = {key: data[key] for key in ("yes", "no") if isinstance(data, dict) and isinstance(data.get(key), dict)}
    plain = {**data, **{key: dict(_spelt(value)) for key, value in texts.items()}} if texts else data
    problem = first_problem(plain, SCHEMA_PATH, "prompt")
    if problem is not None:
        raise PromptError(*problem)
    answer = data.get("answer") or {}
    thinking = data.get("thinking")
    prompt = Prompt(
        kind=data["kind"],
        prompt=data["prompt"],
        findings=data.get("findings"),
        image=TierImage(
            source=data["image"]["from"],
            max_side=data["image"].get("max_side", DEFAULT_SIDE),
            quality=data["image"].get("quality", DEFAULT_QUALITY),
        ),
        sampling=data["sampling"],
        yes=data["yes"],
        no=data["no"],
        answer_field=answer.get("field"),
        thoughts=answer.get("thoughts"),
        thinking=None if thinking is None else (thinking[0], thinking[1]),
        repair=data.get("repair"),
        answer_schema=_answer_schema(data["sampling"].get("structured_outputs"), answer.get("field")),
    )
    _check_meaning(prompt)
    return prompt


def _spelt(tokens: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key if key.strip() and key.isprintable() else repr(key), value) for key, value in tokens.items()]


def _answer_schema(structured: str | None, name: str | None) -> dict[str, Any]:
    """Schema of a reasoner's JSON: what its sampling forces, and in any case that the answer is a boolean."""
    if name is None:
        return {}
    least = {"type": "object", "required": [name], "properties": {name: {"type": "boolean"}}}
    if structured is None:
        return least
    try:
        schema = json.loads(structured).get("json", least)
        schema = json.loads(schema) if isinstance(schema, str) else schema
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise PromptError("sampling.structured_outputs", f"its json is no JSON schema: {error.message}") from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise PromptError(
            "sampling.structured_outputs", f'must be the text of {{"json": {{...}}}}: {type(error).__name__}: {error}'
        ) from None
    return {"allOf": [schema, least]}


def _check_meaning(prompt: Prompt) -> None:
    both = set(prompt.yes.values()) & set(prompt.no.values())
    if both:
        raise PromptError("no", f"token {min(both)} is in yes too")
    allowed = prompt.sampling.get("allowed_token_ids")
    if allowed is not None:
        for name, tokens in (("yes", prompt.yes), ("no", prompt.no)):
            if not set(tokens.values()) & set(allowed):
                raise PromptError("sampling.allowed_token_ids", f"has none of the tokens of {name}")
    if prompt.findings is not None and TEXT not in prompt.findings:
        raise PromptError("findings", f"must contain {TEXT}")
    if prompt.findings is not None and FINDINGS not in prompt.prompt:
        raise PromptError("prompt", f"must contain {FINDINGS}, as there are findings")
    if prompt.kind == "scorer" and prompt.sampling["max_tokens"] != 1:
        raise PromptError("sampling.max_tokens", f"must be 1 for a scorer, got {prompt.sampling['max_tokens']}")
    if prompt.kind == "reasoner" and prompt.answer_field is None:
        raise PromptError("answer", "is missing; must be an object with the field of the boolean")


def _check_use(prompt: Prompt, tier: Tier, path: Path) -> None:
    if prompt.kind != tier.member.kind:
        raise PromptError(
            "kind", f"is {prompt.kind}; the policy's tier {tier.name!r} says {tier.member.kind}", path=path
        )
    if tier.findings and prompt.findings is None:
        raise PromptError("findings", f"is missing; the policy's tier {tier.name!r} wants findings", path=path)
