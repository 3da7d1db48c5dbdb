"""The tier that is to be compressed, read from its folder and refused early where it cannot be."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadwork_cascade.prompts import Prompt, PromptError, load_prompt
from roadwork_cascade.scoring import repair_prompt

from ..errors import ExportError, WeightsError, first_line
from .schemes import Scheme, group_size, kept_by
from .tensors import Tensor, linear_layers, read_headers

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RECORD = "quantized.json"
"""Beside config.pbtxt of a folder that this command wrote: how it was made and what its check said."""


@dataclass(frozen=True)
class Subject:
    """A tier whose weights can be compressed.

    Attributes:
        engine: model.json as it is.
        weights: folder on this machine.
        kept: what stays as it is, as llmcompressor's `ignore`.
        layers: what is compressed: module's name -> (output features, input features).
        tensors: of the weights as they are.
        group: weights with a scale in common; None where the scheme has no groups.
    """

    name: str
    folder: Path
    engine: Mapping[str, Any]
    prompt: Prompt
    weights: Path
    architecture: str
    kept: tuple[str, ...]
    layers: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, Tensor]
    scheme: Scheme
    group: int | None

    @property
    def question(self) -> Prompt:
        """What is asked in the check, answered in one token.

        A scorer's own prompt. A reasoner is asked for the boolean at once, as the cascade does where its JSON was
        broken: what it would have thought first differs from run to run too much to compare by.
        """
        if self.prompt.kind == "scorer":
            return self.prompt
        text = repair_prompt(self.prompt.text(None), "", self.prompt)
        return dataclasses.replace(
            self.prompt, kind="scorer", prompt=text, findings=None, sampling=self.prompt.repair_sampling()
        )

    @property
    def processor_settings(self) -> dict[str, Any]:
        """How large the images get, where model.json says so; where they are processed is the engine's affair."""
        settings = dict(self.engine.get("mm_processor_kwargs") or {})
        settings.pop("device", None)
        return settings


def read_subject(repository: Path, name: str, scheme: Scheme, group: int | None = None) -> Subject:
    """Read a tier's folder and the headers of its weights.

    Raises:
        ExportError: it is no tier, or it cannot be compressed; the message says which file or option.
    """
    if not NAME.fullmatch(name):
        raise ExportError(f"{name!r} is not the name of a tier: letters, digits, '.', '_' and '-'")
    folder = repository / name
    if not (folder / "config.pbtxt").is_file():
        raise ExportError(f"{folder}: no such tier; roadwork-export tier {name} --weights ... makes it")
    try:
        prompt = load_prompt(folder / "prompt.json")
    except PromptError as error:
        raise ExportError(str(error)) from None
    if prompt.kind == "reasoner" and prompt.repair is None:
        raise ExportError(
            f"{folder / 'prompt.json'}: repair is missing; without it a reasoner cannot be asked for one token, and "
            "the result cannot be compared"
        )
    engine = _json(folder / "1" / "model.json")
    _refuse(folder / "1" / "model.json", engine)
    weights = find_weights(repository, folder / "1" / "model.json", engine)
    config = _json(weights / "config.json")
    architecture = _architecture(weights / "config.json", config)
    kept = kept_by(architecture)
    tensors = read_headers(weights)
    layers = linear_layers(tensors, kept)
    if not layers:
        raise WeightsError(f"{weights}: none of its tensors is a linear layer of the text model of {architecture}")
    size = group_size(scheme, list(layers.values()), group)
    return Subject(name, folder, engine, prompt, weights, architecture, kept, layers, tensors, scheme, size)


def find_weights(repository: Path, path: Path, engine: Mapping[str, Any]) -> Path:
    """The folder that `model` names: below the repository, anywhere on this machine, or in the hub's cache.

    Raises:
        WeightsError: it is not on this machine.
    """
    model = str(engine["model"])
    for folder in (repository / model, Path(model)):
        if folder.is_dir():
            return folder.resolve()
    if model.startswith((".", "/")) or model.count("/") != 1:
        raise WeightsError(f"{path}: model is {model!r}, and no such folder is there")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=engine.get("revision"), local_files_only=True))
    except Exception as error:  # the hub's client raises what it likes
        raise WeightsError(
            f"{path}: model is {model!r}, which is not in this machine's cache ({first_line(error)}); fetch it with: "
            f"hf download {model}"
        ) from None


def _refuse(path: Path, engine: Mapping[str, Any]) -> None:
    if not isinstance(engine.get("model"), str) or not engine["model"]:
        raise ExportError(f"{path}: model is missing; must be a folder or a hub id")
    if engine.get("load_format") == "dummy":
        raise ExportError(f"{path}: load_format is dummy; random weights that the engine makes up cannot be compressed")
    if engine.get("quantization"):
        raise ExportError(
            f"{path}: quantization is {engine['quantization']!r}; the tier compresses already, remove that first"
        )
    if engine.get("trust_remote_code"):
        raise ExportError(
            f"{path}: trust_remote_code is true; a model with its publisher's own code is not compressed here"
        )


def _architecture(path: Path, config: Mapping[str, Any]) -> str:
    if config.get("auto_map"):
        raise ExportError(f"{path}: auto_map names its publisher's own code; such a model is not compressed here")
    # Older checkpoints have it with the text model.
    for part in (config, config.get("text_config") or {}):
        done = part.get("quantization_config")
        if done:
            raise ExportError(f"{path}: compressed already ({done.get('quant_method', 'quantization_config')})")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        raise ExportError(f"{path}: architectures is missing")
    return str(architectures[0])


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ExportError(f"{path}: is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ExportError(f"{path}: must be a JSON object")
    return data
