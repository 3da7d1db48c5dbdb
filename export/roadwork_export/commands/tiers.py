"""Vision-language tiers: the project's small ones are trained here, any other becomes a folder."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from . import remote_tier


def fold_number(text: str) -> int | None:
    """`none` or a fold's number. Raises ValueError for anything else."""
    if text == "none":
        return None
    if not text.isdigit():
        raise ValueError(f"--fold is {text!r}, must be a number or none")
    return int(text)


def add(commands: Any) -> None:
    """Register the commands of this group."""
    pool = commands.add_parser("tier-pool", help="compose the pictures that all training runs of the tiers share")
    pool.add_argument("--data", type=Path, required=True, help="folder with images.csv, boxes.csv and the photographs")
    pool.add_argument("--out", type=Path, required=True, help="folder for the shards, some tens of GB at the defaults")
    pool.add_argument("--workers", type=int, default=8)
    pool.add_argument("--rendered", type=int, default=32768, help="scenes to draw")
    pool.add_argument("--photographed", type=int, default=5120, help="pictures of each fold's photographs")
    pool.add_argument("--folds", type=int, default=4)
    pool.add_argument("--seed", type=int, default=0)
    pool.set_defaults(run=run_tier_pool)

    train = commands.add_parser("train-tier", help="train the small vision-language models")
    train.add_argument("--data", type=Path, required=True, help="folder with images.csv, boxes.csv and the photographs")
    train.add_argument(
        "--pool", type=Path, required=True, help="folder that `tier-pool` writes; it may still be writing"
    )
    train.add_argument("--out", type=Path, required=True, help="folder for the models and recipe.json")
    train.add_argument("--fold", default="none", help="hold out the groups of this fold, or none")
    train.add_argument("--folds", type=int, default=4)
    train.add_argument("--size", default="s,m", help="sizes to train on the same batches")
    train.add_argument("--minutes", type=float, default=15.0)
    train.add_argument("--steps", type=int, help="end after this many steps, where that comes before --minutes")
    train.add_argument("--batch", type=int, default=256)
    train.add_argument("--capacity", type=int, default=24576, help="pictures kept in the device's memory (0.5 MB each)")
    train.add_argument("--rate", type=float, default=1.0, help="factor on the sizes' learning rates")
    train.add_argument("--start", type=Path, help="folder that `train-tier` wrote, to continue from")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    train.set_defaults(run=run_train_tier)

    evaluate = commands.add_parser("evaluate-tier", help="figures of the tiers on held-out groups and rendered scenes")
    evaluate.add_argument("--data", type=Path, required=True)
    evaluate.add_argument("--weights", type=Path, required=True, help="folder with the runs 0, 1, ... and none")
    evaluate.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    evaluate.add_argument("--scores", type=Path, help="folder for oof_<model>.csv, the answer to each photograph")
    evaluate.add_argument("--findings", type=Path, help="JSON object: what perception found, as text, by file")
    evaluate.add_argument("--folds", type=int, default=4)
    evaluate.add_argument("--size", default="s,m")
    evaluate.add_argument("--scenes", type=int, default=2000, help="rendered scenes to judge the runs none by")
    evaluate.add_argument("--workers", type=int, default=2, help="processes that render")
    evaluate.add_argument("--no-reasoner", action="store_true", help="leave the reasoner out, it is slow")
    evaluate.set_defaults(run=run_evaluate_tier)

    card = commands.add_parser("card-tier", help="write MODEL_CARD.md beside a committed tier")
    card.add_argument("name", choices=("tiny_vlm_s", "tiny_vlm_m", "tiny_reasoner"))
    card.add_argument("--weights", type=Path, required=True, help="folder that `train-tier` wrote")
    card.add_argument("--evaluation", type=Path, required=True, help="JSON file that `evaluate-tier` wrote")
    card.add_argument("--repository", type=Path, default=Path("model_repository"))
    card.set_defaults(run=run_card_tier)

    tier = commands.add_parser("tier", help="the folder of a vision-language tier, from any model with a chat template")
    tier.add_argument("name", help="of the folder: tiny_vlm_s, tiny_vlm_m, tiny_reasoner or a new one")
    tier.add_argument("--weights", help="a folder or a hub id (default for the project's own: their committed weights)")
    tier.add_argument("--copy", action="store_true", help="copy the folder of weights into the repository")
    tier.add_argument("--kind", choices=("scorer", "reasoner"))
    tier.add_argument("--max-side", type=int, help="pixels of the longer side of the image that the model gets")
    tier.add_argument("--question", help="what is asked (default: by kind)")
    tier.add_argument(
        "--with", dest="techniques", action="append", default=[], metavar="TECHNIQUE[=VALUE]",
        help="a serving technique, see `roadwork-export techniques`; may be given several times",
    )  # fmt: skip
    tier.add_argument("--repository", type=Path, default=Path("model_repository"))
    remote_tier.add_options(tier)
    tier.set_defaults(run=run_tier)


def run_tier_pool(arguments: argparse.Namespace) -> int:
    from ..tiers.pool import compose

    compose(
        arguments.data, arguments.out, workers=arguments.workers, rendered=arguments.rendered,
        photographed=arguments.photographed, folds=arguments.folds, seed=arguments.seed,
    )  # fmt: skip
    return 0


def run_train_tier(arguments: argparse.Namespace) -> int:
    from ..tiers.train import TierRecipe
    from ..tiers.train import train as train_tier

    tier_recipe = TierRecipe(
        data=str(arguments.data),
        pool=str(arguments.pool),
        fold=fold_number(arguments.fold),
        folds=arguments.folds,
        sizes=tuple(arguments.size.split(",")),
        minutes=arguments.minutes,
        steps=arguments.steps,
        batch=arguments.batch,
        capacity=arguments.capacity,
        rate=arguments.rate,
        seed=arguments.seed,
        device=arguments.device,
        start=str(arguments.start) if arguments.start else None,
    )
    train_tier(tier_recipe, arguments.out)
    return 0


def run_evaluate_tier(arguments: argparse.Namespace) -> int:
    from ..tiers.evaluate import evaluate as evaluate_tiers

    figures = evaluate_tiers(
        arguments.data,
        arguments.weights,
        keys=arguments.size.split(","),
        folds=arguments.folds,
        scenes=arguments.scenes,
        workers=arguments.workers,
        findings=json.loads(arguments.findings.read_text()) if arguments.findings else None,
        reasoning=not arguments.no_reasoner,
        scores=arguments.scores,
    )
    figures["command"] = shlex.join(["roadwork-export", *sys.argv[1:]])
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    return 0


def run_card_tier(arguments: argparse.Namespace) -> int:
    from ..tiers.card import write_card as write_tier_card

    print(write_tier_card(arguments.name, arguments.weights, arguments.evaluation, arguments.repository))
    return 0


def run_tier(arguments: argparse.Namespace) -> int:
    from ..tiers.folder import write_tier

    if remote_tier.wanted(arguments):
        return remote_tier.run(arguments)
    print(
        write_tier(
            arguments.name, arguments.repository, weights=arguments.weights, kind=arguments.kind,
            max_side=arguments.max_side, question=arguments.question, copy=arguments.copy,
            techniques=arguments.techniques,
        )
    )  # fmt: skip
    return 0
