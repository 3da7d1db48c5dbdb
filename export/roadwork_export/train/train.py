"""Train the three networks together on one stream of samples, with or without some groups held out."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from roadwork_cascade.taxonomy import load_taxonomy
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from roadwork_export.nets.centernet import CenterNetNano
from roadwork_export.nets.coco import start_from_coco
from roadwork_export.nets.scene import SceneNano
from roadwork_export.nets.yolox import YoloxNano

from .compose import Composer, Sample
from .losses import MAX_BOXES, centernet_loss, scene_loss, yolox_loss
from .photometric import disturb
from .photos import assign_folds, load_photos, read_rows

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of; written beside the weights."""

    data: str
    coco: str
    fold: int | None = None
    folds: int = 4
    steps: int = 4000
    batch: int = 32
    rate: float = 1e-3
    decay: float = 0.02
    warmup: int = 200
    ema: float = 0.9995
    workers: int = 3
    seed: int = 0
    device: str = "cuda"
    minutes: float | None = None
    start: str | None = None


class Stream(IterableDataset):
    """An endless stream of samples. Sample n of worker w comes from seed (seed, w, n) and from nothing else."""

    def __init__(self, composer: Composer, seed: int) -> None:
        self.composer = composer
        self.seed = seed

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        worker = info.id if info else 0
        n = 0
        while True:
            yield self.composer.draw(np.random.default_rng([self.seed, worker, n]))
            n += 1


def collate(samples: list[Sample]) -> Batch:
    """canvas uint8 [B, H, W, 3], boxes [B, 64, 4], classes [B, 64], valid [B, 64], presence [B]."""
    b = len(samples)
    boxes, classes = torch.zeros(b, MAX_BOXES, 4), torch.zeros(b, MAX_BOXES, dtype=torch.long)
    valid = torch.zeros(b, MAX_BOXES, dtype=torch.bool)
    for i, s in enumerate(samples):
        # With more boxes than places the largest stay.
        sizes = (s.boxes[:, 2] - s.boxes[:, 0]) * (s.boxes[:, 3] - s.boxes[:, 1])
        order = np.argsort(-sizes)[:MAX_BOXES]
        k = len(order)
        boxes[i, :k], classes[i, :k], valid[i, :k] = (
            torch.from_numpy(s.boxes[order]),
            torch.from_numpy(s.classes[order]),
            True,
        )
    canvas = torch.from_numpy(np.stack([s.canvas for s in samples]))
    return canvas, boxes, classes, valid, torch.tensor([s.presence for s in samples])


class Average:
    """Exponential moving average of a network's weights, slower as training goes on (YOLOX's ramp)."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.updates += 1
        d = self.decay * (1 - math.exp(-self.updates / 500))
        for mine, theirs in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mine.dtype.is_floating_point:
                mine.lerp_(theirs, 1 - d)
            else:
                mine.copy_(theirs)


def networks() -> dict[str, nn.Module]:
    """The three networks under their names in the model repository."""
    classes = len(load_taxonomy().classes)
    return {"yolox_nano": YoloxNano(classes), "centernet_nano": CenterNetNano(classes), "scene": SceneNano()}


def train(recipe: Recipe, out: Path) -> None:
    """Train and write `<out>/<network>.pt` and `<out>/recipe.json`.

    With `recipe.fold` the groups of that fold are never seen. With `recipe.minutes` the run ends then at the latest,
    and the learning rate falls by whichever of steps and minutes is further gone.
    """
    # Workers are forked: OpenCV's thread pool, once started, would hang in every one of them.
    cv2.setNumThreads(0)
    torch.manual_seed(recipe.seed)
    device = torch.device(recipe.device)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    data = Path(recipe.data)
    groups = assign_folds(read_rows(data), recipe.folds)
    held_out = {g for g, k in groups.items() if k == recipe.fold}
    composer = Composer(load_photos(data, held_out))
    loader = DataLoader(
        Stream(composer, recipe.seed), recipe.batch, num_workers=recipe.workers, collate_fn=collate,
        pin_memory=device.type == "cuda", prefetch_factor=4 if recipe.workers else None,
    )  # fmt: skip
    batches = iter(loader)
    first = next(batches)[0].permute(0, 3, 1, 2).flip(1).float()
    nets = networks()
    for name, net in nets.items():
        if recipe.start is None:
            copied = start_from_coco(net, Path(recipe.coco), first[:8])
            print(f"{name}: {copied} convolutions from COCO weights", flush=True)
        else:
            net.load_state_dict(torch.load(Path(recipe.start) / f"{name}.pt", map_location="cpu", weights_only=True))
            print(f"{name}: continued from {recipe.start}", flush=True)
        net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    averages = {name: Average(net, recipe.ema) for name, net in nets.items()}
    optimisers = {
        name: torch.optim.AdamW(parameter_groups(net, recipe.decay), lr=recipe.rate, betas=(0.9, 0.99))
        for name, net in nets.items()
    }
    strength = torch.tensor([c.evidence for c in load_taxonomy().classes], device=device)
    began = time.monotonic()
    sums = dict.fromkeys(nets, 0.0)
    step = 0
    while step < recipe.steps:
        gone = step / recipe.steps
        if recipe.minutes is not None:
            gone = max(gone, (time.monotonic() - began) / 60 / recipe.minutes)
            if gone >= 1:
                break
        rate = recipe.rate * min(1.0, (step + 1) / recipe.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * gone)))
        canvas, boxes, classes, valid, presence = (t.to(device, non_blocking=True) for t in next(batches))
        image = disturb(canvas.permute(0, 3, 1, 2).float()).flip(1).contiguous(memory_format=torch.channels_last)
        for name, net in nets.items():
            for group in optimisers[name].param_groups:
                group["lr"] = rate
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                output = net(image)
            if name == "yolox_nano":
                loss = yolox_loss(output, boxes, classes, valid)
            elif name == "centernet_nano":
                loss = centernet_loss(output, boxes, classes, valid)
            else:
                loss = scene_loss(output, boxes, strength[classes] * valid, presence)
            optimisers[name].zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimisers[name].step()
            averages[name].update(net)
            if step % 20 == 0:
                sums[name] = loss.item()
        step += 1
        if step % 200 == 0 or step == recipe.steps:
            losses = "  ".join(f"{n} {v:.3f}" for n, v in sums.items())
            print(
                f"step {step}/{recipe.steps}  {(time.monotonic() - began) / 60:.1f} min  rate {rate:.1e}  {losses}",
                flush=True,
            )
            if any(not math.isfinite(v) for v in sums.values()):
                raise FloatingPointError("a loss is not finite: lower the rate")
    out.mkdir(parents=True, exist_ok=True)
    for name, average in averages.items():
        torch.save({k: v.cpu().contiguous() for k, v in average.network.state_dict().items()}, out / f"{name}.pt")
    record = asdict(recipe) | {
        "data": data.name, "coco": Path(recipe.coco).name, "held_out": sorted(held_out), "steps_done": step,
        "minutes_taken": round((time.monotonic() - began) / 60, 2),
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
    }  # fmt: skip
    (out / "recipe.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"written {out}", flush=True)


def parameter_groups(net: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay on matrices alone; norms and biases stay free."""
    parameters = list(net.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
