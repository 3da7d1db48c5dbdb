"""Puts compressed weights into the model repository, as a tier of their own or in the place of the old ones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ExportError
from ..folder import draft
from .card import card
from .subject import NAME, RECORD, Subject

WEIGHTS = Path("1") / "weights"
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.gguf")


def target_name(repository: Path, subject: Subject, out: str | None, replace: bool) -> str:
    """The folder to be written.

    Raises:
        ExportError: something else has that name, or the weights are not this tier's alone.
    """
    if replace:
        if out is not None:
            raise ExportError("--out and --replace exclude one another")
        sharing = sorted(_others(repository, subject))
        if sharing:
            raise ExportError(
                f"--replace: {', '.join(sharing)} {'is' if len(sharing) == 1 else 'are'} served from the weights of "
                f"{subject.name} too; leave --replace out"
            )
        return subject.name
    name = out or f"{subject.name}_{subject.scheme.name}"
    if not NAME.fullmatch(name):
        raise ExportError(f"--out is {name!r}, must be a name of letters, digits, '.', '_' and '-'")
    there = repository / name
    if there.exists() and made_of(there) != subject.name:
        raise ExportError(
            f"{there}: is there, and was not made of {subject.name} by this command; choose another --out"
        )
    return name


def made_of(folder: Path) -> str | None:
    """The tier that a folder was compressed from; None where this command did not write it."""
    try:
        return str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["tier"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _others(repository: Path, subject: Subject) -> list[str]:
    """Other tiers of the repository whose model.json names weights inside this tier's folder."""
    own = (subject.folder / WEIGHTS).resolve()
    found = []
    for path in repository.glob("*/1/model.json"):
        name = path.parent.parent.name
        if name == subject.name or name.startswith("."):
            continue
        try:
            model = str(json.loads(path.read_text(encoding="utf-8")).get("model", ""))
        except (OSError, ValueError, AttributeError):
            continue
        if model and (repository / model).resolve() == own:
            found.append(name)
    return found


def finish_weights(subject: Subject, made: Path) -> None:
    """Beside what llmcompressor wrote, put the tier's own tokenizer, template and processor, unchanged."""
    skipped = {path.name for pattern in WEIGHT_FILES for path in subject.weights.glob(pattern)} | {"config.json"}
    for path in subject.weights.iterdir():
        if path.is_file() and path.name not in skipped and not path.name.startswith("."):
            shutil.copyfile(path, made / path.name)
    for path in made.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone, and the server may be another user


def engine_of(subject: Subject, model: str) -> dict[str, Any]:
    """model.json of the compressed tier: the same settings on other weights, whose scheme the engine reads itself."""
    engine = {**subject.engine, "model": model}
    if engine.get("tokenizer") == subject.engine["model"]:
        engine["tokenizer"] = model
    engine.pop("revision", None)  # of the hub's repository
    return engine


def put(repository: Path, subject: Subject, name: str, made: Path, record: Mapping[str, Any]) -> Path:
    """Write `<repository>/<name>` in one step: whatever had that name stays until the new folder is whole.

    Args:
        made: folder of the finished weights, which is moved.
        record: how it was made and what its check said.
    """
    target = repository / name
    room = sum(path.stat().st_size for path in made.iterdir())
    same_disk = made.stat().st_dev == repository.stat().st_dev
    with draft(target, 0 if same_disk else room) as new:
        _copy_tier(subject, new)
        (new / "1").mkdir(exist_ok=True)
        shutil.move(made, new / WEIGHTS)
        model = f"{name}/{WEIGHTS.as_posix()}"
        for path in (new / "config.pbtxt", *sorted((new / "configs").glob("*.pbtxt"))):
            path.write_text(renamed(path.read_text(encoding="utf-8"), subject.name, name), encoding="utf-8")
        prompt = json.loads((new / "prompt.json").read_text(encoding="utf-8"))
        _write_json(new / "prompt.json", {**prompt, "model": model}, indent=2)
        _write_json(new / "1" / "model.json", engine_of(subject, model), indent=2)
        _write_json(new / RECORD, record, indent=1)
        (new / "MODEL_CARD.md").write_text(card(name, subject, record), encoding="utf-8")
    return target


def _copy_tier(subject: Subject, new: Path) -> None:
    """Everything of the tier's folder but its weights and what is written anew."""
    own = (subject.folder / WEIGHTS).resolve()

    def skip(folder: str, names: list[str]) -> set[str]:
        here = Path(folder)
        return {n for n in names if (here / n).resolve() == own or n in (RECORD, "MODEL_CARD.md", "__pycache__")}

    shutil.copytree(subject.folder, new, ignore=skip, dirs_exist_ok=True)


def renamed(config: str, old: str, new: str) -> str:
    """config.pbtxt with another name, where it has one."""
    return re.sub(rf'^(\s*name\s*:\s*)"{re.escape(old)}"', rf'\g<1>"{new}"', config, count=1, flags=re.MULTILINE)


def _write_json(path: Path, content: Any, indent: int) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
