"""The folder of a tier that lives in another server: config.pbtxt, 1/remote.json, prompt.json; no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .folder import CONFIG, DEFAULT, KNOWN, resolve
from .prompting import Kind, TierError, make_prompt, read_speech
from .prompts import REASONER_QUESTION, SCORER_QUESTION

BACKEND = "openai"
ENGINES = ("vllm", "sglang", "lmdeploy", "openai")


def write_remote(
    name: str, repository: Path, *, url: str, model: str, engine: str = "vllm", key_env: str | None = None,
    weights: str | None = None, kind: Kind | None = None, max_side: int | None = None, question: str | None = None,
) -> Path:  # fmt: skip
    """Write `<repository>/<name>` for a model that another server serves, and return it.

    Args:
        name: of the tier.
        repository: folder of models.
        url: of the server's API, such as http://127.0.0.1:8000/v1; it is not asked.
        model: its name there.
        engine: one of `ENGINES`; decides what a request may say.
        key_env: environment variable that will hold the server's key.
        weights: folder or hub id of the same model's tokenizer and chat template; by default `model`.
        kind: of tier; `max_side` in pixels and `question` as for a tier that is served here.

    Raises:
        TierError: there is a tier here by that name, the address is none, or the model cannot be a tier.
    """
    target = repository / name
    if (target / "1" / "model.json").exists():
        raise TierError(f"{target}: is a tier with an engine of its own here; choose another name for the remote one")
    _check_url(url)
    if engine not in ENGINES:
        raise TierError(f"--engine is {engine!r}, must be one of {', '.join(ENGINES)}")
    known = KNOWN.get(name, DEFAULT)
    try:
        _, _, source = resolve(name, weights or model, repository, False)
    except TierError as error:
        raise TierError(f"{error}; --weights names where the model's tokenizer and chat template are") from None
    kind = kind or known.kind
    question = question or (SCORER_QUESTION if kind == "scorer" else REASONER_QUESTION)
    side = max_side or known.max_side
    prompt = make_prompt(read_speech(source), kind, model, question=question, max_side=side)
    if prompt["prompt"].count(question) != 1:
        raise TierError(f"{model}: its chat template repeats the question, which cannot be told apart from the prompt")
    settings: dict[str, Any] = {"url": url.rstrip("/"), "model": model, "engine": engine, "question": question}
    if key_env is not None:
        settings["key_env"] = key_env
    (target / "1").mkdir(parents=True, exist_ok=True)
    config = CONFIG.format(name=name).replace('backend: "vllm"', f'backend: "{BACKEND}"')
    config = "".join(line for line in config.splitlines(keepends=True) if "REPORT_CUSTOM_METRICS" not in line)
    config = config.replace("the engine batches by itself", "the server batches by itself")
    (target / "config.pbtxt").write_text(config, encoding="utf-8")
    for path, content in ((target / "1" / "remote.json", settings), (target / "prompt.json", prompt)):
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound:
        raise TierError(f"--remote is {url!r}, must be an address such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise TierError("--remote holds a name or password; give the name of an environment variable as --key-env")
