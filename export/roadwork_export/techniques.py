"""Serving techniques of the plan as options: each becomes engine arguments of vLLM, or is refused with a reason.

The facts are in `techniques.yaml`, which says what each field means. Nothing here imports vLLM.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

from .catalogue import Entry
from .errors import ExportError
from .technique_file import CPU, GENERATIONS, Technique, load_techniques

__all__ = [
    "CPU",
    "GENERATIONS",
    "Technique",
    "TechniqueError",
    "apply",
    "find",
    "load_techniques",
    "merge",
    "missing_package",
]


class TechniqueError(ExportError):
    """A technique cannot be had with this model on this hardware; one line that says why and what does its work."""


def apply(wanted: Iterable[str], entry: Entry, *, tensor_parallel: int = 1, gpu: str | None = None) -> dict[str, Any]:
    """Engine arguments of these techniques, to be merged over the tier's own (see `merge`).

    Args:
        wanted: names, or `name=value`.
        entry: the model.
        tensor_parallel, gpu: see `Technique.why_not`.

    Raises:
        TechniqueError: a name that is unknown or refused, a value that is missing or wrong, two that exclude each
            other, or one that this model or hardware cannot do.
    """
    if gpu is not None and gpu not in (*GENERATIONS, CPU):
        raise TechniqueError(f"gpu is {gpu!r}, must be one of {', '.join((*GENERATIONS, CPU))}")
    settings: dict[str, Any] = {}
    taken: dict[str, str] = {}
    for text in wanted:
        name, equals, given = text.partition("=")
        technique = find(name)
        why = technique.why_not(entry, tensor_parallel=tensor_parallel, gpu=gpu)
        if why is not None:
            hint = f"; use {technique.instead}" if technique.instead else ""
            raise TechniqueError(f"{name}: {why}{hint}")
        key = technique.group or name
        other = taken.get(key)
        if other is not None:
            decided = f" ({technique.group})" if technique.group else ""
            raise TechniqueError(f"{text} and {other} exclude each other{decided}; keep one")
        taken[key] = text
        value = _value(technique, given if equals else None, entry)
        settings = merge(settings, {key: _fill(each, value) for key, each in technique.arguments.items()})
    return settings


def find(name: str) -> Technique:
    """Raises TechniqueError with the names that are close."""
    known = load_techniques()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "`roadwork-export techniques` lists them"
    raise TechniqueError(f"no technique {name!r}; {hint}")


def missing_package(technique: Technique) -> str | None:
    """The package that it needs, where that is not installed beside this command."""
    package = technique.needs.get("package")
    if package is None:
        return None
    module = {"flashinfer-python": "flashinfer", "opentelemetry-sdk": "opentelemetry.sdk"}.get(package, package)
    try:
        there = importlib.util.find_spec(module.replace("-", "_")) is not None
    except ModuleNotFoundError:  # of a package that the module would be in
        there = False
    return None if there else package


def merge(settings: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `over` on top; mappings in both are merged."""
    merged = dict(settings)
    for key, value in over.items():
        own = merged.get(key)
        merged[key] = merge(own, value) if isinstance(own, Mapping) and isinstance(value, Mapping) else value
    return merged


def _value(technique: Technique, given: str | None, entry: Entry) -> dict[str, Any]:
    """What stands for each $word of the arguments."""
    name, value = technique.name, technique.value
    if technique.checkpoint is not None:
        checkpoints = entry.serving.checkpoints if entry.serving else {}
        found = given or checkpoints.get(technique.checkpoint)
        if not found:
            raise TechniqueError(
                f"{name}: {entry.name} has no published {technique.checkpoint} weights; give a folder or hub id: "
                f"{name}=PATH"
            )
        return {"$checkpoint": found}
    if value is None:
        if given is not None:
            raise TechniqueError(f"{name}: takes no value, got {given!r}")
        return {}
    if given is None or given == "":
        if value.default is None:
            raise TechniqueError(f"{name}: value is missing ({value.means}): {name}=...")
        return {"$value": value.default}
    if value.kind == "text":
        return {"$value": given}
    if not given.isdecimal() or int(given) < value.least:
        raise TechniqueError(f"{name}: must be a whole number of at least {value.least} ({value.means}), got {given!r}")
    return {"$value": int(given), **_visual(technique, int(given), entry)}


def _visual(technique: Technique, tokens: int, entry: Entry) -> dict[str, int]:
    """A number of visual tokens in the processor's own measures.

    A token stands for `patch * merge` pixels a side, so `tokens` of them for tokens·(patch·merge)² pixels (Qwen2-VL,
    arXiv 2409.12191, section 2.1). A tile of `input` pixels a side has (input / (patch·merge))² tokens, and where there
    are several the whole image comes as one more.
    """
    text = repr(technique.arguments)
    vision = entry.serving.vision if entry.serving else None
    if "$pixels" not in text and "$tiles" not in text:
        return {}
    if vision is None:
        raise TechniqueError(f"{technique.name}: the sizes of {entry.name}'s vision encoder are not known")
    side = vision.patch * vision.merge
    if "$pixels" in text:
        return {"$pixels": tokens * side**2, "$pixels_of_one": side**2}
    of_tile = ((entry.input or 0) // side) ** 2
    if not of_tile or tokens < of_tile:
        raise TechniqueError(f"{technique.name}: a tile of {entry.name} has {of_tile} tokens, got {tokens}")
    tiles = tokens // of_tile
    return {"$tiles": tiles - 1 if tiles > 1 else 1}


def _fill(given: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(given, Mapping):
        return {key: _fill(each, values) for key, each in given.items()}
    return values.get(given, given) if isinstance(given, str) else given
