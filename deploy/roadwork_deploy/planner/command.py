"""`roadwork-deploy plan`: options to a request, a plan to tables and files."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from roadwork_deploy.errors import PlanError


def add_parser(commands: Any) -> None:
    """Add `plan` to the command line. Nothing of the planner is imported before it runs."""
    plan = commands.add_parser(
        "plan",
        help="which models fit on given GPUs, where each goes, what it costs in memory",
        epilog="exit status: 0 all that was named fits, 1 something that was named was left out, 2 refused",
    )
    plan.add_argument("--gpus", required=True, metavar="LIST", help="COUNTxSIZE or COUNTxNAME: 2x80, 1xl4, 1x80,1x24")
    plan.add_argument("--detectors", metavar="LIST", help="names of the catalogue; '' for none; default: a choice")
    plan.add_argument("--tiers", metavar="LIST", help="names of the catalogue, most important first; '' for none")
    plan.add_argument("--required", default="", metavar="LIST", help="those without which there is no plan")
    plan.add_argument(
        "--precision", default="auto", help="of tiers: auto (default), bf16, fp8, int8, w8a8, awq, gptq, fp4"
    )
    plan.add_argument("--detector-precision", default="fp32", choices=("fp32", "fp16"), help="default: fp32")
    plan.add_argument("--max-images", type=int, default=64, metavar="N", help="in flight at a tier (default: 64)")
    plan.add_argument("--context", type=int, default=None, metavar="TOKENS", help="default: 4096, or what a model has")
    plan.add_argument("--image-side", type=int, default=448, metavar="PIXELS", help="that tiers get (default: 448)")
    plan.add_argument(
        "--parallel",
        action="append",
        default=[],
        metavar="TIER=N",
        help="GPUs that share a tier; default: as few as do",
    )
    plan.add_argument("--allow-remote-code", action="store_true", help="models may run their publisher's own Python")
    plan.add_argument(
        "--with", dest="techniques", action="append", default=[], metavar="TECHNIQUE", help="NAME or NAME=VALUE"
    )
    plan.add_argument("--write", metavar="PROFILE", help="a profile's name, or a file that ends in .yaml")
    plan.add_argument("--model-repository", type=Path, metavar="DIR", help="with --write: write 1/model.json there too")
    plan.add_argument("--json", action="store_true", help="for programs")
    plan.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Plan, print, write.

    Raises:
        PlanError: an option or a model that cannot be planned.
    """
    from roadwork_deploy.planner.hardware import parse_gpus
    from roadwork_deploy.planner.plan import Request, make_plan
    from roadwork_deploy.planner.show import plan_json, show_plan
    from roadwork_deploy.planner.tier import PRECISIONS, Wish

    if options.precision not in ("auto", *PRECISIONS):
        raise PlanError(f"--precision: {options.precision!r} is none of auto, {', '.join(PRECISIONS)}")
    for name, value, most in (
        ("--max-images", options.max_images, 1024),
        ("--image-side", options.image_side, 4096),
        ("--context", options.context, None),
    ):
        if value is not None and (value < 1 or (most is not None and value > most)):
            raise PlanError(f"{name}: is a whole number from 1{f' to {most}' if most else ''}, got {value}")
    if options.model_repository is not None and options.write is None:
        raise PlanError("--model-repository: goes with --write")
    request = Request(
        gpus=parse_gpus(options.gpus),
        detectors=_names(options.detectors),
        tiers=_names(options.tiers),
        required=_names(options.required) or (),
        detector_precision=options.detector_precision,
        wish=Wish(
            precision=options.precision,
            images=options.max_images,
            context=options.context,
            side=options.image_side,
            remote_code=options.allow_remote_code,
            parallel=_parallel(options.parallel),
            techniques=tuple(options.techniques),
        ),
    )
    plan, cheapest = make_plan(request)
    if options.json:
        print(json.dumps(plan_json(plan, cheapest), indent=1))
    else:
        show_plan(plan, cheapest)
    if plan.left_out:
        if options.write:
            print("nothing is written: name what fits, or take a larger GPU", file=sys.stderr)
        return 1
    if options.write:
        _write(options, plan)
    return 0


def _write(options: argparse.Namespace, plan: Any) -> None:
    from roadwork_deploy.planner.write import profile_path, profile_text, write_profile, write_settings

    path = profile_path(options.write)
    text = profile_text(plan, path.stem, command_line(options), options.gpus, describe(plan))
    profile = write_profile(path, text)
    files = [path]
    if options.model_repository is not None:
        files += write_settings(options.model_repository, profile)
    out = sys.stderr if options.json else sys.stdout
    for file in files:
        print(f"wrote {file}", file=out)
    print(f"next: roadwork-deploy wire --profile {options.write}, then roadwork-deploy serve with it", file=out)


def command_line(options: argparse.Namespace) -> str:
    """The command that makes the same plan, defaults left out."""
    words = ["roadwork-deploy", "plan", "--gpus", options.gpus]
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    defaults = parser.parse_args(["plan", "--gpus", options.gpus])
    for name in (
        "detectors",
        "tiers",
        "required",
        "precision",
        "detector_precision",
        "max_images",
        "context",
        "image_side",
    ):
        if getattr(options, name) != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    for parallel in options.parallel:
        words += ["--parallel", parallel]
    if options.allow_remote_code:
        words.append("--allow-remote-code")
    for technique in options.techniques:
        words += ["--with", technique]
    return " ".join(shlex.quote(word) for word in [*words, "--write", options.write])


def describe(plan: Any) -> str:
    """The GPUs in words."""
    counts: dict[str, int] = {}
    for gpu in plan.gpus:
        counts[gpu.name] = counts.get(gpu.name, 0) + 1
    parts = []
    for name, count in counts.items():
        sized = name.endswith(" GB")
        noun = "GPUs" if count > 1 else "GPU"
        parts.append(f"{count} {noun} of {name}" if sized else f"{count} {name}")
    return " and ".join(parts)


def _parallel(texts: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        if not name or not count.isdigit() or int(count) < 1:
            raise PlanError(f"--parallel: is TIER=N with a whole number N, got {text!r}")
        found[name] = int(count)
    return found


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(part.strip() for part in text.split(",") if part.strip())
