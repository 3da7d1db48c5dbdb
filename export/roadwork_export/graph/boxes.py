"""From a network's answers to the contract's boxes: classes, suppression, the best hundred. All for any batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..classes import ClassMap
from ..family import SIDE

TOP = 100
CANDIDATES = 200
FLOOR = 0.01
"""Below this score there is no box."""


def suppress(boxes: Tensor, scores: Tensor, classes: Tensor, *, iou: float = 0.6, rounds: int = 4) -> Tensor:
    """Scores with duplicates set to 0: cluster NMS (Zheng et al., 2020, arXiv:2005.03572).

    boxes [B, K, 4] in descending order of scores [B, K]; classes [B, K]; two of a class that overlap by more than
    `iou` are duplicates. After r rounds it equals greedy suppression for chains of up to r boxes. Unlike ONNX's
    NonMaxSuppression it keeps the batch dimension and a fixed size.
    """
    area = (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    side = (high - low).clamp(min=0)
    inter = side[..., 0] * side[..., 1]
    overlap = inter / (area[:, :, None] + area[:, None, :] - inter + 1e-6)
    same = (classes[:, :, None] - classes[:, None, :]).abs() < 0.5
    size = boxes.shape[1]
    earlier = torch.ones(size, size, device=boxes.device).triu(1)  # [i, j]: i comes before j
    beats = ((overlap > iou) & same).float() * earlier
    keep = torch.ones_like(scores)
    for _ in range(rounds):
        keep = ((beats * keep[:, :, None]).amax(1) < 0.5).float()
    return scores * keep


def finish(boxes: Tensor, scores: Tensor, classes: Tensor, side: float) -> tuple[Tensor, Tensor, Tensor]:
    """The best 100 in descending order, of at least that many; below FLOOR there is no box."""
    scores, order = scores.topk(TOP, 1)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)).clamp(0.0, side)
    classes = classes.gather(1, order)
    there = scores >= FLOOR
    scores = torch.where(there, scores, torch.zeros_like(scores))
    boxes = boxes * there[..., None].float()
    classes = torch.where(there, classes, torch.full_like(classes, -1.0))
    return boxes, scores, classes.to(torch.int32)


def corners(boxes: Tensor) -> Tensor:
    """Centre x y, width and height [..., 4] -> x1 y1 x2 y2 [..., 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


class ToTaxonomy(nn.Module):
    """Scores [B, N, labels] -> [B, N, T] of the T taxonomy classes in the map, each the best of its labels."""

    ids: Tensor

    def __init__(self, classes: ClassMap) -> None:
        super().__init__()
        self.columns = classes.columns
        self.register_buffer("ids", torch.tensor(classes.ids, dtype=torch.float32))

    def forward(self, scores: Tensor) -> Tensor:
        return torch.stack([scores[..., list(group)].amax(-1) for group in self.columns], -1)


class BestPairs(nn.Module):
    """The best pairs of box and class: what detectors without suppression (DETR's kind) answer.

    boxes [B, N, 4] x1 y1 x2 y2 in canvas pixels, scores [B, N, labels] -> the contract's tensors.
    """

    def __init__(self, classes: ClassMap) -> None:
        super().__init__()
        self.to_taxonomy = ToTaxonomy(classes)

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pairs = self.to_taxonomy(scores)
        width = pairs.shape[-1]
        flat = pad(pairs.flatten(1))
        best, order = flat.topk(TOP, 1)
        # Positions are exact as floats (far fewer than 2**24), and TensorRT divides floats everywhere.
        row = torch.floor((order.float() + 0.5) / width)
        column = order.float() - row * width
        row = row.clamp(max=float(boxes.shape[1] - 1)).long()
        picked = boxes.gather(1, row[..., None].expand(-1, -1, 4))
        ids = self.to_taxonomy.ids[column.long()]
        return finish(picked, best, ids, float(SIDE))


class BestBoxes(nn.Module):
    """Each box once with its best label, duplicates of a label suppressed: what dense detectors (YOLO's kind) answer.

    boxes [B, N, 4] x1 y1 x2 y2 in canvas pixels, scores [B, N, labels] -> the contract's tensors. A box whose best
    label is not in the map is dropped, as the network's own pipeline would call it something else.
    """

    ids: Tensor

    def __init__(
        self, classes: ClassMap, labels: int, *, iou: float = 0.7, candidates: int = 300, rounds: int = 8
    ) -> None:
        super().__init__()
        ids = torch.full((labels,), -1.0)
        for group, number in zip(classes.columns, classes.ids, strict=True):
            ids[list(group)] = float(number)
        self.register_buffer("ids", ids)
        self.iou, self.candidates, self.rounds = iou, candidates, rounds

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best, label = scores.max(-1)
        best = best * (self.ids[label] >= 0).float()
        best, order = best.topk(self.candidates, 1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        label = label.gather(1, order)
        kept = suppress(boxes, best, label.float(), iou=self.iou, rounds=self.rounds)
        return finish(boxes, kept, self.ids[label], float(SIDE))


def pad(scores: Tensor) -> Tensor:
    """Scores [B, N] with columns of 0 up to TOP of them: topk needs that many."""
    lacking = TOP - scores.shape[1]
    return nn.functional.pad(scores, (0, lacking)) if lacking > 0 else scores
