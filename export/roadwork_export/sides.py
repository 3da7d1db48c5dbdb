"""What speaks for roadwork and what against it: prompts of a CLIP model, labels of an image classifier."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .errors import ExportError

PROMPTS = Path(__file__).with_name("tables") / "scene_prompts.yaml"
ROADWORK = re.compile(r"road ?works?|work ?zone|construction")
NEGATED = re.compile(r"\b(no|non|not|without|none)\b")
FORM = "must have the keys `positive` and `negative`, each a list of texts"


def read_sides(path: Path) -> dict[str, list[str]]:
    """`positive` and `negative` texts. Raises ExportError where the file is not of this form."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(f"{path}: no such file; it {FORM}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ExportError(f"{path}: not YAML: {error}") from None
    return checked(found, str(path))


def checked(sides: Any, where: str) -> dict[str, list[str]]:
    if not isinstance(sides, Mapping) or set(sides) != {"positive", "negative"}:
        raise ExportError(f"{where}: {FORM}")
    for side, texts in sides.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ExportError(f"{where}: {side} must be a list of texts, in quotes where they are numbers")
    both = set(sides["positive"]) & set(sides["negative"])
    if both:
        raise ExportError(f"{where}: {sorted(both)[0]!r} is on both sides")
    return {side: list(texts) for side, texts in sides.items()}


def roadwork_label(labels: Sequence[str]) -> int:
    """Position of the label that means roadwork.

    Raises:
        ExportError: none does, or several.
    """
    plain = [re.sub(r"[_\-]+", " ", label.strip().lower()) for label in labels]
    found = [i for i, text in enumerate(plain) if ROADWORK.search(text) and not NEGATED.search(text)]
    if len(found) == 1:
        return found[0]
    told = "none of its labels says" if not found else "several of its labels say"
    shown = ", ".join(repr(label) for label in labels[:6]) + (", ..." if len(labels) > 6 else "")
    raise ExportError(
        f"{told} roadwork: {shown}. Name it in a file with the lists `positive` and `negative`, given with --classes"
    )


def positive_labels(labels: Sequence[str], sides: Mapping[str, Sequence[str]] | None) -> list[int]:
    """Positions of the labels that mean roadwork, by the table or, without one, by their names.

    Raises:
        ExportError: the table names a label that is not there, or there is none that says roadwork.
    """
    if sides is None:
        return [roadwork_label(labels)]
    unknown = [text for side in sides.values() for text in side if text not in labels]
    if unknown:
        shown = ", ".join(repr(label) for label in labels[:6]) + (", ..." if len(labels) > 6 else "")
        raise ExportError(f"--classes: the network has no label {unknown[0]!r}; it has {shown}")
    return [labels.index(text) for text in sides["positive"]]
