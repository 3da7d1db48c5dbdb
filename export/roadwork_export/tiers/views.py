"""Random views of pool pictures with their labels, a whole batch at once on the training device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from roadwork_cascade.taxonomy import load_taxonomy
from torch import Tensor
from torch.nn import functional as F

from roadwork_export.train.compose import EVIDENCE
from roadwork_export.train.photometric import chosen, disturb, uniform

from .network import block_order
from .pool import SIDE
from .sizes import CELL, MERGE

GROUPS = (
    ("cone",), ("drum",), ("vertical_panel", "tubular_marker"), ("barricade", "barrier", "fence"), ("ttc_sign",),
    ("ttc_message_board", "arrow_board"), ("work_vehicle", "work_equipment"), ("worker",),
)  # fmt: skip
"""Classes that the auxiliary heads do not tell apart."""
SMALLEST = 14.0
"""Pixels of area in the larger size's view under which an object cannot be seen."""


@dataclass
class View:
    """images float32 [B, 3, H, W] RGB 0 to 255; boxes [B, N, 4] in shares of the view's sides, clipped.

    keep [B, N]: seen well enough; classes int64 [B, N]; presence int64 [B] 1, 0 or -1 where nobody can say; counts
    int64 [B, classes].
    """

    images: Tensor
    boxes: Tensor
    keep: Tensor
    classes: Tensor
    presence: Tensor
    counts: Tensor


def group_of_class(device: torch.device) -> Tensor:
    """int64 [classes + 1]: group of each class id, -1 for none; the last entry is for boxes that are none."""
    names = load_taxonomy().names
    table = [next((g for g, group in enumerate(GROUPS) if name in group), -1) for name in names]
    return torch.tensor([*table, -1], device=device)


def windows(size: Tensor, aspect: float) -> Tensor:
    """float32 [B, 4] x y w h: a part of each picture (size [B, 2] width, height in pixels) of about `aspect`."""
    b, device = size.shape[0], size.device
    cw, ch = size.float().unbind(1)
    ratio = aspect * torch.empty(b, device=device).uniform_(-0.2, 0.2).exp()
    share = torch.where(
        torch.rand(b, device=device) < 0.45,
        torch.empty(b, device=device).uniform_(0.4, 1.0),
        torch.empty(b, device=device).uniform_(0.85, 1.0),
    )
    h = torch.minimum(ch, cw / ratio) * share
    w = h * ratio
    # A picture of nearly this shape is often taken whole, as it will be when the model serves.
    whole = ((cw / ch / aspect).log().abs() < 0.3) & (torch.rand(b, device=device) < 0.4)
    w, h = torch.where(whole, cw, w), torch.where(whole, ch, h)
    x, y = (cw - w) * torch.rand(b, device=device), (ch - h) * torch.rand(b, device=device)
    return torch.stack([x, y, w, h], 1)


def sample(images: Tensor, window: Tensor, flip: Tensor, height: int, width: int) -> Tensor:
    """The windows [B, 4] of uint8 images [B, 416, 416, 3] as float32 [B, 3, height, width]; mirrored where `flip`."""
    x, y, w, h = (v[:, None, None] for v in window.unbind(1))
    across = (torch.arange(width, device=images.device) + 0.5) / width
    down = ((torch.arange(height, device=images.device) + 0.5) / height)[None, :, None]
    across = torch.where(flip[:, None], 1 - across, across)[:, None, :]
    b = images.shape[0]
    gx = ((x + across * w) / SIDE * 2 - 1).expand(b, height, width)
    gy = ((y + down * h) / SIDE * 2 - 1).expand(b, height, width)
    grid = torch.stack([gx, gy], -1)
    return F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def view(batch: dict[str, Tensor], rows: int, columns: int) -> View:
    """A random view of `rows` x `columns` visual tokens of each picture of a batch of the pool, in other light."""
    height, width = rows * CELL, columns * CELL
    device = batch["image"].device
    b = batch["image"].shape[0]
    window = windows(batch["size"], width / height)
    flip = torch.rand(b, device=device) < 0.5
    images = disturb(shaded(sample(batch["image"], window, flip, height, width)))

    origin, extent = window[:, None, :2].repeat(1, 1, 2), window[:, None, 2:].repeat(1, 1, 2)
    full = (batch["boxes"] - origin) / extent
    mirrored = torch.stack([1 - full[..., 2], full[..., 1], 1 - full[..., 0], full[..., 3]], -1)
    full = torch.where(flip[:, None, None], mirrored, full)
    clipped = full.clamp(0, 1)
    classes = batch["classes"].long()
    real = classes >= 0
    whole, seen = area(full) * height * width, area(clipped) * height * width
    keep = real & (seen > 0.35 * whole) & (seen >= SMALLEST)
    taxonomy = load_taxonomy()
    evidence = torch.tensor([c.evidence for c in taxonomy.classes] + [0.0], device=device)
    strong = evidence[classes] >= EVIDENCE
    yes = (keep & strong).any(1)
    unclear = (real & strong & (seen > 0)).any(1) | ~batch["known"]
    presence = torch.where(yes, 1, torch.where(unclear, -1, 0))
    counts = torch.zeros(b, len(taxonomy.classes) + 1, dtype=torch.long, device=device)
    counts.scatter_add_(1, torch.where(keep, classes, len(taxonomy.classes)), torch.ones_like(classes))
    return View(images, clipped, keep, classes, presence, counts[:, :-1])


def shaded(x: Tensor) -> Tensor:
    """A slope of light across the picture, and sometimes less sharpness than its pixels promise."""
    b, _, h, w = x.shape
    device = x.device
    slope = uniform(b, -0.3, 0.3, device) * torch.linspace(-1, 1, w, device=device).view(1, 1, 1, w)
    slope = slope + uniform(b, -0.3, 0.3, device) * torch.linspace(-1, 1, h, device=device).view(1, 1, h, 1)
    x = x * torch.where(chosen(b, 0.4, device), 1 + slope, torch.ones_like(slope))
    small = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    soft = F.interpolate(small, (h, w), mode="bilinear")
    return torch.where(chosen(b, 0.12, device), soft, x).clamp(0, 255)


def area(boxes: Tensor) -> Tensor:
    """Areas [...] of boxes [..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


@torch.no_grad()
def resized(images: Tensor, rows: int, columns: int) -> Tensor:
    """The same view at another number of visual tokens."""
    size = (rows * CELL, columns * CELL)
    return F.interpolate(images, size, mode="bilinear", antialias=True) if images.shape[-2:] != size else images


@torch.no_grad()
def patch_labels(seen: View, rows: int, columns: int) -> Tensor:
    """float32 [B, P, groups]: which groups of objects touch each patch, in block order."""
    r, c = rows * MERGE, columns * MERGE
    device = seen.boxes.device
    left, top = torch.arange(c, device=device) / c, torch.arange(r, device=device) / r
    x1, y1, x2, y2 = (v[..., None] for v in seen.boxes.unbind(-1))
    across = (torch.minimum(x2, left + 1 / c) - torch.maximum(x1, left)).clamp(min=0) * c
    down = (torch.minimum(y2, top + 1 / r) - torch.maximum(y1, top)).clamp(min=0) * r
    overlap = down[..., :, None] * across[..., None, :]
    share = (area(seen.boxes) * r * c)[..., None, None]
    touched = (overlap > torch.minimum(torch.full_like(share, 0.25), 0.4 * share)) & seen.keep[..., None, None]
    group = group_of_class(device)[seen.classes]
    labels = torch.stack([(touched & (group == g)[..., None, None]).any(1) for g in range(len(GROUPS))], -1).float()
    place = block_order(r, c, MERGE).to(device)
    return labels[:, place[:, 0], place[:, 1]]
