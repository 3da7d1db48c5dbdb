"""Are the weights of a model here, and if not, which command brings them? Nothing is asked of the network."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from roadwork_deploy.hub_cache import all_files, in_cache

if TYPE_CHECKING:
    from roadwork_deploy.repository import Model

# Files that a backend reads a version from; those of other backends are their own affair.
FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan", "python": "model.py"}
TIER = "vllm"
PROMPT = "prompt.json"


@dataclass(frozen=True)
class Lack:
    """What a folder lacks to be served: `what` says it, `command` brings it."""

    what: str
    command: str

    def __str__(self) -> str:
        return f"{self.what}; build it with: {self.command}"


def lack(model: Model) -> Lack | None:
    """What keeps a network or a tier from being served; None where its weights are here, or it has none.

    The weights of a tier are a folder or whole in the local Hugging Face cache. A tier needs its `prompt.json` too: the
    cascade asks none without.
    """
    if model.backend == TIER:
        return _tier_lack(model)
    if model.backend not in ("onnxruntime", "tensorrt"):
        return None
    missing = missing_file(model)
    return None if missing is None else Lack(f"{missing} is missing", network_command(model))


def missing_file(model: Model) -> Path | None:
    """The file that none of a model's versions has; None where one has it, or the backend reads none."""
    filename = model.config.default_model_filename or FILES.get(model.backend)
    if model.ensemble or filename is None:
        return None
    versions = [p for p in model.folder.iterdir() if p.is_dir() and p.name.isdigit()]
    if any((version / filename).exists() for version in versions):
        return None
    return model.folder / (max((v.name for v in versions), key=int, default="1")) / filename


def network_command(model: Model) -> str:
    """The command that writes the file of a detector, a scene model or a distance model."""
    command = "onnx" if "source" in model.config.parameters else "build"
    return f"roadwork-export {command} {shlex.quote(model.name)}"


def tier_command(name: str, source: str = "") -> str:
    """The command that writes a tier's folder; without a source, of weights that the caller has."""
    return f"roadwork-export tier {shlex.quote(name)}" + (f" --weights {shlex.quote(source)}" if source else "")


def tier_lack(folder: Path, checkpoint: str | None = None) -> Lack | None:
    """What the weights of a tier's folder lack, as its `1/model.json` names them or, before that, `checkpoint` does."""
    path = folder / "1" / "model.json"
    try:
        engine = json.loads(path.read_text(encoding="utf-8"))
        source = checkpoint or engine["model"]
        if not isinstance(source, str) or not source:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        what = f"{path} is missing or is not a JSON object that names a model"
        return Lack(what, tier_command(folder.name))
    made_up = engine.get("load_format") == "dummy"
    found = folder.parent / source
    if found.exists():
        whole = made_up or found.is_file() or all_files(found)
        return None if whole else Lack(f"{found} has no weights, or not all of them", _tier_command(folder, source))
    first = Path(source).parts[0]
    if first in ("/", ".", "..") or (folder.parent / first).is_dir():
        return Lack(f"{found} is missing", _tier_command(folder, source))
    if in_cache(source, engine.get("revision"), weights=not made_up):
        return None
    what = f"{source} is not in this machine's Hugging Face cache, or not all of it"
    return Lack(what, tier_command(folder.name, source))


def _tier_lack(model: Model) -> Lack | None:
    found = tier_lack(model.folder)
    if found is not None or (model.folder / PROMPT).is_file():
        return found
    source = json.loads((model.folder / "1" / "model.json").read_text(encoding="utf-8"))["model"]
    return Lack(f"{model.folder / PROMPT} is missing", _tier_command(model.folder, source))


def _tier_command(folder: Path, source: str) -> str:
    """Weights inside the folder are the command's own to find."""
    return tier_command(folder.name, "" if source.startswith(f"{folder.name}/") else source)
