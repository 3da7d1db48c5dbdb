"""`repository`: the folders of the catalogue's models, as far as they need no weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..catalogue import CatalogueError, load_catalogue

SHOWN = 5


def add(commands: argparse._SubParsersAction) -> None:
    """Register the commands of this group."""
    repository = commands.add_parser(
        "repository", help="write config.pbtxt and 1/model.json of the catalogue's models, without weights"
    )
    repository.add_argument(
        "names", nargs="*", metavar="NAME", help="in the catalogue (default: all that have a folder)"
    )
    repository.add_argument("--check", action="store_true", help="write nothing; status 1 where a file differs")
    repository.add_argument("--repository", type=Path, default=Path("model_repository"))
    repository.set_defaults(run=run_repository)


def run_repository(arguments: argparse.Namespace) -> int:
    """Status 1 where `--check` finds a difference.

    Raises:
        CatalogueError: a name is not in the catalogue, or has no folder to write.
        ExportError: the repository cannot be written to.
    """
    from ..written import differing, write, written

    catalogue = load_catalogue()
    entries = written(catalogue)
    for name in arguments.names:
        if catalogue.get(name) not in entries:
            raise CatalogueError(f"{name} has no folder to write; roadwork-export show {name} says how it is served")
    chosen = [entry for entry in entries if not arguments.names or entry.name in arguments.names]
    if not arguments.check:
        paths = write(arguments.repository, chosen)
        print(f"{len(chosen)} models, {len(paths)} files written")
        return 0
    paths = list(differing(arguments.repository, chosen))
    for path in paths[:SHOWN]:
        print(f"{path} is not what the catalogue gives; write it with: roadwork-export repository {_model(path)}")
    if len(paths) > SHOWN:
        print(f"and {len(paths) - SHOWN} more; write all with: roadwork-export repository")
    return 1 if paths else 0


def _model(path: Path) -> str:
    folder = path.parent.parent if path.parent.name == "1" else path.parent
    return folder.name
