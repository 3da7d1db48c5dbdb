"""Light, colour, blur and noise, for a whole batch on the training device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def uniform(batch: int, low: float, high: float, device: torch.device) -> Tensor:
    """[B, 1, 1, 1] uniform numbers."""
    return torch.empty(batch, 1, 1, 1, device=device).uniform_(low, high)


def chosen(batch: int, share: float, device: torch.device) -> Tensor:
    """[B, 1, 1, 1] booleans, true for about `share` of the batch."""
    return torch.rand(batch, 1, 1, 1, device=device) < share


@torch.no_grad()
def disturb(x: Tensor) -> Tensor:
    """[B, 3, H, W] RGB 0 to 255 -> the same, as other cameras, hours and weathers would have seen it."""
    b, device = x.shape[0], x.device
    x = x / 255
    # Hue turns in the plane across the grey axis; small, because orange is the trade's colour.
    angle = uniform(b, -0.16, 0.16, device)
    cos, sin = angle.cos(), angle.sin() / 3**0.5
    third = (1 - cos) / 3
    r, g, bl = x[:, :1], x[:, 1:2], x[:, 2:]
    turned = torch.cat(
        [
            (cos + third) * r + (third - sin) * g + (third + sin) * bl,
            (third + sin) * r + (cos + third) * g + (third - sin) * bl,
            (third - sin) * r + (third + sin) * g + (cos + third) * bl,
        ],
        1,
    )
    grey = turned.mean(1, keepdim=True)
    x = grey + (turned - grey) * uniform(b, 0.35, 1.6, device)
    x = (x - 0.5) * uniform(b, 0.6, 1.4, device) + 0.5 + uniform(b, -0.15, 0.15, device)
    x = x * torch.empty(b, 3, 1, 1, device=device).uniform_(0.88, 1.12)
    x = x.clamp(0, 1) ** torch.where(chosen(b, 0.4, device), uniform(b, 0.6, 1.8, device), torch.ones(1, device=device))
    night = chosen(b, 0.1, device)
    tint = torch.tensor([1.05, 0.95, 0.85], device=device).view(1, 3, 1, 1)
    x = torch.where(night, (x**1.6) * uniform(b, 0.25, 0.6, device) * tint, x)
    fog = chosen(b, 0.08, device)
    x = torch.where(fog, x * 0.6 + uniform(b, 0.2, 0.35, device), x)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    twice = F.avg_pool2d(F.pad(blurred, (2, 2, 2, 2), mode="replicate"), 5, 1)
    x = torch.where(chosen(b, 0.2, device), blurred, torch.where(chosen(b, 0.1, device), twice, x))
    noise = torch.randn_like(x) * uniform(b, 0.0, 0.05, device)
    x = torch.where(chosen(b, 0.35, device), x + noise, x)
    return x.clamp(0, 1) * 255
