"""Which images the words on the command line mean."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from roadwork_client.images import SUFFIXES


@dataclass(frozen=True)
class Input:
    """A file, and its path below the folder that was named (for the copies); `problem` where there is no such file."""

    path: Path
    relative: Path
    problem: str | None = None


def expand(words: Iterable[str]) -> Iterator[Input]:
    """The images that files, folders (searched through, by suffix) and globs (`**` too) name; each file once."""
    seen: set[Path] = set()
    for word in words:
        for entry in _expand(word):
            key = entry.path.absolute()
            if key not in seen:
                seen.add(key)
                yield entry


def _expand(word: str) -> Iterator[Input]:
    path = Path(word)
    if path.is_dir():
        yield from _folder(path)
    elif path.exists():
        yield Input(path, Path(path.name))
    elif glob.has_magic(word):
        matches = sorted(glob.glob(word, recursive=True))
        for match in matches:
            if not Path(match).is_dir():
                yield Input(Path(match), Path(Path(match).name))
        if not matches:
            yield Input(path, Path(path.name), f"no file matches {word}")
    else:
        yield Input(path, Path(path.name), f"cannot read {word}: no such file or folder")


def _folder(folder: Path) -> Iterator[Input]:
    found = False
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            found = True
            yield Input(path, path.relative_to(folder))
    if not found:
        yield Input(folder, Path(folder.name), f"no images ({', '.join(sorted(SUFFIXES))}) in folder {folder}")
