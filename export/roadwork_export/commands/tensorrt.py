"""TensorRT plans of folders that `onnx` wrote."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ..making import PRECISIONS
from ..plans import make_plan, use_plan
from ..tensorrt import Profile, Settings


def add(commands: Any) -> None:
    """Register the command of this group."""
    plan = commands.add_parser(
        "tensorrt", help="build a TensorRT plan of a folder's ONNX file, and let Triton serve it"
    )
    plan.add_argument("name", help="of the folder")
    plan.add_argument("--precision", choices=PRECISIONS, default="fp16")
    plan.add_argument(
        "--batch", type=batches, default=batches("1,8,32"), help="smallest, best and largest batch: 1,8,32"
    )
    plan.add_argument("--repository", type=Path, default=Path("model_repository"))
    plan.add_argument("--timing-cache", type=Path, default=default_cache(), help="file of what earlier builds measured")
    plan.add_argument("--workspace-gb", type=float, help="most GPU memory that a layer may use (default: all)")
    plan.add_argument(
        "--plan", type=Path, help="use this plan, which NVIDIA's container built, instead of building one"
    )
    plan.set_defaults(run=run)


def batches(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1,8,32") from None


def default_cache() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "roadwork" / "tensorrt_timing.cache"


def run(arguments: argparse.Namespace) -> int:
    folder = arguments.repository / arguments.name
    profile = Profile.of(arguments.batch)
    if arguments.plan is not None:
        made = use_plan(folder, arguments.plan, profile.high)
    else:
        settings = Settings(profile, arguments.workspace_gb, arguments.timing_cache)
        made = make_plan(folder, arguments.precision, settings)
    print(
        f"{made}: {made.stat().st_size / 1e6:.1f} MB, batches 1 to {profile.high}, served by {folder / 'config.pbtxt'}"
    )
    return 0
