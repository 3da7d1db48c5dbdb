"""Finds families: every file in `families/` defines one."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from typing import TYPE_CHECKING

from . import families
from .errors import ExportError

if TYPE_CHECKING:
    from .family import Family


def family_names() -> tuple[str, ...]:
    """Names of the families, without importing what they need."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(families.__path__)))


@functools.lru_cache(maxsize=1)
def known_families() -> dict[str, Family]:
    """Name -> family. The files import their libraries only when a model is opened, so this is cheap.

    Raises:
        TypeError: a file defines no family, or one that is named otherwise.
    """
    from .family import Family

    found: dict[str, Family] = {}
    for info in pkgutil.iter_modules(families.__path__):
        module = importlib.import_module(f"{families.__name__}.{info.name}")
        own = [
            thing for thing in vars(module).values()
            if isinstance(thing, type) and issubclass(thing, Family) and thing.__module__ == module.__name__
        ]  # fmt: skip
        if len(own) != 1:
            raise TypeError(f"families/{info.name}.py defines {len(own)} families, must define one")
        if own[0].name != info.name:
            raise TypeError(f"families/{info.name}.py: its family is named {own[0].name!r}, must be {info.name!r}")
        found[info.name] = own[0]()
    return found


def get_family(name: str) -> Family:
    """Raises ExportError for an unknown family, or where one of its packages is not installed."""
    family = known_families().get(name)
    if family is None:
        raise ExportError(f"no family {name!r}; known are {', '.join(known_families())}")
    missing = [p for p in family.packages if importlib.util.find_spec(p) is None]
    if missing:
        raise ExportError(f"{name} needs {', '.join(missing)}: pip install 'roadwork[detectors]'")
    return family
