"""`roadwork-bench`: record scores, fit the policy, and say how right and how fast the cascade is."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "record": "score every image once with every stage, into a table",
    "fit": "fit the policy to a table, and report it on groups it was not fitted on",
    "accuracy": "how right the cascade is on labelled images or a table",
    "certify": "how much each early exit errs at most, on drives that the policy was not fitted on",
    "ablate": "one design choice at a time, with and without it",
    "robustness": "the same photographs under JPEG, blur, noise, small sizes and little light",
    "climb": "the cascade with its tiers, without them, and each tier alone, on recorded scores",
    "warmup": "the first request after a start against the tenth",
    "load": "how much load a model carries, by NVIDIA's perf_analyzer",
    "tune": "the batch, delay and instances with which a model keeps a latency",
    "overhead": "a whole request against a bare loop of the same models",
    "networks": "detectors and scene models through the server against their own sessions, called bare",
    "memory": "what each model of a planned profile holds of its GPU, against the plan",
    "wake": "how long a tier takes to come back from sleep or from being unloaded, and the memory given back meanwhile",
    "techniques": "what each serving technique that runs here does to a tier's answers, memory and time",
    "escalation": "how fast the whole cascade is while a share of its images goes on to the tiers",
    "peers": "our server beside Ray Serve, LitServe, BentoML and FastAPI with the same models inside",
    "tier_peers": "a vision-language tier through Triton beside vLLM's own OpenAI-compatible server",
    "report": "one HTML page and Markdown tables of all results",
    "tier": "a vision-language tier through Triton against the same engine called directly",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 some images could not be used, 2 the command cannot run."""
    from roadwork_bench.about import command_line

    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="roadwork-bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        # Only the chosen command's module is loaded: not every installation has every package.
        chosen = commands.add_parser(name, help=text, description=text)
        if name in given[:1]:
            importlib.import_module(f"roadwork_bench.{name}").add_arguments(chosen)
    parsed = parser.parse_args(given)
    try:
        return int(importlib.import_module(f"roadwork_bench.{parsed.command}").run(parsed, command_line(given)))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not _expected(error):
            raise
        print(f"roadwork-bench {parsed.command}: {error}", file=sys.stderr)
        return 2


def _expected(error: Exception) -> bool:
    """Errors whose message says what to do; others are bugs and show where they happened."""
    from roadwork_cascade.engine import CascadeError
    from roadwork_cascade.policy import PolicyError
    from roadwork_deploy.errors import DeployError

    from roadwork_bench.errors import BenchError

    return isinstance(error, (BenchError, CascadeError, DeployError, PolicyError, OSError))


if __name__ == "__main__":
    sys.exit(main())
