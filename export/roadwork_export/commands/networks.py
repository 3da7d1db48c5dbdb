"""The networks that the project trains itself: train, build, evaluate, card."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

NETWORKS = ("scene", "yolox_nano", "centernet_nano")


def chosen(name: str) -> tuple[str, ...]:
    return NETWORKS if name == "all" else (name,)


def add(commands: Any) -> None:
    """Register the commands of this group."""
    train = commands.add_parser("train", help="train the three networks on one stream of samples")
    train.add_argument("--data", type=Path, required=True, help="folder with images.csv, boxes.csv and the photographs")
    train.add_argument("--coco", type=Path, required=True, help="the published yolox_nano COCO ONNX file to start from")
    train.add_argument("--out", type=Path, required=True, help="folder for the weights and recipe.json")
    train.add_argument("--fold", type=int, help="hold out the groups of this fold (default: none)")
    train.add_argument("--folds", type=int, default=4)
    train.add_argument("--steps", type=int, default=4000)
    train.add_argument("--minutes", type=float, help="end after this many minutes at the latest")
    train.add_argument("--batch", type=int, default=32)
    train.add_argument("--rate", type=float, default=1e-3, help="largest learning rate")
    train.add_argument("--start", type=Path, help="folder that `train` wrote, to continue from (default: COCO weights)")
    train.add_argument("--workers", type=int, default=3)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    train.set_defaults(run=run_train)

    build = commands.add_parser("build", help="weights to ONNX in the model repository, with a parity check")
    build.add_argument("name", choices=(*NETWORKS, "all"))
    build.add_argument("--weights", type=Path, required=True, help="folder that `train` wrote")
    build.add_argument("--repository", type=Path, default=Path("model_repository"))
    build.set_defaults(run=run_build)

    folds = commands.add_parser("build-folds", help="the networks of every fold as ONNX, for cross-validated scores")
    folds.add_argument("--weights", type=Path, required=True, help="folder with one folder 0, 1, ... a fold")
    folds.add_argument("--out", type=Path, required=True, help="folder for <fold>/<network>/model.onnx and folds.json")
    folds.set_defaults(run=run_build_folds)

    evaluate = commands.add_parser("evaluate", help="average precision by class on the groups that each fold held out")
    evaluate.add_argument("--data", type=Path, required=True)
    evaluate.add_argument("--folds", type=Path, required=True, help="folder that `build-folds` wrote")
    evaluate.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    evaluate.set_defaults(run=run_evaluate)

    card = commands.add_parser("card", help="write MODEL_CARD.md beside a committed network")
    card.add_argument("name", choices=(*NETWORKS, "all"))
    card.add_argument("--weights", type=Path, required=True, help="folder that `train` wrote")
    card.add_argument("--evaluation", type=Path, required=True, help="JSON file that `evaluate` wrote")
    card.add_argument("--repository", type=Path, default=Path("model_repository"))
    card.set_defaults(run=run_card)


def run_train(arguments: argparse.Namespace) -> int:
    from ..train.train import Recipe, train

    recipe = Recipe(
        data=str(arguments.data),
        coco=str(arguments.coco),
        fold=arguments.fold,
        folds=arguments.folds,
        steps=arguments.steps,
        batch=arguments.batch,
        rate=arguments.rate,
        workers=arguments.workers,
        seed=arguments.seed,
        device=arguments.device,
        minutes=arguments.minutes,
        start=str(arguments.start) if arguments.start else None,
    )
    train(recipe, arguments.out)
    return 0


def run_build(arguments: argparse.Namespace) -> int:
    from ..build import build

    for name in chosen(arguments.name):
        print(build(name, arguments.weights, arguments.repository / name / "1" / "model.onnx"))
    return 0


def run_build_folds(arguments: argparse.Namespace) -> int:
    from ..build import build

    held: dict[str, list[str]] = {}
    for folder in sorted(p for p in arguments.weights.iterdir() if (p / "recipe.json").is_file()):
        recipe = json.loads((folder / "recipe.json").read_text())
        if recipe["fold"] is None:
            continue
        held[str(recipe["fold"])] = recipe["held_out"]
        for name in NETWORKS:
            print(build(name, folder, arguments.out / str(recipe["fold"]) / name / "model.onnx"))
    if not held:
        raise ValueError(f"{arguments.weights}: no folder of a fold in it; train with --fold first")
    (arguments.out / "folds.json").write_text(json.dumps(held, indent=2) + "\n")
    return 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    from ..evaluate import evaluate

    figures = evaluate(arguments.data, arguments.folds)
    figures["command"] = shlex.join(["roadwork-export", *sys.argv[1:]])
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps({k: v["all"] for k, v in figures["detectors"].items()}, indent=2))
    return 0


def run_card(arguments: argparse.Namespace) -> int:
    from ..card import write_card

    for name in chosen(arguments.name):
        print(write_card(name, arguments.weights, arguments.evaluation, arguments.repository))
    return 0
