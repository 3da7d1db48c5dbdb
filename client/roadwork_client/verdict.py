"""The answer to one image, as frozen dataclasses.

The JSON is described by `roadwork_cascade/verdict.schema.json`. Reading is strict about what the client relies on and
lenient about fields that a newer server adds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from roadwork_client.errors import ProtocolError

SCHEMA = 2
READS = (1, SCHEMA)
"""A verdict of schema 1, of an older server, is one without tiers."""
Pixels = tuple[float, float, float, float]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height of the upright original, in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Box:
    """A work-zone object: class of the taxonomy, score in [0, 1], (x1, y1, x2, y2) in pixels, and who saw it.

    nearness: 1 the nearest thing in the image, 0 the farthest; no metres. None where no distance model answered.
    """

    class_name: str
    score: float
    box: Pixels
    seen_by: tuple[str, ...]
    nearness: float | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """Words read on a sign, the keyword they match, its language, the score in [0, 1] and where (pixels)."""

    text: str
    keyword: str
    language: str
    score: float
    box: Pixels


@dataclass(frozen=True, slots=True)
class Answer:
    """What one member said: raw answer and calibrated probability, both in [0, 1].

    probability: None where the answer says nothing either way, and so does not enter the pool.
    """

    member: str
    stage: str
    kind: str
    raw: float | None
    probability: float | None
    weight: float


@dataclass(frozen=True, slots=True)
class Missing:
    """A member that was asked and did not answer. reason: error, timed_out, breaker_open or unavailable."""

    member: str
    stage: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Stage:
    """How one stage went. outcome: answered, partial, failed, timed_out or skipped; probability after it, if any."""

    name: str
    outcome: str
    probability: float | None
    milliseconds: float
    cost: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that vision-language tiers read and wrote."""

    input: int
    output: int


@dataclass(frozen=True, slots=True)
class Tier:
    """How one vision-language tier of the route went.

    outcome: answered, skipped (reason says why), failed or timed_out. raw: the share of yes in its answer; mass: how
    much of its probability lay on yes and no; probability: calibrated. text: what it said; thoughts: a reasoner's.
    repaired: its answer was broken and was asked for once more.
    """

    name: str
    member: str
    kind: str
    outcome: str
    reason: str | None
    raw: float | None
    mass: float | None
    probability: float | None
    text: str | None
    thoughts: str | None
    repaired: bool
    tokens: Tokens
    milliseconds: float
    cost: float


@dataclass(frozen=True, slots=True)
class Versions:
    """Which policy and which models answered."""

    policy: str
    models: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an image shows roadwork, and everything that speaks for or against it.

    probability: in [0, 1], calibrated. roadwork: probability at or over `threshold`.
    status: `ok`; `degraded` (a member with a vote was asked and did not answer); `timed_out` (the best verdict so far).
    decided_by: the stage or tier that ended the cascade. route: the policy's route that was taken, None for none;
    tiers: those of the route. tokens: read and written by tiers. milliseconds: inside the server. cost: in `currency`.
    """

    probability: float
    roadwork: bool
    threshold: float
    status: str
    decided_by: str | None
    image: Size | None
    boxes: tuple[Box, ...]
    words: tuple[Word, ...]
    answers: tuple[Answer, ...]
    route: str | None
    tiers: tuple[Tier, ...]
    missing: tuple[Missing, ...]
    stages: tuple[Stage, ...]
    milliseconds: float
    tokens: Tokens
    cost: float
    currency: str
    versions: Versions
    schema: int = SCHEMA

    @classmethod
    def from_json(cls, text: str | bytes) -> Verdict:
        """Read the JSON of a verdict. Raise ProtocolError, naming the field, where it is not one."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ProtocolError(f"the verdict is not JSON ({error}); client and server differ in version") from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """Read the parsed JSON of a verdict. Raise ProtocolError, naming the field, where it is not one."""
        schema = data.get("schema") if isinstance(data, Mapping) else None
        if schema not in READS:
            raise ProtocolError(f"the verdict has schema {schema!r}, this client reads {SCHEMA}: update the older side")
        if schema == 1:
            data = {"route": None, **data, "tiers": []}
        return _read_verdict(data, "verdict")

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON values, with the names and the order of the schema."""
        plain = _plain(self)
        return {"schema": plain.pop("schema"), **plain}

    def to_json(self) -> str:
        """The verdict as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)


Reader = Callable[[Any, str], Any]


def _wrong(where: str, expected: str, value: Any) -> ProtocolError:
    return ProtocolError(f"{where}: expected {expected}, got {value!r:.80}; client and server differ in version")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a text", value)
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong(where, "a finite number", value)
    return float(value)


def _whole(value: Any, where: str) -> int:
    number = _number(value, where)
    if not number.is_integer():
        raise _wrong(where, "a whole number", value)
    return int(number)


def _share(value: Any, where: str) -> float:
    number = _number(value, where)
    if not 0.0 <= number <= 1.0:
        raise _wrong(where, "a number in [0, 1]", value)
    return number


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    return dict(value)


def _texts_by_name(value: Any, where: str) -> dict[str, str]:
    return {name: _text(item, f"{where}.{name}") for name, item in _mapping(value, where).items()}


def _maybe(read: Reader) -> Reader:
    return lambda value, where: None if value is None else read(value, where)


def _many(read: Reader) -> Reader:
    def reader(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, "a list", value)
        return tuple(read(item, f"{where}[{index}]") for index, item in enumerate(value))

    return reader


def _pixels(value: Any, where: str) -> Pixels:
    numbers = _many(_number)(value, where)
    if len(numbers) != 4:
        raise _wrong(where, "four numbers", value)
    return numbers


# The JSON name `class` is a keyword in Python.
_JSON_NAMES = {"class_name": "class"}


def _object(kind: type[T], /, **readers: Reader) -> Reader:
    """A reader of `kind` that reads each field with its reader, under the field's JSON name.

    A field with a default may be missing: a server that is older than the field does not write it.
    """
    optional = {f.name for f in fields(kind) if f.default is not MISSING}  # type: ignore[arg-type]

    def reader(value: Any, where: str) -> T:
        data = _mapping(value, where)
        values = {}
        for name, read in readers.items():
            key = _JSON_NAMES.get(name, name)
            if key not in data and name in optional:
                continue
            if key not in data:
                raise ProtocolError(f"{where}.{key} is missing; client and server differ in version")
            values[name] = read(data[key], f"{where}.{key}")
        return kind(**values)

    return reader


read_tokens: Reader = _object(Tokens, input=_whole, output=_whole)
read_tier: Reader = _object(
    Tier,
    name=_text,
    member=_text,
    kind=_text,
    outcome=_text,
    reason=_maybe(_text),
    raw=_maybe(_share),
    mass=_maybe(_share),
    probability=_maybe(_share),
    text=_maybe(_text),
    thoughts=_maybe(_text),
    repaired=_flag,
    tokens=read_tokens,
    milliseconds=_number,
    cost=_number,
)

_read_verdict: Reader = _object(
    Verdict,
    probability=_share,
    roadwork=_flag,
    threshold=_share,
    status=_text,
    decided_by=_maybe(_text),
    image=_maybe(_object(Size, width=_whole, height=_whole)),
    boxes=_many(
        _object(Box, class_name=_text, score=_share, box=_pixels, seen_by=_many(_text), nearness=_maybe(_share))
    ),
    words=_many(_object(Word, text=_text, keyword=_text, language=_text, score=_share, box=_pixels)),
    answers=_many(
        _object(
            Answer,
            member=_text,
            stage=_text,
            kind=_text,
            raw=_maybe(_share),
            probability=_maybe(_share),
            weight=_number,
        )
    ),
    route=_maybe(_text),
    tiers=_many(read_tier),
    missing=_many(_object(Missing, member=_text, stage=_text, reason=_text, detail=_text)),
    stages=_many(
        _object(Stage, name=_text, outcome=_text, probability=_maybe(_share), milliseconds=_number, cost=_number)
    ),
    milliseconds=_number,
    tokens=read_tokens,
    cost=_number,
    currency=_text,
    versions=_object(Versions, policy=_text, models=_texts_by_name),
)


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as JSON's own types."""
    if hasattr(value, "__dataclass_fields__"):
        return {_JSON_NAMES.get(f.name, f.name): _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
