"""Finds the kinds of results, and which kind each file is of."""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any

from roadwork_bench.page import kinds
from roadwork_bench.page.blocks import Block, Goal
from roadwork_bench.page.results import Result


@dataclass(frozen=True)
class Part:
    """What is shown of some results of one machine."""

    results: list[Result]
    blocks: list[Block]


@dataclass
class Section:
    """All results of one kind."""

    name: str
    title: str
    command: str
    parts: list[Part] = field(default_factory=list)
    goals: list[tuple[Goal, Result]] = field(default_factory=list)


@dataclass
class Page:
    """sections: of kinds that have results. missing: of those that have none. unread: file -> why it is not shown."""

    sections: list[Section]
    missing: list[Section]
    unread: dict[str, str]


def all_kinds() -> dict[str, Any]:
    """Name -> module, in the order of the page."""
    names = [module.name for module in pkgutil.iter_modules(kinds.__path__)]
    found = {name: importlib.import_module(f"{kinds.__name__}.{name}") for name in names}
    return dict(sorted(found.items(), key=lambda item: (item[1].ORDER, item[0])))


def kind_of(stem: str, known: dict[str, Any]) -> str | None:
    """The kind with the longest pattern that fits a file's name."""
    fitting = [
        (len(pattern), name) for name, kind in known.items() for pattern in kind.FILES if fnmatch.fnmatch(stem, pattern)
    ]
    return max(fitting)[1] if fitting else None


def arrange(results: list[Result]) -> Page:
    """Sections with their blocks. A file of unknown kind or form is named, and the rest is shown."""
    known = all_kinds()
    unread: dict[str, str] = {}
    by_kind: dict[str, list[Result]] = {name: [] for name in known}
    for result in results:
        name = kind_of(result.stem, known)
        if name is None:
            unread[result.file] = "no kind of result has this name; see benchmarks/roadwork_bench/page/kinds"
        else:
            by_kind[name].append(result)
    sections: list[Section] = []
    missing: list[Section] = []
    for name, mine in by_kind.items():
        kind = known[name]
        section = Section(name, kind.TITLE, kind.COMMAND)
        for group in grouped(mine, together=getattr(kind, "TOGETHER", False)):
            try:
                section.parts.append(Part(group, kind.render(group)))
                if hasattr(kind, "goals"):
                    section.goals += [(goal, result) for result in group for goal in kind.goals(result)]
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                for result in group:
                    text = f"not of the form that `{kind.COMMAND.split(' --')[0]}` writes now"
                    unread[result.file] = f"{text} ({type(error).__name__}: {error}); measure it again"
        (sections if section.parts else missing).append(section)
    return Page(sections, missing, unread)


def grouped(results: list[Result], *, together: bool) -> list[list[Result]]:
    """Each by itself, or all of one machine together: figures of two machines never share a table or plot."""
    if not together:
        return [[result] for result in results]
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.machine, []).append(result)
    return list(groups.values())
