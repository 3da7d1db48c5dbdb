"""Every model that the plan names: what it is, on what terms, and how it is exported or served.

The facts are in `catalogue.yaml`, which says what each field means. Nothing here imports a network's library.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from roadwork_cascade.policy_check import PolicyError, read_yaml
from roadwork_cascade.schema_check import shown

from .catalogue_fields import CatalogueError, Fields, known_fields
from .registry import family_names
from .serving import Serving, read_serving

DEFAULT_PATH = Path(__file__).with_name("catalogue.yaml")
VERSION = 1
LEVELS = ("0", "1", "2", "3", "4", "5", "5.5")
ROLES = ("boxes", "open_vocabulary", "scene", "distance", "words", "scorer", "reasoner", "other")
OWN = "own"
"""What the catalogue calls the family of the project's own networks, which `roadwork-export build` makes."""
COMMERCIAL = ("yes", "agpl", "terms", "no", "unclear")
SERVED = ("onnx", "vllm", "python", "api", "none")
STATUSES = ("runs here", "needs weights", "needs a licence key", "rejected")
PRECISIONS = ("fp32", "fp16", "int8")
BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0}
"""Of one weight."""
BOX_MEASURES = ("box_px", "mean_box_px", "score", "unmatched")
MEASURES = {
    "boxes": BOX_MEASURES,
    "open_vocabulary": BOX_MEASURES,
    "scene": ("score",),
    "distance": ("score",),
}
"""What a check measures of a role's outputs. Other roles are not compared."""
Limits = Mapping[str, Mapping[str, float]]
_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Entry:
    """One model. `catalogue.yaml` explains the fields.

    Attributes:
        limits: precision -> measure -> largest difference to the source, those of its role included.
        serving: of models that vLLM serves or could; None for others.
    """

    name: str
    plan: tuple[str, ...]
    level: tuple[str, ...]
    role: str
    family: str | None
    source: str | None
    licence: str
    commercial: str
    gated: bool
    parameters: float | None
    input: int | None
    served: str
    status: str
    weight: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    limits: Limits = field(default_factory=lambda: _EMPTY)
    serving: Serving | None = None
    reason: str | None = None
    changed: str | None = None
    instead: str | None = None
    note: str | None = None

    def memory(self, precision: str) -> float | None:
        """Bytes that the weights take: parameters times bytes a weight; None where the parameters are not known.

        Real files differ by a few per cent (tables and buffers that stay in a higher precision), and a running model
        needs activations besides.

        Raises:
            ValueError: not a precision of `BYTES`.
        """
        if precision not in BYTES:
            raise ValueError(f"no precision {precision!r}; known are {', '.join(BYTES)}")
        return None if self.parameters is None else self.parameters * BYTES[precision]

    def limits_at(self, precision: str) -> dict[str, float]:
        """Measure -> largest difference that passes; empty: reported, not judged."""
        return dict(self.limits.get(precision, {}))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, for JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True)
class Catalogue:
    """All entries, in the order of the file."""

    entries: tuple[Entry, ...]

    @functools.cached_property
    def _by_name(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self.entries}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    def get(self, name: str) -> Entry:
        """Raises CatalogueError with the names that are close, or that stand for a name of the plan."""
        found = self._by_name.get(name)
        if found is not None:
            return found
        planned = self.planned(name)
        if planned:
            raise CatalogueError(f"no model {name!r}: the plan's name of {_listed(planned)}")
        close = self._close(name)
        raise CatalogueError(f"no model {name!r}" + (f": did you mean {', '.join(close)}?" if close else ""))

    def planned(self, name: str) -> tuple[Entry, ...]:
        """Entries that carry this name of the plan, in whatever case."""
        wanted = name.casefold()
        return tuple(entry for entry in self.entries if wanted in (other.casefold() for other in entry.plan))

    def select(
        self,
        *,
        level: str | None = None,
        role: str | None = None,
        licence: str | None = None,
        family: str | None = None,
        status: str | None = None,
    ) -> tuple[Entry, ...]:
        """Entries for which all hold. `licence` is found anywhere in the licence's name, in whatever case."""
        return tuple(
            entry
            for entry in self.entries
            if (level is None or level in entry.level)
            and (role is None or role == entry.role)
            and (licence is None or licence.casefold() in entry.licence.casefold())
            and (family is None or family == entry.family)
            and (status is None or status == entry.status)
        )

    def _close(self, name: str) -> list[str]:
        # difflib breaks ties by the alphabet from its end, which puts x before n: the file's order is the better one.
        wanted = re.sub(r"[^a-z0-9]+", "_", name.casefold())
        ratios = [(difflib.SequenceMatcher(None, wanted, other).ratio(), other) for other in self.names]
        best = sorted((pair for pair in ratios if pair[0] >= 0.6), key=lambda pair: -pair[0])
        return [other for _, other in best[:3]]


@functools.lru_cache(maxsize=8)
def load_catalogue(path: Path | None = None) -> Catalogue:
    """Read and check a catalogue, by default the one that is shipped.

    Raises:
        CatalogueError: for the first thing that is wrong.
    """
    path = path or DEFAULT_PATH
    try:
        data, _ = read_yaml(path)
    except PolicyError as error:  # of the reader that we share with the policy
        where = f"{path.name}: {error.field}" if error.field else path.name
        raise CatalogueError(f"{where}: {error.problem}") from None
    return parse_catalogue(data, path.name)


def parse_catalogue(data: Any, where: str = "catalogue.yaml") -> Catalogue:
    """Check a catalogue given as plain dicts and lists; `where` is what errors call it. Raises CatalogueError."""
    if not isinstance(data, dict):
        raise CatalogueError(f"{where}: must be a mapping, got {shown(data)}")
    known_fields(where, data, ("version", "defaults", "templates", "entries"))
    if data.get("version") != VERSION:
        raise CatalogueError(f"{where}: version must be {VERSION}, got {shown(data.get('version'))}")
    defaults = _defaults(data.get("defaults", {}), f"{where}: defaults")
    listed = data.get("entries")
    if not isinstance(listed, list) or not listed:
        raise CatalogueError(f"{where}: entries must be a list of at least one model, got {shown(listed)}")
    entries: list[Entry] = []
    for number, item in enumerate(listed, 1):
        entry = _entry(item, number, defaults, where)
        if entry.name in (other.name for other in entries):
            raise CatalogueError(f"{where}: {entry.name}: name is used twice")
        entries.append(entry)
    names = {entry.name for entry in entries}
    for entry in entries:
        if entry.instead is not None and (entry.instead == entry.name or entry.instead not in names):
            raise CatalogueError(f"{where}: {entry.name}: instead names no other entry: {entry.instead!r}")
    return Catalogue(tuple(entries))


def _entry(item: Any, number: int, defaults: dict[str, dict[str, Any]], where: str) -> Entry:
    if not isinstance(item, dict):
        raise CatalogueError(f"{where}: entry {number}: must be a mapping, got {shown(item)}")
    name = item.get("name")
    if name is None:
        raise CatalogueError(f"{where}: entry {number}: name is missing")
    take = Fields(f"{where}: {name}", item)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]+", name):
        raise take.wrong("name", f"must be lower-case letters, digits and _ (it is a folder), got {shown(name)}")
    known_fields(take.where, item, tuple(f.name for f in fields(Entry)))
    level = take.texts("level", required=True)
    unknown = [each for each in level if each not in LEVELS]
    if unknown:
        raise take.wrong("level", f"must be of {', '.join(LEVELS)}, got {shown(unknown[0])}")
    role = take.choice("role", ROLES)
    family = take.text_or_none("family", required=True)
    known = (*family_names(), OWN)
    if family is not None and family not in known:
        raise take.wrong("family", f"must be null or one of {', '.join(known)}, got {shown(family)}")
    status = take.choice("status", STATUSES)
    preset = defaults.get(role, {})
    weight = None if status == "rejected" else item.get("weight", preset.get("weight"))
    parameters = take.take("parameters")
    side = take.take("input")
    if side is not None and (isinstance(side, bool) or not isinstance(side, int) or side < 1):
        raise take.wrong("input", f"must be null or a whole number of pixels, got {shown(side)}")
    # YAML reads a bare yes or no as true or false.
    yes_no = {True: "yes", False: "no"}
    bare = isinstance(item.get("commercial"), bool)
    commercial = yes_no[item["commercial"]] if bare else take.choice("commercial", COMMERCIAL)
    entry = Entry(
        name=name,
        plan=take.texts("plan"),
        level=level,
        role=role,
        family=family,
        source=take.text_or_none("source", required=True),
        licence=take.text("licence"),
        commercial=commercial,
        gated=take.flag("gated"),
        parameters=None if parameters is None else take.number("parameters", parameters),
        input=side,
        served=take.choice("served", SERVED),
        status=status,
        weight=None if weight is None else take.number("weight", weight, zero=True),
        arguments=MappingProxyType(take.mapping("arguments")),
        limits=_limits(take, role, preset.get("limits", {}) if family is not None else {}),
        serving=_serving(take, role, parameters),
        reason=take.text_or_none("reason"),
        changed=take.text_or_none("changed"),
        instead=take.text_or_none("instead"),
        note=take.text_or_none("note"),
    )
    _check_meaning(entry, take)
    return entry


def _check_meaning(entry: Entry, take: Fields) -> None:
    rejected = entry.status == "rejected"
    if rejected and entry.reason is None:
        raise take.wrong("reason", "is missing: a rejected model says why")
    if not rejected and entry.reason is not None:
        raise take.wrong("reason", f"is of rejected models only, its status is {entry.status!r}")
    if rejected != (entry.served == "none"):
        raise take.wrong("served", f"must be none for rejected models and them alone, got {entry.served!r}")
    if not rejected and entry.instead is not None:
        raise take.wrong("instead", f"is of rejected models only, its status is {entry.status!r}")
    if entry.served == "onnx" and entry.family is None:
        raise take.wrong("family", "is missing: what is served as ONNX has to be exported")
    if "limits" in take.data and (entry.family is None or entry.role not in MEASURES):
        raise take.wrong("limits", f"are of exported models with one of the roles {', '.join(MEASURES)}")
    if entry.changed is not None and not (entry.plan or rejected):
        raise take.wrong("changed", "says why the plan's name is not its name, and plan is empty")
    if entry.served == "vllm" and entry.serving is None:
        raise take.wrong("serving", "is missing: what vLLM serves has an architecture and settings")


def _serving(take: Fields, role: str, parameters: Any) -> Serving | None:
    data = take.mapping("serving")
    return read_serving(take, data, role, parameters) if data else None


def _limits(take: Fields, role: str, preset: Limits) -> Limits:
    """Those of the role with the entry's own over them."""
    own = take.mapping("limits")
    measures = MEASURES.get(role, BOX_MEASURES)
    merged = {precision: dict(values) for precision, values in preset.items()}
    for precision, values in own.items():
        at = f"limits.{precision}"
        if precision not in PRECISIONS:
            raise take.wrong(at, f"is not of a precision of {', '.join(PRECISIONS)}")
        if not isinstance(values, dict) or not values:
            raise take.wrong(at, f"must be a mapping of {', '.join(measures)}, got {shown(values)}")
        for measure, value in values.items():
            if measure not in measures:
                raise take.wrong(f"{at}.{measure}", f"is not measured of {role}; known are {', '.join(measures)}")
            merged.setdefault(precision, {})[measure] = take.number(f"{at}.{measure}", value, zero=True)
    return MappingProxyType({precision: MappingProxyType(values) for precision, values in merged.items()})


def _defaults(data: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(data, dict):
        raise CatalogueError(f"{where} must be a mapping, got {shown(data)}")
    known_fields(where, data, ROLES)
    found: dict[str, dict[str, Any]] = {}
    for role, values in data.items():
        at = f"{where}: {role}"
        if not isinstance(values, dict):
            raise CatalogueError(f"{at} must be a mapping, got {shown(values)}")
        known_fields(at, values, ("weight", "limits"))
        take = Fields(at, values)
        weight = values.get("weight")
        found[role] = {
            "weight": None if weight is None else take.number("weight", weight, zero=True),
            "limits": _limits(take, role, {}),
        }
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _listed(entries: tuple[Entry, ...]) -> str:
    return ", ".join(entry.name for entry in entries)
