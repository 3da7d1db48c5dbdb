"""Reads what a tier's folder says about its engine: model.json, multi_lora.json, parameters of config.pbtxt."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_overlay import OverlayError, overlaid

BUILD = "roadwork-export tier"
# Settings of model.json that name a folder or a hub id.
PATHS = ("model", "tokenizer", "hf_config_path", "generation_config")


class SettingsError(Exception):
    """The folder cannot be served as it is; one line that names file and setting."""


@dataclass(frozen=True)
class Sleep:
    """When an engine falls asleep: after so many seconds without a request, at vLLM's level 1 or 2."""

    after: float
    level: int = 1


@dataclass(frozen=True)
class Settings:
    """Of one tier.

    Attributes:
        engine: arguments of vLLM's AsyncEngineArgs, paths resolved.
        loras: name -> path of each adapter; empty where `enable_lora` is off.
        threads: OpenMP threads of the engine; 0 lets the backend choose.
        health_check: ENABLE_VLLM_HEALTH_CHECK.
        metrics: REPORT_CUSTOM_METRICS, unless model.json turns statistics off.
        parameters: of config.pbtxt, name -> text.
        sleep: SLEEP_AFTER_SECONDS and SLEEP_LEVEL; None: the engine never sleeps.
    """

    engine: dict[str, Any]
    loras: dict[str, str] = field(default_factory=dict)
    threads: int = 0
    health_check: bool = False
    metrics: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    sleep: Sleep | None = None


def read_settings(name: str, folder: Path, config: Mapping[str, Any], known: Callable[[], Collection[str]]) -> Settings:
    """Settings of a model version.

    Args:
        name: of the model.
        folder: of the version, `<repository>/<model>/<version>`.
        config: the model's configuration as Triton hands it to a backend.
        known: gives the names of AsyncEngineArgs' arguments; called last, since importing vLLM takes long.

    Raises:
        SettingsError: a file is missing or malformed, a key is unknown, a path does not exist.
    """
    parameters = {key: str(value.get("string_value", "")) for key, value in (config.get("parameters") or {}).items()}
    check_decoupled(name, config)
    path = folder / "model.json"
    if not path.is_file():
        raise SettingsError(f"{path} is missing; make it with: {BUILD} {name}")
    try:
        engine = overlaid(name, _object(path), parameters)
    except OverlayError as error:
        raise SettingsError(str(error)) from None
    if not isinstance(engine.get("model"), str):
        raise SettingsError(f"{path}: model: is a folder or a hub id, got {engine.get('model')!r}")
    for key in PATHS:
        if isinstance(engine.get(key), str):
            engine[key] = resolve(name, folder.parent.parent, path, key, engine[key])
    _check_weights(name, path, engine)
    loras = {}
    if _true(engine.get("enable_lora", False)):
        engine["enable_lora"] = True
        loras = _loras(folder)
    sleep = _sleep(name, parameters, path, engine)
    if sleep is not None:
        engine["enable_sleep_mode"] = True
    _check_names(path, engine, known())
    return Settings(
        engine=engine,
        loras=loras,
        threads=_threads(name, parameters),
        health_check=_true(parameters.get("ENABLE_VLLM_HEALTH_CHECK", "")),
        metrics=_true(parameters.get("REPORT_CUSTOM_METRICS", "")) and not engine.get("disable_log_stats", False),
        parameters=parameters,
        sleep=sleep,
    )


def check_sleep(name: str, sleep: Sleep | None, possible: bool) -> None:
    """Raise SettingsError where an engine shall sleep on a device that vLLM has no sleep mode for."""
    if sleep is not None and not possible:
        raise SettingsError(
            f"{name}: SLEEP_AFTER_SECONDS in config.pbtxt: vLLM's sleep mode needs a GPU; take it out, and give memory "
            f"back with: roadwork-deploy tier unload {name}"
        )


def _sleep(name: str, parameters: Mapping[str, str], path: Path, engine: Mapping[str, Any]) -> Sleep | None:
    given = parameters.get("SLEEP_AFTER_SECONDS", "0")
    try:
        after = float(given)
    except ValueError:
        after = math.nan
    if not 0 <= after < math.inf:
        raise SettingsError(f"{name}: SLEEP_AFTER_SECONDS in config.pbtxt is a number of at least 0, got {given!r}")
    level = parameters.get("SLEEP_LEVEL", "1")
    if level not in ("1", "2"):
        raise SettingsError(f"{name}: SLEEP_LEVEL in config.pbtxt is 1 or 2, got {level!r}")
    if not after:
        return None
    if engine.get("enable_sleep_mode", True) is not True:
        raise SettingsError(f"{path}: enable_sleep_mode is false and config.pbtxt has SLEEP_AFTER_SECONDS; drop one")
    reason = _level_2_loses(engine)
    if level == "2" and reason:
        raise SettingsError(f"{name}: SLEEP_LEVEL 2 reads the weights again, which {reason}; use SLEEP_LEVEL 1")
    return Sleep(after, int(level))


def _level_2_loses(engine: Mapping[str, Any]) -> str:
    """What `reload_weights` of vLLM does not bring back; empty where it brings back everything."""
    if engine.get("load_format") == "dummy":
        return "load_format dummy has not"
    if engine.get("enable_lora"):
        return "vLLM does not do with enable_lora"
    speculative = engine.get("speculative_config")
    if isinstance(speculative, dict) and speculative.get("model"):
        return "vLLM does not do for the draft model of speculative_config"
    return ""


def _check_names(path: Path, engine: Mapping[str, Any], known: Collection[str]) -> None:
    for key in engine:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SettingsError(f"{path}: {key!r} is not an engine setting of the installed vLLM{hint}")


def check_decoupled(name: str, config: Mapping[str, Any]) -> None:
    """Raise SettingsError where config.pbtxt lets a request have one response alone."""
    if not (config.get("model_transaction_policy") or {}).get("decoupled", False):
        raise SettingsError(
            f"{name}: config.pbtxt must say model_transaction_policy {{ decoupled: true }}: a tier's request has any "
            "number of responses"
        )


def check_device(name: str, kind: str, engine: Mapping[str, Any]) -> None:
    """Raise SettingsError where one instance of KIND_GPU would need several GPUs."""
    ranks = int(engine.get("tensor_parallel_size", 1)) * int(engine.get("pipeline_parallel_size", 1))
    if kind == "GPU" and ranks > 1:
        raise SettingsError(
            f"{name}: instance_group kind KIND_GPU is one GPU and model.json asks for {ranks}; set kind: KIND_MODEL"
        )


def resolve(name: str, repository: Path, file: Path, key: str, value: str) -> str:
    """A relative path that exists in the repository becomes absolute; anything else is left to vLLM as a hub id.

    Raises:
        SettingsError: it is plainly a path (absolute, or into a folder of the repository) and there is nothing.
    """
    found = repository / value
    if found.exists():
        return str(found)
    first = Path(value).parts[0] if Path(value).parts else ""
    is_path = Path(value).is_absolute() or first in (".", "..") or (first and (repository / first).is_dir())
    if is_path:
        raise SettingsError(f"{file}: {key}: {found} is missing; make it with: {BUILD} {name}")
    return value


def _check_weights(name: str, file: Path, engine: Mapping[str, Any]) -> None:
    folder = Path(engine["model"])
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file() and "hf_config_path" not in engine:
        raise SettingsError(f"{file}: model: {folder} has no config.json; make it with: {BUILD} {name}")
    dummy = engine.get("load_format") == "dummy"
    if not dummy and not any(
        found for kind in ("safetensors", "bin", "pt", "gguf") for found in folder.glob(f"*.{kind}")
    ):
        raise SettingsError(f"{file}: model: {folder} has no weights; make them with: {BUILD} {name}")


def _loras(folder: Path) -> dict[str, str]:
    path = folder / "multi_lora.json"
    if not path.is_file():
        raise SettingsError(f"{path} is missing; enable_lora in model.json needs it: {{name: path of an adapter}}")
    loras = {}
    for lora, where in _object(path).items():
        found = folder.parent.parent / str(where)
        if not found.exists():
            raise SettingsError(f"{path}: {lora}: {found} is missing")
        loras[lora] = str(found)
    return loras


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON ({error})") from None
    if not isinstance(data, dict):
        raise SettingsError(f"{path} is a JSON object, got {type(data).__name__}")
    return data


def _threads(name: str, parameters: Mapping[str, str]) -> int:
    text = parameters.get("threads", "0")
    if not text.isdigit():
        raise SettingsError(f"{name}: parameter threads in config.pbtxt is a whole number, got {text!r}")
    return int(text)


def _true(value: Any) -> bool:
    return str(value).lower() == "true"
