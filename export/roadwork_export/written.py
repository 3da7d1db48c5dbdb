"""Writes the folders of the catalogue's models into a model repository, as far as they need no weights.

A tier gets `config.pbtxt` and `1/model.json`, which names the hub id of its weights; its `prompt.json` is rendered with
the model's own chat template and comes with `roadwork-export tier`. A detector, scene model or distance model gets
`config.pbtxt`. The same catalogue gives the same bytes. Nothing here imports a network's library.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .catalogue import OWN, Catalogue, Entry
from .errors import ExportError
from .family import Kind
from .folder import config, config_facts
from .techniques import merge
from .tiers.folder import CONFIG, TEXT_TOKENS
from .tiers.prompting import ANSWER_TOKENS, THINKING_TOKENS

KINDS: dict[str, Kind] = {"boxes": "boxes", "open_vocabulary": "boxes", "scene": "scene", "distance": "distance"}
"""Role -> kind of folder."""
FIRST_LINE = "# Written by `roadwork-export repository`: do not edit."
VISUAL_TOKENS = 2048
"""Room for an image where the processor's own limit is not known; a reader of documents gets twice as much."""
PAGE_TOKENS = 2048
"""Room for what a reader of documents writes."""
MADE = ("prompt.json", "1/model.onnx", "1/model.plan")
"""What the commands that bring weights leave. A folder that has one of them is theirs, and is left alone."""


def written(catalogue: Catalogue) -> tuple[Entry, ...]:
    """The entries that get a folder: tiers and readers for vLLM, and what is exported to ONNX; not the project's own,
    whose folders are committed with their weights."""
    return tuple(entry for entry in catalogue if entry.family != OWN and entry.served in ("vllm", "onnx"))


def engine_arguments(entry: Entry) -> dict[str, Any]:
    """The content of a tier's `model.json`, before a planner knows the hardware.

    The context is what a request needs: image, question with perception's findings, answer. Code of the publisher is
    not allowed here: who trusts it adds `trust_remote_code`.

    Raises:
        ExportError: vLLM does not serve it.
    """
    serving = entry.serving
    if serving is None or entry.source is None:
        raise ExportError(
            f"{entry.name} is not a model for vLLM; roadwork-export show {entry.name} says how it is served"
        )
    length = {
        "scorer": VISUAL_TOKENS + TEXT_TOKENS + 1,
        "reasoner": VISUAL_TOKENS + TEXT_TOKENS + max(THINKING_TOKENS, ANSWER_TOKENS),
        "words": 2 * VISUAL_TOKENS + PAGE_TOKENS,
    }[serving.prompt]
    settings: dict[str, Any] = {
        "model": entry.source,
        "dtype": "auto",
        "max_model_len": min(serving.context, -(-length // 128) * 128),
        # Every request has another image: keeping the last ones costs memory and hashing, and finds nothing.
        "mm_processor_cache_gb": 0,
        "enable_prefix_caching": False,
    }
    return merge(settings, serving.settings)


def files(entry: Entry) -> dict[str, str]:
    """Path in the model's folder -> text. Raises ExportError for an entry that gets no folder."""
    if entry.served == "vllm":
        return {
            "config.pbtxt": f"{_comment(entry)}{CONFIG.partition(chr(10))[2].format(name=entry.name)}",
            "1/model.json": json.dumps(engine_arguments(entry), indent=2) + "\n",
        }
    if entry.served != "onnx":
        raise ExportError(f"{entry.name} gets no folder: it is served as {entry.served!r}")
    told = config_facts(entry, entry.source or "")
    return {"config.pbtxt": _comment(entry) + config(entry.name, KINDS[entry.role], told)}


def differing(repository: Path, entries: Iterable[Entry]) -> dict[Path, str]:
    """Files that are missing or say something else -> what they should say; folders with weights are left out."""
    found: dict[Path, str] = {}
    for entry in entries:
        folder = repository / entry.name
        if any((folder / name).exists() for name in MADE):
            continue
        for name, text in files(entry).items():
            path = folder / name
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                found[path] = text
    return found


def write(repository: Path, entries: Iterable[Entry]) -> list[Path]:
    """Write what differs, and return its paths.

    Raises:
        ExportError: the repository is not there, or cannot be written to.
    """
    if not repository.is_dir():
        raise ExportError(f"{repository} is not a folder; give --repository the folder of models")
    changes = differing(repository, entries)
    for path, text in changes.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ExportError(f"{path}: cannot be written: {error.strerror or error}") from None
    return list(changes)


def _comment(entry: Entry) -> str:
    weights = f" Weights: {entry.source}, {entry.licence}." if entry.source else ""
    terms = " Needs trust_remote_code in 1/model.json." if entry.serving and entry.serving.remote_code else ""
    return f"{FIRST_LINE}{weights}{terms}\n"
