"""`roadwork-export tier NAME --remote URL`: the options of a tier that lives in another server."""

from __future__ import annotations

import argparse


def add_options(tier: argparse.ArgumentParser) -> None:
    """Add them to the command `tier`."""
    group = tier.add_argument_group("a tier in another server with an OpenAI-compatible API")
    group.add_argument("--remote", metavar="URL", help="of its API, such as http://127.0.0.1:8000/v1")
    group.add_argument("--model", metavar="ID", help="the model's name there")
    group.add_argument(
        "--engine", choices=("vllm", "sglang", "lmdeploy", "openai"), help="what the server is (default: vllm)"
    )
    group.add_argument("--key-env", metavar="NAME", help="environment variable that holds the server's key")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder. Raises TierError."""
    from ..tiers.prompting import TierError
    from ..tiers.remote import write_remote

    if not arguments.remote:
        raise TierError("--model, --engine and --key-env belong to --remote URL, which is missing")
    if not arguments.model:
        raise TierError("--model is missing: the model's name in the server at --remote")
    if arguments.copy or arguments.techniques:
        raise TierError("--copy and --with are for tiers that are served here, not for --remote")
    print(
        write_remote(
            arguments.name, arguments.repository, url=arguments.remote, model=arguments.model,
            engine=arguments.engine or "vllm", key_env=arguments.key_env, weights=arguments.weights,
            kind=arguments.kind, max_side=arguments.max_side, question=arguments.question,
        )
    )  # fmt: skip
    return 0


def wanted(arguments: argparse.Namespace) -> bool:
    """Whether one of these options was given."""
    return any((arguments.remote, arguments.model, arguments.engine, arguments.key_env))
