"""Train the tiers of one fold, all sizes on the same batches."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from roadwork_export.train.photos import BOXED_SOURCE, assign_folds, read_rows

from . import tokenizer as tokens
from .figures import auroc, best_threshold, mcc
from .judge import Prepared, judge, prepare
from .network import TinyVLM
from .pixels import patches
from .prompts import BEFORE
from .ring import Ring
from .sizes import CELL, MERGE, PATCH, SIZES, VIEWS, Size
from .training_text import IGNORED, Questions, questions
from .views import GROUPS, View, patch_labels, resized, view
from .weights import fresh, read_model, write_model


@dataclass(frozen=True)
class TierRecipe:
    """What a training run is made of; written beside the weights."""

    data: str
    pool: str
    fold: int | None = None
    folds: int = 4
    sizes: tuple[str, ...] = ("s", "m")
    minutes: float = 10.0
    steps: int | None = None
    batch: int = 256
    rendered: float = 0.4
    capacity: int = 24576
    reasoning: float = 0.2
    rate: float = 1.0
    decay: float = 0.05
    warmup: int = 200
    ema: float = 0.998
    auxiliary: float = 0.3
    seed: int = 0
    device: str = "cuda"
    start: str | None = None


class Heads(nn.Module):
    """Say which groups of objects touch each patch and each visual token: much more to learn from than one yes or no.

    They are left out of the written model.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.patch = nn.Linear(size.vision_width, len(GROUPS))
        self.token = nn.Linear(size.text_width, len(GROUPS))
        for head in (self.patch, self.token):
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, -4.0)

    def loss(self, features: Tensor, visual: Tensor, labels: Tensor) -> Tensor:
        """`labels` [B, P, groups] of the patches, four in a row of one visual token. Loss an object patch."""
        cells = labels.unflatten(1, (-1, MERGE * MERGE)).amax(2)
        total = features.new_zeros((), dtype=torch.float32)
        for head, x, wanted in ((self.patch, features, labels), (self.token, visual, cells)):
            errors = F.binary_cross_entropy_with_logits(head(x).float(), wanted, reduction="sum")
            total = total + errors / (wanted.sum() + wanted.shape[0])
        return total


class Learner:
    """One network in training: bfloat16 for the arithmetic on a GPU, float32 masters for the steps, and an average."""

    def __init__(self, size: Size, network: TinyVLM, recipe: TierRecipe, device: torch.device) -> None:
        self.size, self.recipe = size, recipe
        self.heads = Heads(size)
        self.network = network
        kind = torch.bfloat16 if device.type == "cuda" else torch.float32
        both = nn.ModuleList([self.network, self.heads]).to(device)
        self.master = [p.detach().clone().requires_grad_() for p in both.parameters()]
        both.to(kind)
        self.working: list[Tensor] = list(both.parameters())
        self.kept = len(list(self.network.parameters()))
        self.average = [p.detach().clone() for p in self.master[: self.kept]]
        self.updates = 0
        groups = [
            {"params": [p for p in self.master if p.ndim > 1], "weight_decay": recipe.decay},
            {"params": [p for p in self.master if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=size.rate, betas=(0.9, 0.98), fused=device.type == "cuda")

    def step(
        self, images: Tensor, grid: tuple[int, int], before: Tensor, asked: Questions, labels: Tensor, rate: float
    ) -> Tensor:
        """One step; returns the losses float32 [3]: answers, auxiliary, share of presence answers that are right."""
        kind = self.working[0].dtype
        logits, visual, features = self.network(patches(images).to(kind), grid, before, asked.tokens)
        errors = F.cross_entropy(
            logits.flatten(0, 1).float(), asked.labels.flatten(), reduction="none", ignore_index=IGNORED
        )
        weights = asked.weights.flatten()
        told = (errors * weights).sum() / weights.sum().clamp(min=1)
        helped = self.heads.loss(features, visual, labels)
        (told + self.recipe.auxiliary * helped).backward()
        with torch.no_grad():
            for big, small in zip(self.master, self.working, strict=True):
                big.grad = small.grad.float() if small.grad is not None else None
                small.grad = None
            nn.utils.clip_grad_norm_(self.master, 1.0)
            for group in self.optimiser.param_groups:
                group["lr"] = rate * self.size.rate
            self.optimiser.step()
            torch._foreach_copy_(self.working, self.master)
            self.updates += 1
            keep = self.recipe.ema * (1 - math.exp(-self.updates / 200))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.master[: self.kept]], 1 - keep)
            clear = weights == 1.0
            right = (logits.flatten(0, 1).argmax(-1) == asked.labels.flatten())[clear].float().mean()
        return torch.stack([told.detach(), helped.detach(), right])

    def averaged(self) -> TinyVLM:
        """A float32 network with the averaged weights."""
        copy = TinyVLM(self.network.config)
        for mine, theirs in zip(copy.parameters(), self.average, strict=True):
            mine.data.copy_(theirs)
        return copy.to(self.average[0].device).eval()


@dataclass
class Held:
    """Photographs that say how training goes: batches by size, labels and sources."""

    batches: dict[str, list[Prepared]]
    labels: np.ndarray
    main: np.ndarray


def held_photographs(data: Path, groups: set[str], sizes: tuple[str, ...]) -> Held | None:
    """The publishable photographs of these groups, None where there are none."""
    rows = [r for r in read_rows(data) if r["group"] in groups and r["label"] != "detector_only"]
    if not rows:
        return None
    images = [cv2.cvtColor(cv2.imread(str(data / r["file"])), cv2.COLOR_BGR2RGB) for r in rows]
    return Held(
        {k: prepare(images, SIZES[k]) for k in sizes},
        np.array([r["label"] == "roadwork" for r in rows], int),
        np.array([r["source"] == BOXED_SOURCE for r in rows]),
    )


def progress(learners: dict[str, Learner], tokenizer: Tokenizer, held: Held | None) -> str:
    """Figures on the held-out photographs, one text for the log."""
    if held is None:
        return ""
    parts = []
    for key, learner in learners.items():
        raw, mass = judge(learner.averaged(), tokenizer, held.batches[key])
        cut = best_threshold(held.labels, raw)
        parts.append(
            f"{key}: AUROC {auroc(held.labels, raw):.3f} MCC {mcc(held.labels, raw >= cut):.3f} "
            f"at 0.5 {mcc(held.labels, raw >= 0.5):.3f} "
            f"main source {auroc(held.labels[held.main], raw[held.main]):.2f} mass {mass.min():.2f}"
        )
    return " | ".join(parts)


def train(recipe: TierRecipe, out: Path) -> None:
    """Train and write `<out>/tiny_vlm_<size>/` and `<out>/recipe.json`.

    With `recipe.fold` the photographs of that fold's groups are never seen. The run ends after `recipe.minutes`, or
    after `recipe.steps` where that comes first, and the learning rate falls towards that end. Needs a pool that
    `roadwork-export tier-pool` fills; it may still be filling.
    """
    cv2.setNumThreads(0)
    torch.manual_seed(recipe.seed)
    device = torch.device(recipe.device)
    torch.backends.cuda.matmul.allow_tf32 = True
    rng = np.random.default_rng([recipe.seed, 77])
    data = Path(recipe.data)
    groups = assign_folds(read_rows(data), recipe.folds)
    held_out = {g for g, k in groups.items() if k == recipe.fold}
    tokenizer = tokens.build()
    learners = {}
    for key in recipe.sizes:
        size = SIZES[key]
        network = fresh(size, tokenizer) if recipe.start is None else read_model(Path(recipe.start) / size.name)
        learners[key] = Learner(size, network, recipe, device)
        print(f"{size.name}: {sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters", flush=True)
    held = held_photographs(data, held_out, recipe.sizes)
    before = torch.tensor(tokenizer.encode(BEFORE, add_special_tokens=False).ids, device=device)
    ring = Ring(Path(recipe.pool), recipe.fold, recipe.capacity, recipe.rendered, device, recipe.seed)
    began = spoke = time.monotonic()
    step = shown = 0
    while recipe.steps is None or step < recipe.steps:
        gone = (time.monotonic() - began) / 60 / recipe.minutes
        if recipe.steps is not None:
            gone = max(gone, step / recipe.steps)
        if gone >= 1:
            break
        rate = recipe.rate * min(1.0, (step + 1) / recipe.warmup) * (0.02 + 0.49 * (1 + math.cos(math.pi * gone)))
        losses = one_step(learners, ring, tokenizer, before, recipe, rate, rng)
        step += 1
        if step in (20, 60) or time.monotonic() - spoke > 60:
            now = time.monotonic()
            speed = (step - shown) * recipe.batch / (now - spoke)
            told = "  ".join(f"{k} {v[0]:.3f}/{v[1]:.2f}/{v[2]:.2f}" for k, v in losses.items())
            print(
                f"step {step} {(now - began) / 60:.1f} min rate {rate:.1e} {speed:.0f} images/s pool {ring.filled} "
                f"loss {told}  {progress(learners, tokenizer, held)}",
                flush=True,
            )
            if not all(torch.isfinite(v).all() for v in losses.values()):
                raise FloatingPointError("a loss is not finite: lower the rate")
            if step > 60:
                save(learners, tokenizer, out)
            spoke, shown = time.monotonic(), step
    save(learners, tokenizer, out)
    told = progress(learners, tokenizer, held)
    record = asdict(recipe) | {
        "data": data.name, "pool": Path(recipe.pool).name, "start": recipe.start and Path(recipe.start).name,
        "held_out": sorted(held_out), "steps_done": step, "minutes_taken": round((time.monotonic() - began) / 60, 2),
        "torch": torch.__version__, "machine": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
    }  # fmt: skip
    (out / "recipe.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"written {out} after {step} steps  {told}", flush=True)


def one_step(
    learners: dict[str, Learner], ring: Ring, tokenizer: Tokenizer, before: Tensor, recipe: TierRecipe, rate: float,
    rng: np.random.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """One batch for all sizes: the same views, questions and findings, each at its own resolution."""
    which = int(rng.choice(len(VIEWS), p=VIEWS))
    largest = SIZES["m"].grids[which]
    seen: View = view(ring.batch(recipe.batch, rng), *largest)
    reasoning = round(recipe.batch * recipe.reasoning) if "m" in learners else 0
    plain, mixed = questions(tokenizer, seen.presence.cpu().numpy(), seen.counts.cpu().numpy(), reasoning, rng)
    losses = {}
    for key, learner in learners.items():
        rows, columns = learner.size.grids[which]
        images = resized(seen.images, rows, columns)
        grid = (rows * CELL // PATCH, columns * CELL // PATCH)
        asked = (mixed if key == "m" else plain).to(before.device)
        losses[key] = learner.step(images, grid, before, asked, patch_labels(seen, rows, columns), rate)
    return losses


def save(learners: dict[str, Learner], tokenizer: Tokenizer, out: Path) -> None:
    """Write the averaged weights of every size."""
    out.mkdir(parents=True, exist_ok=True)
    for learner in learners.values():
        write_model(out / learner.size.name, learner.size, tokenizer, learner.averaged())
