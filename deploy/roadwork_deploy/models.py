"""`roadwork-deploy models`: every folder of the repository, what it is, and which command brings weights it lacks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from roadwork_deploy.repository import NOUNS, Model, read_models
from roadwork_deploy.weights import TIER, lack, tier_lack


@dataclass(frozen=True)
class Listed:
    """One folder.

    Attributes:
        kind: in words, such as "detector" or "tier".
        ready: nothing is missing that it needs to be served.
        missing: what is; empty where it is ready.
        command: that brings it; empty where it is ready.
        licence: of the weights as the catalogue has it; None for folders of no model of the catalogue.
        terms: what the publisher wants before or besides; empty where nothing.
    """

    name: str
    kind: str
    backend: str
    ready: bool
    missing: str
    command: str
    licence: str | None
    terms: str


def list_models(repository: Path) -> list[Listed]:
    """Every folder with a `config.pbtxt`, in the order of names.

    Raises:
        RepositoryError: no folder, or a `config.pbtxt` cannot be read.
    """
    # The catalogue needs neither networks nor their libraries, and the commands are the export's own.
    from roadwork_export.catalogue import load_catalogue
    from roadwork_export.commands.catalogue import export_command

    catalogue = load_catalogue()
    rows = []
    for name, model in read_models(repository).items():
        entry = catalogue.get(name) if name in catalogue else None
        reader = entry is not None and entry.role == "words" and model.backend == TIER
        found = tier_lack(model.folder) if reader else lack(model)
        command = "" if found is None else found.command
        if found is not None and entry is not None:
            # A reader of documents has no yes and no: no command of ours writes its prompt, and no stage asks it.
            command = f"hf download {entry.source}" if reader else export_command(entry) or command
        terms = [] if entry is None or found is None else _terms(entry.gated, entry.commercial)
        missing = "" if found is None else found.what.replace(f"{repository}/", "")
        licence = None if entry is None else entry.licence
        row = Listed(name, kind_of(model), model.backend, found is None, missing, command, licence, "; ".join(terms))
        rows.append(row)
    return rows


def kind_of(model: Model) -> str:
    """What a folder is, in words."""
    if model.ensemble:
        return "ensemble"
    if model.backend == TIER:
        return "tier"
    if model.kind is not None:
        return NOUNS[model.kind]
    return "cascade" if model.name.startswith("roadwork") else "model"


def _terms(gated: bool, commercial: str) -> list[str]:
    said = {
        "yes": [],
        "agpl": ["what is served with it comes under its terms"],
        "terms": ["commercial use has conditions"],
        "no": ["not for commercial use"],
        "unclear": ["its terms are unclear"],
    }
    return (["accept the publisher's agreement on its page first"] if gated else []) + said[commercial]


def show_models(rows: Iterable[Listed], console: Console | None = None) -> None:
    """Print a table of what is ready, and a line or two of what is not."""
    console = console or Console()
    rows = list(rows)
    table = Table()
    for heading in ("model", "kind", "backend"):
        table.add_column(heading)
    for row in rows:
        if row.ready:
            table.add_row(row.name, row.kind, row.backend)
    console.print(table)
    waiting = [row for row in rows if not row.ready]
    if waiting:
        console.print(f"without weights ({len(waiting)}); the command brings them, then: roadwork-deploy wire")
    for row in waiting:
        licence = f" ({row.licence})" if row.licence else ""
        for line in (f"{row.name}: {row.kind}{licence}", f"    {row.command}", f"    {row.terms}"):
            if line.strip():
                console.print(line, highlight=False, markup=False, soft_wrap=True)


def models_json(rows: Iterable[Listed]) -> str:
    """The rows as JSON."""
    return json.dumps([asdict(row) for row in rows], indent=1)
