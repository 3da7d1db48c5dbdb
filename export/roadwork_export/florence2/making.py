"""From a name in the catalogue to a checked folder that reads signs with Florence-2."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..catalogue import Entry, load_catalogue
from ..errors import CheckError, ExportError, WeightsError
from ..family import Weights
from ..folder import draft
from ..hub import fetching, open_pretrained
from ..making import absolute, permit
from .check import Agreement, compare
from .folder import check_neighbours, write_files
from .random_weights import make_random
from .sizes import SIZES, network_config
from .tokenizer import PLACES

FAMILY = "florence2_"
RECIPE = "florence.json"
"""Beside the code: what the folder was made of, for `check`."""


@dataclass(frozen=True)
class Recipe:
    """What opens the same weights again. `weights` is a path or a hub id; None: random ones of `seed`."""

    model: str
    weights: str | None
    seed: int
    size: str
    command: str

    @property
    def source(self) -> Weights:
        return Weights(self.weights, self.seed)


def find(name: str) -> Entry:
    """Raises ExportError for a model that is no Florence-2, CatalogueError for one that the catalogue lacks."""
    entry = load_catalogue().get(name)
    if not entry.name.startswith(FAMILY):
        raise ExportError(f"{name} is no Florence-2; roadwork-export show {name} says how it is served")
    return entry


def open_source(recipe: Recipe, keywords: Path) -> tuple[Any, Any]:
    """Network in float32 on the CPU, in evaluation mode, and its processor.

    Raises:
        WeightsError: they are not there, cannot be fetched, or are another model's or another size's.
        LicenceError: their publisher wants an agreement first.
    """
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

    size = SIZES[recipe.size]
    if recipe.weights is None:
        return make_random(size, recipe.seed, keywords)
    source = recipe.source
    expected = network_config(size, size.vocabulary or 1, 0)
    network = open_pretrained(Florence2ForConditionalGeneration, expected, source, recipe.model)
    for what, got, wanted in (
        ("hidden", network.config.text_config.d_model, size.hidden),
        ("layers", network.config.text_config.decoder_layers, size.layers),
        ("channels", tuple(network.config.vision_config.embed_dim), size.embed),
    ):
        if got != wanted:
            raise WeightsError(f"{source}: not weights of Florence-2 {recipe.size}: {what} {got}, not {wanted}")
    with fetching(str(source)):
        try:
            processor = Florence2Processor.from_pretrained(recipe.weights)
        except (AttributeError, TypeError) as error:  # another model's tokenizer or image processor
            raise WeightsError(f"{source}: its processor is not Florence-2's: {error}") from error
    tokenizer = processor.tokenizer
    if any(at in (None, tokenizer.unk_token_id) for at in tokenizer.convert_tokens_to_ids(list(PLACES))):
        raise WeightsError(f"{source}: its tokenizer lacks places such as <loc_0>: not Florence-2's")
    return network, processor


def make(
    name: str, repository: Path, *, weights: Weights | None = None, size: str | None = None, folder: str | None = None,
    gpu: bool = False, images: Path | None = None, accept: str | None = None, tell: Callable[[str], None] = print,
) -> Agreement:  # fmt: skip
    """Write the folder and check it; what the check said.

    Args:
        weights: None for what the catalogue names.
        size: of `SIZES`, where it is not the catalogue's.
        folder: name in the repository, by default that in the catalogue.
        gpu: whether instances run on a GPU.
        images: folder to check on; None for rendered scenes.
        accept: licence that the caller accepts.

    Raises:
        ExportError: it cannot be made, and nothing was written.
        CheckError: it was written and cannot be checked.
    """
    entry = find(name)
    permit(entry, accept)
    check_neighbours(repository)
    given = absolute(weights or Weights(entry.source))
    chosen = size or str(entry.arguments["size"])
    if chosen not in SIZES:
        raise ExportError(f"--size {chosen}: known are {', '.join(SIZES)}")
    command = shlex.join(["roadwork-export", *sys.argv[1:]])
    recipe = Recipe(entry.name, given.source, given.seed, chosen, command)
    target = repository / (folder or entry.name)
    if target.exists() and not (target / "1" / RECIPE).is_file():
        raise ExportError(f"{target} is another model's folder; name another one with --as")
    tell(f"{entry.name}: opening {given}")
    network, processor = open_source(recipe, _keywords(repository))
    # The files are float32, and so is what is read back for the check.
    room = 4 * sum(each.numel() for each in network.parameters()) + (64 << 20)
    with draft(target, room) as new:
        (new / "1" / "weights").mkdir(parents=True)
        network.save_pretrained(new / "1" / "weights")
        processor.save_pretrained(new / "1" / "weights")
        write_files(new, target.name, gpu=gpu, licence=entry.licence, source=str(given))
        (new / "1" / RECIPE).write_text(json.dumps(asdict(recipe), indent=1) + "\n", encoding="utf-8")
    octets = sum(path.stat().st_size for path in (target / "1").rglob("*") if path.is_file())
    tell(f"{target}: {octets / 1e6:.1f} MB, licence {entry.licence}")
    return _judged(target, network, processor, images, tell)


def is_made(target: Path) -> bool:
    """Whether a folder of the repository is one that `make` wrote."""
    return (target / "1" / RECIPE).is_file()


def check(target: Path, images: Path | None, tell: Callable[[str], None] = print) -> Agreement:
    """Open a folder's weights again from where they came, and compare.

    Raises:
        CheckError: its recipe cannot be read.
        WeightsError: the weights are not where they were.
    """
    path = target / "1" / RECIPE
    try:
        recipe = Recipe(**json.loads(path.read_text(encoding="utf-8")))
        SIZES[recipe.size]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckError(f"{path}: not a recipe of roadwork-export florence2: {error}") from None
    check_neighbours(target.parent)
    network, processor = open_source(recipe, _keywords(target.parent))
    return _judged(target, network, processor, images, tell)


def _judged(target: Path, network: Any, processor: Any, images: Path | None, tell: Callable[[str], None]) -> Agreement:
    found = compare(target, network, processor, images)
    tell(f"{target.name} against transformers' own pipeline: {found}")
    return found


def _keywords(repository: Path) -> Path:
    return repository / "sign_text" / "keywords.yaml"
