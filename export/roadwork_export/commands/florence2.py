"""Florence-2 as a reader of signs, beside `sign_text` or instead of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..family import Weights

FAILED = 1
"""Exit status of a check that failed. The folder stays as it is."""


def add(commands: Any) -> None:
    """Register the command of this group."""
    florence = commands.add_parser("florence2", help="Florence-2 as a folder that reads signs, checked")
    florence.add_argument("name", help="florence2_base or florence2_large")
    where = florence.add_mutually_exclusive_group()
    where.add_argument("--weights", help="folder or hub id (default: what the catalogue names)")
    where.add_argument("--random-weights", action="store_true", help="the real architecture; it reads nothing")
    florence.add_argument("--seed", type=int, default=0, help="of the random weights")
    florence.add_argument("--size", help="base, large, or tiny for tests (default: that of the name)")
    florence.add_argument("--gpu", action="store_true", help="instances on a GPU, in float16 (default: on the CPU)")
    florence.add_argument("--images", type=Path, help="folder to check on (default: drawn scenes)")
    florence.add_argument("--as", dest="folder", help="name of the folder (default: that of the model)")
    florence.add_argument("--repository", type=Path, default=Path("model_repository"))
    florence.add_argument("--accept-licence", help="name of the licence that you accept, where it restricts use")
    florence.set_defaults(run=run_florence2)


def run_florence2(arguments: argparse.Namespace) -> int:
    from ..florence2.making import make

    given = arguments.weights or arguments.random_weights
    agreement = make(
        arguments.name,
        arguments.repository,
        weights=Weights(arguments.weights, arguments.seed) if given else None,
        size=arguments.size,
        folder=arguments.folder,
        gpu=arguments.gpu,
        images=arguments.images,
        accept=arguments.accept_licence,
    )
    if agreement.passed:
        name = arguments.folder or arguments.name
        print(f"next: name {name} in a stage of roadwork/policy.yaml and in a profile (docs/models.md), then: wire")
    return 0 if agreement.passed else FAILED
