"""Profiles: which models a kind of machine serves, and with how much of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from roadwork_deploy.errors import ProfileError
from roadwork_deploy.repository import Kind, Model, members
from roadwork_deploy.shm import MIB, Budget

FOLDER = Path(__file__).with_name("profiles")


@dataclass(frozen=True)
class Share:
    """What one model gets.

    Attributes:
        instances: copies that run at once; None leaves `config.pbtxt` as it is.
        threads: of one instance; None leaves `config.pbtxt` as it is. 0 lets the backend choose.
        batching: False lets no requests wait for others to be batched with; None leaves `config.pbtxt` as it is. On a
            CPU a batch of a small network is slower an image than its images one by one: they fall out of the cache.
        parameters: of `config.pbtxt` that are set to something else.
    """

    instances: int | None = None
    threads: int | None = None
    batching: bool | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """One file of `profiles/`.

    Attributes:
        name: the file's.
        description: the machine that it suits.
        config_name: of `--model-config-name`; models are read from `configs/<config_name>.pbtxt`.
        device: where instances run that a `config.pbtxt` does not put anywhere.
        entries: models that a caller asks and that have to answer before the server counts as started.
        models: every model that is served by name, in order.
        detectors: share of each box detector and distance model that `models` does not name.
        scenes: the same for scene models.
        budget: shared memory of each model process; `instances` is filled in by `plan`.
        suits: models of the catalogue that this machine has room for; `serve` names those that nobody has exported.
        tiers: vision-language tiers that join after the start, in order; none of them has to.
        environment: variables of the server, where the caller has not set them.
    """

    name: str
    description: str
    config_name: str
    device: Literal["cpu", "gpu"]
    entries: tuple[str, ...]
    models: Mapping[str, Share]
    detectors: Share
    scenes: Share
    budget: Budget
    tiers: tuple[str, ...] = ()
    suits: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def plan(self, repository: Mapping[str, Model]) -> dict[str, Share]:
        """Name -> share of every model that is served from this repository: the named ones and the members found."""
        shares: dict[str, Share] = {}
        for name, kind in members(repository).items():
            shares[name] = self.models.get(name, self._of(kind))
        return {**self.models, **shares}

    def _of(self, kind: Kind) -> Share:
        return self.scenes if kind == "scene" else self.detectors


def known_profiles() -> list[str]:
    """Names that `load_profile` takes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        ProfileError: unknown, or malformed; the message names the field.
    """
    known = known_profiles()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ProfileError(f"profile {name!r} is unknown{hint} (known: {', '.join(known)})")
    return read_profile(FOLDER / f"{name}.yaml")


def read_profile(path: Path) -> Profile:
    """A profile from a file; its name is the file's. `base` names another profile, whose fields it has where it does
    not say otherwise.
    """
    data = _read(path)
    if isinstance(data, dict) and "base" in data:
        base = data.pop("base")
        others = [name for name in known_profiles() if name != path.stem]
        if base not in others:
            raise ProfileError(f"{path.name}: base: is one of {', '.join(others)}, got {base!r}")
        data = {**_read(FOLDER / f"{base}.yaml"), **data}
    return _Reader(path.name).profile(path.stem, data)


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ProfileError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None


class _Reader:
    """Checks as it reads; every message begins with the file and the field."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, where: str, problem: str) -> ProfileError:
        return ProfileError(f"{self.file}: {where}: {problem}")

    def profile(self, name: str, data: Any) -> Profile:
        fields = ("description", "config_name", "device", "entries", "models", "detectors", "scenes", "shared_memory")
        data = self.mapping("profile", data, (*fields, "tiers", "suits", "environment"), required=fields)
        device = data["device"]
        if device not in ("cpu", "gpu"):
            raise self.fail("device", f"can be cpu or gpu, got {device!r}")
        config_name = self.text("config_name", data["config_name"])
        if not config_name.replace("_", "").replace("-", "").isalnum():
            raise self.fail("config_name", f"is a file name of letters, digits, - and _, got {config_name!r}")
        raw = self.mapping("models", data["models"])
        models = {str(key): self.share(f"models.{key}", value) for key, value in raw.items()}
        if not models:
            raise self.fail("models", "names no model")
        return Profile(
            name=name,
            description=self.text("description", data["description"]),
            config_name=config_name,
            device=device,
            entries=self.entries(data["entries"], models),
            models=models,
            detectors=self.share("detectors", data["detectors"]),
            scenes=self.share("scenes", data["scenes"]),
            budget=self.budget(data["shared_memory"]),
            tiers=self.names("tiers", data.get("tiers", []), models),
            suits=self.names("suits", data.get("suits", []), models),
            environment=self.variables(data.get("environment", {})),
        )

    def entries(self, value: Any, models: Mapping[str, Share]) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise self.fail("entries", f"is a list of models, got {value!r}")
        for index, name in enumerate(value):
            if name not in models:
                raise self.fail(f"entries[{index}]", f"{name!r} is not in models")
        return tuple(value)

    def names(self, where: str, value: Any, models: Mapping[str, Share]) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise self.fail(where, f"is a list of folders, got {value!r}")
        for index, name in enumerate(value):
            if name in models or name in value[:index]:
                raise self.fail(f"{where}[{index}]", f"{name!r} is named twice")
        return tuple(value)

    def variables(self, value: Any) -> dict[str, str]:
        data = self.mapping("environment", value)
        for name, text in data.items():
            if not isinstance(name, str) or not isinstance(text, str):
                raise self.fail(f"environment.{name}", f"is text (put it in quotes), got {text!r}")
        return data

    def share(self, where: str, value: Any) -> Share:
        data = self.mapping(where, {} if value is None else value, ("instances", "threads", "batching", "parameters"))
        parameters = self.mapping(f"{where}.parameters", data.get("parameters") or {})
        return Share(
            instances=self.count(f"{where}.instances", data.get("instances"), least=1),
            threads=self.count(f"{where}.threads", data.get("threads"), least=0),
            batching=self.switch(f"{where}.batching", data.get("batching")),
            parameters={str(key): str(value) for key, value in parameters.items()},
        )

    def budget(self, value: Any) -> Budget:
        data = self.mapping(
            "shared_memory", value, ("instance_mib", "growth_mib"), required=("instance_mib", "growth_mib")
        )
        sizes = [self.count(f"shared_memory.{key}", data[key], least=1) or 1 for key in ("instance_mib", "growth_mib")]
        return Budget(instance_bytes=sizes[0] * MIB, growth_bytes=sizes[1] * MIB)

    def mapping(
        self, where: str, value: Any, known: Iterable[str] | None = None, required: Iterable[str] = ()
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(where, f"is a mapping, got {value!r}")
        prefix = "" if where == "profile" else f"{where}."
        names = list(known) if known is not None else None
        for key in value:
            if names is not None and key not in names:
                near = difflib.get_close_matches(str(key), names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
                raise self.fail(f"{prefix}{key}", f"is unknown; {hint}")
        for key in required:
            if key not in value:
                raise self.fail(f"{prefix}{key}", "is missing")
        return value

    def text(self, where: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise self.fail(where, f"is text, got {value!r}")
        return value

    def switch(self, where: str, value: Any) -> bool | None:
        if value is not None and not isinstance(value, bool):
            raise self.fail(where, f"is true or false, got {value!r}")
        return value

    def count(self, where: str, value: Any, least: int) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.fail(where, f"is a whole number of at least {least}, got {value!r}")
        return value
