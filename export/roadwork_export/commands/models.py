"""Models of the catalogue as ONNX folders, and the proof that a folder computes what its source computes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..family import Weights
from ..making import PRECISIONS, Order, check, make

FAILED = 1
"""Exit status of a check that failed. The folder stays as it is."""


def add(commands: Any) -> None:
    """Register the commands of this group."""
    onnx = commands.add_parser("onnx", help="a model of the catalogue as a folder of the model repository, checked")
    onnx.add_argument("name", help="of the catalogue: roadwork-export list")
    where = onnx.add_mutually_exclusive_group()
    where.add_argument("--weights", help="file, folder or hub id (default: what the catalogue names)")
    where.add_argument("--random-weights", action="store_true", help="the real architecture with random weights")
    onnx.add_argument("--seed", type=int, default=0, help="of the random weights")
    onnx.add_argument(
        "--classes", type=Path, help="table `label: class of the taxonomy`; of open vocabularies, prompts"
    )
    onnx.add_argument("--head", type=Path, help="of a scene model: the head that fit-head wrote")
    onnx.add_argument("--precision", choices=PRECISIONS, default="fp32")
    onnx.add_argument("--opset", type=int, help="of ONNX (default: the lowest that the model can be written in)")
    onnx.add_argument(
        "--images", type=Path, help="folder to check on, and to calibrate int8 on (default: drawn scenes)"
    )
    onnx.add_argument("--as", dest="folder", help="name of the folder (default: that of the model)")
    onnx.add_argument("--repository", type=Path, default=Path("model_repository"))
    onnx.add_argument("--accept-licence", help="name of the licence that you accept, where it restricts use")
    onnx.set_defaults(run=run_onnx)

    again = commands.add_parser("check", help="compare a folder's file with the model that it was made of")
    again.add_argument("name", help="of the folder")
    again.add_argument("--images", type=Path, help="folder of images to compare on (default: drawn scenes)")
    again.add_argument("--repository", type=Path, default=Path("model_repository"))
    again.set_defaults(run=run_check)


def run_onnx(arguments: argparse.Namespace) -> int:
    weights = None if arguments.random_weights else arguments.weights
    order = Order(
        name=arguments.name,
        repository=arguments.repository,
        weights=Weights(weights, arguments.seed) if weights or arguments.random_weights else None,
        folder=arguments.folder,
        table=arguments.classes,
        head=arguments.head,
        precision=arguments.precision,
        opset=arguments.opset,
        images=arguments.images,
        accept=arguments.accept_licence,
    )
    agreement = make(order)
    if agreement.passed:
        print(f"next: roadwork-deploy wire, then roadwork-deploy serve (it joins the cascade as {order.target.name})")
    return 0 if agreement.passed else FAILED


def run_check(arguments: argparse.Namespace) -> int:
    from ..florence2 import making as florence2

    target = arguments.repository / arguments.name
    if florence2.is_made(target):
        return 0 if florence2.check(target, arguments.images).passed else FAILED
    agreement = check(target / "1" / "model.onnx", arguments.images)
    return 0 if agreement.passed else FAILED
