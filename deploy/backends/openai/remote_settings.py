"""Reads what a remote tier's folder says about its server: 1/remote.json, and prompt.json for its prompt's parts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
from vllm_settings import SettingsError

FILE = "remote.json"
BUILD = "roadwork-export tier NAME --remote URL --model ID"
SECONDS = {"type": "number", "exclusiveMinimum": 0, "maximum": 86400}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["url", "model"],
    "additionalProperties": False,
    "properties": {
        "url": {"type": "string", "minLength": 1},
        "model": {"type": "string", "minLength": 1},
        "engine": {"enum": ["vllm", "sglang", "lmdeploy", "openai"]},
        "api": {"enum": ["chat", "completions"]},
        "question": {"type": "string", "minLength": 1},
        "key_env": {"type": ["string", "null"], "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "lazy": {"type": "boolean"},
        "check_prompt": {"type": "boolean"},
        "timeouts": {
            "type": "object",
            "additionalProperties": False,
            "properties": dict.fromkeys(("connect", "first_byte", "total", "ready"), SECONDS),
        },
        "max_connections": {"type": "integer", "minimum": 1, "maximum": 4096},
        "proxy": {"type": ["string", "null"]},
        "extra_body": {"type": "object"},
    },
}
# What the backend itself writes into a request: extra_body may not contradict it.
OWN_FIELDS = ("model", "messages", "prompt", "stream", "stream_options", "logprobs", "top_logprobs", "n")


@dataclass(frozen=True)
class Timeouts:
    """Seconds. `connect`: until a connection stands. `first_byte`: until a streamed answer begins. `total`: of a whole
    request, also where it waits for a free connection. `ready`: how long a load waits for the server to answer."""

    connect: float = 5.0
    first_byte: float = 60.0
    total: float = 300.0
    ready: float = 30.0


@dataclass(frozen=True)
class Frame:
    """What stands around the user's text in a rendered prompt.

    Attributes:
        before: up to where perception's findings may stand.
        question: what is asked, the end of the user's text.
        after: from the question's end to where the answer begins.
    """

    before: str
    question: str
    after: str


@dataclass(frozen=True)
class RemoteSettings:
    """Of one remote tier; see docs/remote_tiers.md. `key` is what the environment variable holds, never shown."""

    url: str
    model: str
    engine: str = "openai"
    api: str = "chat"
    frame: Frame | None = None
    words: Mapping[str, int] = field(default_factory=dict)
    key_env: str | None = None
    key: str | None = field(default=None, repr=False)
    lazy: bool = False
    check_prompt: bool = True
    timeouts: Timeouts = Timeouts()
    max_connections: int = 64
    proxy: str | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)


def read_remote(folder: Path, environment: Mapping[str, str] = os.environ) -> RemoteSettings:
    """Settings of a model version.

    Args:
        folder: of the version, `<repository>/<model>/<version>`; `prompt.json` lies beside it.
        environment: where the key is.

    Raises:
        SettingsError: a file is missing or malformed, or the key is not set; one line that names file and field.
    """
    path = folder / FILE
    data = _read(path)
    problem = next(iter(sorted(jsonschema.Draft202012Validator(SCHEMA).iter_errors(data), key=_depth)), None)
    if problem is not None:
        raise SettingsError(f"{path}: {_where(problem)}{problem.message}")
    url = _url(path, data["url"])
    api = data.get("api", "chat")
    prompt_path = folder.parent / "prompt.json"
    prompt = _read(prompt_path) if api == "chat" or prompt_path.is_file() else {}
    for name in data.get("extra_body", {}):
        if name in OWN_FIELDS:
            raise SettingsError(f"{path}: extra_body.{name}: is written by the backend itself; leave it out")
    key_env = data.get("key_env")
    return RemoteSettings(
        url=url,
        model=data["model"],
        engine=data.get("engine", "openai"),
        api=api,
        frame=_frame(path, data, prompt_path, prompt) if api == "chat" else None,
        words=_words(prompt_path, prompt),
        key_env=key_env,
        key=_key(path, key_env, environment),
        lazy=data.get("lazy", False),
        check_prompt=data.get("check_prompt", True),
        timeouts=Timeouts(**data.get("timeouts", {})),
        max_connections=data.get("max_connections", 64),
        proxy=data.get("proxy"),
        extra_body=data.get("extra_body", {}),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} is missing; make it with: {BUILD}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(data, dict):
        raise SettingsError(f"{path} is a JSON object, got {type(data).__name__}")
    return data


def _depth(problem: Any) -> int:
    return len(problem.absolute_path)


def _where(problem: Any) -> str:
    place = ".".join(str(part) for part in problem.absolute_path)
    return f"{place}: " if place else ""


def _url(path: Path, url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment:
        raise SettingsError(f"{path}: url: is the address of an API such as http://127.0.0.1:8000/v1, got {url!r}")
    if parts.username or parts.password:
        raise SettingsError(f"{path}: url: holds a name or password; name an environment variable in key_env instead")
    return url.rstrip("/")


def _frame(path: Path, data: Mapping[str, Any], prompt_path: Path, prompt: Mapping[str, Any]) -> Frame:
    """The rendered prompt taken apart at its question: over the chat API the server writes what stands around it."""
    question, text = data.get("question"), prompt.get("prompt")
    if question is None:
        raise SettingsError(f"{path}: question: is missing, and api chat needs it; make the file with: {BUILD}")
    if not isinstance(text, str) or text.count(question) != 1:
        raise SettingsError(f"{path}: question: does not stand once in the prompt of {prompt_path}")
    before, after = text.split(question)
    before = before.removesuffix("{findings}")
    if not after or "{findings}" in before + after:
        raise SettingsError(f"{prompt_path}: prompt: has {{findings}} elsewhere than before the question of {path}")
    return Frame(before, question, after)


def _words(path: Path, prompt: Mapping[str, Any]) -> dict[str, int]:
    """Ids of the tokens of yes and no by their text; for servers that tell a token's text alone."""
    found: dict[str, int] = {}
    for name in ("yes", "no"):
        tokens = prompt.get(name, {})
        if not isinstance(tokens, dict) or not all(isinstance(v, int) and v >= 0 for v in tokens.values()):
            raise SettingsError(f"{path}: {name}: is an object of token ids by their text")
        found |= tokens
    return found


def _key(path: Path, name: str | None, environment: Mapping[str, str]) -> str | None:
    if name is None:
        return None
    key = environment.get(name, "")
    if not key:
        raise SettingsError(f"{path}: key_env: the environment variable {name} is not set; set it to the server's key")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"{path}: key_env: the environment variable {name} holds what no key has (spaces or marks)")
    return key
