"""Tables from the classes that a network was trained on to the taxonomy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from roadwork_cascade.taxonomy import load_taxonomy

from .errors import ExportError
from .family import Found

TABLES = Path(__file__).with_name("tables")
COCO = TABLES / "coco.yaml"


@dataclass(frozen=True)
class ClassMap:
    """Columns of a network's scores for each taxonomy class that it can tell.

    Attributes:
        columns: for each such class the positions in the network's labels; a class takes the best of them.
        ids: their taxonomy ids, in the same order.
        table: label -> name in the taxonomy, as it goes into the file's metadata.
    """

    columns: tuple[tuple[int, ...], ...]
    ids: tuple[int, ...]
    table: dict[str, str]

    @staticmethod
    def of(labels: tuple[str, ...], table: dict[str, str], where: str) -> ClassMap:
        """The map of a table for a network with these labels; `where` is what an error calls the table.

        Raises:
            ExportError: the table names a label that the network has not, or a class that the taxonomy has not.
        """
        taxonomy = load_taxonomy()
        unknown = [label for label in table if label not in labels]
        if unknown:
            raise ExportError(f"{where}: the network has no label {_listed(unknown)}; it has {_listed(labels)}")
        wrong = [name for name in table.values() if name not in taxonomy.names]
        if wrong:
            raise ExportError(f"{where}: no class {_listed(wrong)} in the taxonomy; it has {', '.join(taxonomy.names)}")
        position = {label: i for i, label in enumerate(labels)}
        groups: dict[int, list[int]] = {}
        for label, name in table.items():
            groups.setdefault(taxonomy.by_name(name).id, []).append(position[label])
        ids = sorted(groups)
        return ClassMap(tuple(tuple(sorted(groups[i])) for i in ids), tuple(ids), dict(table))

    def apply(self, found: Found) -> Found:
        """`found` with taxonomy ids as labels, without what the table drops."""
        to_id = {column: self.ids[i] for i, group in enumerate(self.columns) for column in group}
        keep = np.array([int(label) in to_id for label in found.labels], bool)
        labels = np.array([to_id[int(label)] for label in found.labels[keep]], np.int64)
        return Found(found.boxes[keep], found.scores[keep], labels)


NOTHING = ClassMap((), (), {})
"""Of models that tell no classes."""


def taxonomy_labels() -> tuple[str, ...]:
    """Labels of a head that was made for roadwork, in the order of the taxonomy's ids."""
    return load_taxonomy().names


def read_table(path: Path) -> dict[str, str]:
    """A table from label to taxonomy class. Raises ExportError where it is not one."""
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(f"{path}: no such class table") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: not YAML: {error}") from None
    if not isinstance(table, dict) or not table:
        raise ExportError(f"{path}: must be a table of lines `label: taxonomy class`")
    return {str(label): str(name) for label, name in table.items()}


def class_map(labels: tuple[str, ...], table: Path | None = None, own: dict[str, str] | None = None) -> ClassMap:
    """The map for a network with these labels.

    Without a table it is `own`, the one that the labels were made from, if there is one; else labels that are the
    taxonomy's map to themselves, and COCO's by `tables/coco.yaml`.

    Raises:
        ExportError: the table names a label that the network has not, or a class that the taxonomy has not; or there
            is no table and none of the labels is known.
    """
    taxonomy = load_taxonomy()
    own = own or {label: _snake(label) for label in labels if _snake(label) in taxonomy.names}
    if table is not None:
        return ClassMap.of(labels, read_table(table), str(table))
    if own:
        return ClassMap.of(labels, own, "the network's own labels")
    coco = read_table(COCO)
    if set(coco) <= set(labels):
        return ClassMap.of(labels, coco, str(COCO))
    raise ExportError(
        f"none of the network's labels is a class of the taxonomy: {_listed(labels)}. Write a file with a line "
        f"`label: class` for each that counts, and give it with --classes; classes are {', '.join(taxonomy.names)}"
    )


def _snake(label: str) -> str:
    return label.strip().lower().replace(" ", "_").replace("-", "_")


def _listed(names: tuple[str, ...] | list[str], most: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
