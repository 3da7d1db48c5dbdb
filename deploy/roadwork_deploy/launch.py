"""The command that serves a tier's model in another server: vLLM, SGLang or LMDeploy, with that engine's own flags.

Nothing is started: the command is for another machine, or for this one by hand.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadwork_deploy.errors import DeployError
from roadwork_deploy.launch_flags import LMDEPLOY, SGLANG, NoCounterpart, Turn, vllm_arguments

ENGINES = ("vllm", "sglang", "lmdeploy")
PORT = 8100


class LaunchError(DeployError):
    """A tier cannot be served so; the message names the setting."""


@dataclass(frozen=True)
class Command:
    """What is to be run.

    Attributes:
        arguments: program and arguments.
        environment: variables in front of it; their values may name other variables ("$KEY").
        key_flag: flag of the server's key, whose value is the variable's ("" where the environment says it).
        key_env: the variable, or None.
    """

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    key_flag: str = ""
    key_env: str | None = None

    def __str__(self) -> str:
        """One line for a shell. The key is named, never shown."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        key = [self.key_flag, f'"${self.key_env}"'] if self.key_flag and self.key_env else []
        return " ".join([*variables, shlex.join(self.arguments), *key])


def launch_command(
    settings: Mapping[str, Any], engine: str, *, model_name: str, host: str = "127.0.0.1", port: int = PORT,
    gpus: Sequence[int] = (), key_env: str | None = None, without: Collection[str] = (), more: str = "",
) -> Command:  # fmt: skip
    """The command for a tier's engine settings.

    Args:
        settings: as in `1/model.json`: arguments of vLLM's AsyncEngineArgs.
        engine: one of `ENGINES`.
        model_name: under which the server offers it.
        host: address that it binds to; `port` the same.
        gpus: numbers of the GPUs that it may use; none: all.
        key_env: environment variable with the key that it asks of its callers.
        without: settings to be left out.
        more: arguments of that engine to be added, as in a shell.

    Raises:
        LaunchError: a setting has no counterpart in that engine, or is not there.
    """
    unknown = [name for name in without if name not in settings]
    if unknown:
        raise LaunchError(f"--without {unknown[0]}: the tier has no such setting; it has {', '.join(settings)}")
    if "model" not in settings:
        raise LaunchError("the tier's settings name no model")
    chosen = {name: value for name, value in settings.items() if name not in (*without, "model") and value is not None}
    ranks = int(chosen.get("tensor_parallel_size", 1)) * int(chosen.get("pipeline_parallel_size", 1))
    if gpus and len(gpus) < ranks:
        raise LaunchError(f"--gpus names {len(gpus)}, and the tier's parallel sizes need {ranks}")
    model, where = str(settings["model"]), (host, str(port))
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if gpus else {}
    try:
        added = shlex.split(more)
    except ValueError as error:
        raise LaunchError(f"--more: {error}") from None
    if engine == "vllm":
        start = ["vllm", "serve", model, "--served-model-name", model_name, "--host", where[0], "--port", where[1]]
        flags = [flag for name, value in chosen.items() for flag in vllm_arguments(name, value)]
        if "generation_config" not in chosen:
            flags += ["--generation-config", "vllm"]  # a model's own sampling settings would change answers
        if key_env is not None:
            environment["VLLM_API_KEY"] = f'"${key_env}"'
        return Command([*start, *flags, *added], environment)
    if engine == "sglang":
        start = ["python", "-m", "sglang.launch_server", "--model-path", model, "--served-model-name", model_name]
        start += ["--host", where[0], "--port", where[1], "--sampling-defaults", "openai"]
        # Log-probabilities before temperature, as a tier's are.
        environment["SGLANG_RETURN_ORIGINAL_LOGPROB"] = "1"
        return Command([*start, *_turned("SGLang", SGLANG, chosen), *added], environment, "--api-key", key_env)
    if engine == "lmdeploy":
        start = ["lmdeploy", "serve", "api_server", model, "--model-name", model_name, "--backend", "turbomind"]
        # Without the last one it goes on with what its caller has given up.
        start += ["--server-name", where[0], "--server-port", where[1], "--enable-abort-handling"]
        return Command([*start, *_turned("LMDeploy", LMDEPLOY, chosen), *added], environment, "--api-keys", key_env)
    raise LaunchError(f"--engine is {engine!r}, must be one of {', '.join(ENGINES)}")


def _turned(engine: str, table: Mapping[str, Turn], settings: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in settings.items():
        turn = table.get(name)
        try:
            if turn is None:
                raise NoCounterpart("it has no such setting")
            flags += turn(value)
        except NoCounterpart as why:
            what = f"{name} = {json.dumps(value)} has no counterpart in {engine}: {why}"
            raise LaunchError(f"{what}; leave it out with --without {name}") from None
        except (TypeError, ValueError) as error:
            raise LaunchError(f"{name} = {json.dumps(value)} cannot be said to {engine}: {error}") from None
    return flags


def read_engine(repository: Path, name: str) -> dict[str, Any]:
    """The engine settings of a tier's folder; a relative path of weights is made absolute.

    Raises:
        LaunchError: there is no such tier, or its model.json is malformed.
    """
    path = repository / name / "1" / "model.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LaunchError(f"{path} is missing; make it with: roadwork-export tier {name}") from None
    except (OSError, ValueError) as error:
        raise LaunchError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("model"), str):
        raise LaunchError(f"{path}: model: is a folder or a hub id, and missing")
    folder = repository / settings["model"]
    return {**settings, "model": str(folder.resolve())} if folder.exists() else settings


def read_gpus(text: str) -> list[int]:
    """`0` or `0,1`. Raises LaunchError."""
    parts = text.split(",")
    if not all(part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise LaunchError(f"--gpus is {text!r}, must be numbers of GPUs such as 0 or 0,1")
    return [int(part) for part in parts]


def add_parser(commands: Any) -> None:
    """The command `launch`."""
    from roadwork_deploy.ports import DEFAULTS

    launch = commands.add_parser("launch", help="print the command that serves a tier's model in another server")
    launch.add_argument("tier", help="a folder of the model repository with 1/model.json")
    launch.add_argument("--engine", choices=ENGINES, default="vllm", help="default: vllm")
    launch.add_argument("--profile", default=None, help="take the tier's engine settings and GPUs of this profile")
    launch.add_argument("--gpus", default=None, metavar="N,N", help="GPUs that it may use")
    launch.add_argument("--host", default="127.0.0.1", help="address that it binds to")
    launch.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; Triton has {DEFAULTS['http']}")
    launch.add_argument("--model-name", default=None, help="under which it offers the model (default: the tier's)")
    launch.add_argument("--key-env", default=None, metavar="NAME", help="environment variable with its key")
    launch.add_argument("--without", action="append", default=[], metavar="SETTING", help="leave a setting out")
    launch.add_argument("--more", default="", metavar="ARGUMENTS", help="arguments of that engine to add")
    launch.add_argument("--model-repository", type=Path, default=None, metavar="DIR", help="default: this checkout's")
    launch.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the command; and, on standard error, what makes a tier of it."""
    from roadwork_deploy.repository import default_repository

    settings = read_engine(options.model_repository or default_repository(), options.tier)
    gpus = read_gpus(options.gpus) if options.gpus is not None else []
    if options.profile is not None:
        from roadwork_deploy.profile import load_profile

        share = load_profile(options.profile).tier_shares.get(options.tier)
        if share is None:
            raise LaunchError(f"profile {options.profile} says nothing of the tier {options.tier}")
        settings = {**settings, **share.settings}
        gpus = gpus or list(share.gpus)
    name = options.model_name or options.tier
    print(
        launch_command(
            settings, options.engine, model_name=name, host=options.host, port=options.port, gpus=gpus,
            key_env=options.key_env, without=options.without, more=options.more,
        )
    )  # fmt: skip
    key = f" --key-env {options.key_env}" if options.key_env else ""
    engine = "" if options.engine == "vllm" else f" --engine {options.engine}"
    tier = f"roadwork-export tier NAME --remote http://{options.host}:{options.port}/v1 --model {name}{engine}{key}"
    print(f"its tier: {tier} --weights {settings['model']}", file=sys.stderr)
    return 0
