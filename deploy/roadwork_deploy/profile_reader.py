"""Reads a profile's file and checks it; every error names file, line and field."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from roadwork_deploy.errors import PlanError, ProfileError
from roadwork_deploy.planner.hardware import GB, parse_gpus
from roadwork_deploy.profile import Placement, Profile, Share, TierShare
from roadwork_deploy.shm import MIB, Budget


def read_file(path: Path) -> tuple[Any, dict[str, int]]:
    """Content of a YAML file, and field -> line, fields written as in `tiers.small.gpus[0]`.

    Raises:
        ProfileError: it cannot be read, is not YAML, or has a field twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[str, int] = {}
        _note_lines(path.name, node, "", lines)
        return yaml.safe_load(text), lines
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}; roadwork-deploy plan --write makes one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None


def _note_lines(file: str, node: yaml.Node | None, at: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            where = f"{at}.{key.value}" if at else str(key.value)
            line = key.start_mark.line + 1
            if where in lines:
                raise ProfileError(f"{file}, line {line}: {where}: is there twice, first in line {lines[where]}")
            lines[where] = line
            _note_lines(file, value, where, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            where = f"{at}[{index}]"
            lines[where] = value.start_mark.line + 1
            _note_lines(file, value, where, lines)


class Reader:
    """Checks as it reads; every message begins with the file and the field."""

    def __init__(self, file: str, lines: Mapping[str, int]) -> None:
        self.file = file
        self.lines = lines

    def fail(self, where: str, problem: str) -> ProfileError:
        """The error; its line is that of the field, or of the nearest around it that the file has."""
        at = where
        while at and at not in self.lines:
            at = at[: max(at.rfind("."), at.rfind("["), 0)]
        line = self.lines.get(at)
        return ProfileError(f"{self.file}{f', line {line}' if line else ''}: {where}: {problem}")

    def profile(self, name: str, data: Any) -> Profile:
        fields = ("description", "config_name", "device", "entries", "models", "detectors", "scenes", "shared_memory")
        more = ("tiers", "placement", "hardware", "environment")
        data = self.mapping("profile", data, (*fields, *more), required=fields)
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
        shares = self.tier_shares(data.get("tiers"))
        tiers = data.get("tiers", [])
        profile = Profile(
            name=name,
            description=self.text("description", data["description"]),
            config_name=config_name,
            device=device,
            entries=self.entries(data["entries"], models),
            models=models,
            detectors=self.share("detectors", data["detectors"]),
            scenes=self.share("scenes", data["scenes"]),
            budget=self.budget(data["shared_memory"]),
            tiers=self.names("tiers", list(tiers) if isinstance(tiers, dict) else tiers, models),
            tier_shares=shares,
            placement=self.placement(data.get("placement", {})),
            hardware=self.text("hardware", data["hardware"]) if "hardware" in data else "",
            environment=self.variables(data.get("environment", {})),
        )
        self.check_room(profile)
        return profile

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

    def tier_shares(self, value: Any) -> dict[str, TierShare]:
        if not isinstance(value, dict):
            return {}  # a list of names, or nothing
        found = {}
        for name, raw in value.items():
            at = f"tiers.{name}"
            data = self.mapping(
                at, {} if raw is None else raw, ("gpus", "engine", "precision", "checkpoint", "memory_gb")
            )
            engine = self.mapping(f"{at}.engine", data.get("engine") or {})
            for key in engine:
                if not isinstance(key, str):
                    raise self.fail(f"{at}.engine.{key}", "is a setting of the engine, so it is text")
            gpus = self.gpus(f"{at}.gpus", data.get("gpus", []))
            parallel = engine.get("tensor_parallel_size")
            if gpus and parallel is not None and parallel != len(gpus):
                raise self.fail(f"{at}.engine.tensor_parallel_size", f"is {parallel!r}, and gpus names {len(gpus)}")
            found[str(name)] = TierShare(
                gpus=gpus,
                engine=engine,
                precision=self.text(f"{at}.precision", data["precision"]) if "precision" in data else "",
                checkpoint=self.text(f"{at}.checkpoint", data["checkpoint"]) if "checkpoint" in data else None,
                bytes=self.gigabytes(f"{at}.memory_gb", data.get("memory_gb", 0)),
            )
        return found

    def placement(self, value: Any) -> dict[str, Placement]:
        found = {}
        for name, raw in self.mapping("placement", value).items():
            at = f"placement.{name}"
            data = self.mapping(at, raw, ("gpus", "batch", "memory_gb"), required=("gpus",))
            found[str(name)] = Placement(
                gpus=self.gpus(f"{at}.gpus", data["gpus"], least=1),
                batch=self.count(f"{at}.batch", data.get("batch"), least=1),
                bytes=self.gigabytes(f"{at}.memory_gb", data.get("memory_gb", 0)),
            )
        return found

    def gpus(self, where: str, value: Any, least: int = 0) -> tuple[int, ...]:
        good = isinstance(value, list) and all(
            isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in value
        )
        if not good or len(set(value)) < len(value) or len(value) < least:
            raise self.fail(where, f"is a list of numbers of GPUs, each once, got {value!r}")
        return tuple(value)

    def gigabytes(self, where: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise self.fail(where, f"is a number of GB (1e9 bytes), got {value!r}")
        return int(value * GB)

    def check_room(self, profile: Profile) -> None:
        """No GPU gives more than it has, nor is there one that `hardware` does not name."""
        if not profile.hardware:
            return
        try:
            gpus = parse_gpus(profile.hardware)
        except PlanError as error:
            raise self.fail("hardware", str(error).removeprefix("--gpus: ")) from None
        for index, claimed in profile.claimed().items():
            names = profile.on(index)
            where = f"tiers.{names[0]}" if names[0] in profile.tier_shares else f"placement.{names[0]}"
            if index >= len(gpus):
                raise self.fail(
                    f"{where}.gpus", f"GPU {index} is not among hardware {profile.hardware} (0 to {len(gpus) - 1})"
                )
            if claimed > gpus[index].bytes:
                raise self.fail(
                    f"{where}.memory_gb",
                    f"GPU {index} has {gpus[index].bytes / GB:.1f} GB, and {', '.join(names)} claim "
                    f"{claimed / GB:.1f} GB together",
                )

    def share(self, where: str, value: Any) -> Share:
        known = ("instances", "threads", "batching", "batch", "delay_ms", "parameters")
        data = self.mapping(where, {} if value is None else value, known)
        parameters = self.mapping(f"{where}.parameters", data.get("parameters") or {})
        for key in ("batch", "delay_ms"):
            if data.get("batching") is False and data.get(key) is not None:
                raise self.fail(f"{where}.{key}", "is for a model that batches, and batching is false")
        return Share(
            instances=self.count(f"{where}.instances", data.get("instances"), least=1),
            threads=self.count(f"{where}.threads", data.get("threads"), least=0),
            batching=self.switch(f"{where}.batching", data.get("batching")),
            batch=self.count(f"{where}.batch", data.get("batch"), least=1),
            delay_ms=self.milliseconds(f"{where}.delay_ms", data.get("delay_ms")),
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

    def milliseconds(self, where: str, value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 60_000:
            raise self.fail(where, f"is a number of milliseconds from 0 to 60000, got {value!r}")
        return float(value)

    def count(self, where: str, value: Any, least: int) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.fail(where, f"is a whole number of at least {least}, got {value!r}")
        return value
