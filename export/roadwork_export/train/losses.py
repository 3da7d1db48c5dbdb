"""Losses of the three networks. Boxes are x1 y1 x2 y2 in canvas pixels throughout."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from roadwork_export.nets import centernet, yolox

MAX_BOXES = 64


def iou_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of [..., M, 4] and [..., N, 4] as [..., M, N]."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    return inter / (area_a[..., :, None] + area_b[..., None, :] - inter + 1e-6)


def giou_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - generalised IoU (Rezatofighi et al., 2019) of matched boxes [N, 4]."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(-1) + (b[:, 2:] - b[:, :2]).clamp(min=0).prod(-1) - inter + 1e-6
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1) + 1e-6
    return 1 - (inter / union - (hull - union) / hull)


def yolox_loss(outputs: tuple[Tensor, Tensor, Tensor], boxes: Tensor, classes: Tensor, valid: Tensor) -> Tensor:
    """SimOTA assignment (arXiv:2107.08430, section 2) for a batch at once.

    outputs: see YoloxNano; boxes [B, M, 4]; classes int64 [B, M]; valid bool [B, M].
    """
    cls_logits, predicted, obj_logits = outputs
    with torch.no_grad():
        points, strides = yolox.grid(yolox_side(predicted), yolox_side(predicted), predicted.device)
        centres = points + strides / 2
        inside = ((centres[None, None] > boxes[:, :, None, :2]) & (centres[None, None] < boxes[:, :, None, 2:])).all(-1)
        middle = (boxes[..., :2] + boxes[..., 2:]) / 2
        near = ((centres[None, None] - middle[:, :, None]).abs() < 2.5 * strides[None, None]).all(-1)
        allowed = (inside | near) & valid[..., None]
        iou = iou_matrix(boxes, predicted.detach()) * allowed
        # Joint probability of class and object, as YOLOX costs it.
        p = (cls_logits.sigmoid() * obj_logits.sigmoid()[..., None]).sqrt().clamp(1e-6, 1 - 1e-6)
        off = -torch.log1p(-p).sum(-1)
        p_class = p.transpose(1, 2).gather(1, classes[..., None].expand(-1, -1, p.shape[1]))
        cost = off[:, None] + torch.log1p(-p_class) - p_class.log() + 3.0 * -(iou + 1e-8).log()
        cost = cost + 1e5 * ~(inside & near) + 1e9 * ~allowed
        counts = iou.topk(10, -1).values.sum(-1).int().clamp(min=1)
        best = cost.topk(10, -1, largest=False)
        chosen = torch.zeros_like(allowed)
        rank = torch.arange(10, device=cost.device)[None, None]
        chosen.scatter_(2, best.indices, (rank < counts[..., None]) & (best.values < 1e8))
        # A cell wanted by several boxes goes to the cheapest.
        owner = torch.where(chosen, cost, torch.full_like(cost, 1e12)).argmin(1)
        positive = chosen.any(1)
    total = positive.sum().clamp(min=1).float()
    objectness = F.binary_cross_entropy_with_logits(obj_logits, positive.float(), reduction="sum") / total
    if not positive.any():
        return objectness
    rows = positive.nonzero(as_tuple=True)
    target_boxes = boxes[rows[0], owner[rows]]
    target_classes = classes[rows[0], owner[rows]]
    overlap = iou[rows[0], owner[rows], rows[1]]
    one_hot = F.one_hot(target_classes, cls_logits.shape[-1]).float() * overlap[:, None].clamp(min=0.0)
    classification = F.binary_cross_entropy_with_logits(cls_logits[rows], one_hot, reduction="sum") / total
    regression = giou_loss(predicted[rows], target_boxes).sum() / total
    return 5.0 * regression + objectness + classification


def yolox_side(predicted: Tensor) -> int:
    """Side in pixels of the square input that gave [B, A, ...] cells: A = side^2 (1/64 + 1/256 + 1/1024)."""
    return round((predicted.shape[1] * 1024 / 21) ** 0.5)


def centernet_targets(
    boxes: Tensor, classes: Tensor, valid: Tensor, shape: torch.Size
) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian heat map [B, C, h, w], sides' targets [B, 4, h, w] and their weights [B, h, w] (TTFNet, section 4)."""
    batch, _, height, width = shape
    stride = centernet.STRIDE
    device = boxes.device
    ys, xs = torch.arange(height, device=device).float(), torch.arange(width, device=device).float()
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 / stride
    # The cell that holds the centre is the peak, so that it is exactly 1.
    cell = centre.floor()
    sigma = ((boxes[..., 2:] - boxes[..., :2]) / stride * 0.54 / 6).clamp(min=0.4)
    gx = torch.exp(-((xs - cell[..., :1]) ** 2) / (2 * sigma[..., :1] ** 2))
    gy = torch.exp(-((ys - cell[..., 1:]) ** 2) / (2 * sigma[..., 1:] ** 2))
    gaussians = gy[..., :, None] * gx[..., None, :] * valid[..., None, None]  # [B, M, h, w]
    heat = torch.zeros(shape, device=device)
    index = classes[..., None, None].expand(-1, -1, height, width)
    heat.scatter_reduce_(1, index, gaussians, "amax")
    # Small objects win where Gaussians meet: they have fewer cells to be learned from.
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    strong = gaussians > 0.1
    owner = torch.where(strong, area[..., None, None], torch.full_like(gaussians, 1e9)).argmin(1)  # [B, h, w]
    weight = gaussians.gather(1, owner[:, None])[:, 0] * strong.any(1)
    flat = owner.flatten(1)[..., None].expand(-1, -1, 4)
    own = boxes.gather(1, flat).reshape(batch, height, width, 4)
    cx = (xs + 0.5)[None, None, :] * stride
    cy = (ys + 0.5)[None, :, None] * stride
    sides = torch.stack([cx - own[..., 0], cy - own[..., 1], own[..., 2] - cx, own[..., 3] - cy], 1)
    return heat, sides, weight


def centernet_loss(outputs: tuple[Tensor, Tensor], boxes: Tensor, classes: Tensor, valid: Tensor) -> Tensor:
    """Penalty-reduced focal loss on the heat map (arXiv:1904.07850, eq. 1) and GIoU on the sides."""
    logits, predicted = outputs
    with torch.no_grad():
        heat, sides, weight = centernet_targets(boxes, classes, valid, logits.shape)
        peaks = heat > 0.999
        count = valid.sum().clamp(min=1).float()
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    focal = torch.where(peaks, (1 - p) ** 2 * p.log(), (1 - heat) ** 4 * p**2 * torch.log1p(-p))
    loss = -focal.sum() / count
    at = weight > 0
    if at.any():
        zero = torch.zeros(1, device=logits.device)
        to_box = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=logits.device)
        a = predicted.permute(0, 2, 3, 1)[at] * to_box + zero
        b = sides.permute(0, 2, 3, 1)[at] * to_box
        loss = loss + 5.0 * (giou_loss(a, b) * weight[at]).sum() / weight[at].sum()
    return loss


def scene_loss(outputs: tuple[Tensor, Tensor], boxes: Tensor, strength: Tensor, presence: Tensor) -> Tensor:
    """Cross entropy of the presence where it is known (0 or 1, not -1), and focal loss of the evidence map.

    boxes [B, M, 4]; strength [B, M]: evidence weight of each box's class, 0 where there is no box.
    """
    logit, evidence = outputs
    known = presence >= 0
    loss = torch.zeros((), device=logit.device)
    if known.any():
        loss = loss + F.binary_cross_entropy_with_logits(logit[known], presence[known].float())
    with torch.no_grad():
        side = evidence.shape[-1]
        cell = 16.0
        at = (torch.arange(side, device=logit.device).float() + 0.5) * cell
        # Every box owns at least the cell of its middle.
        middle = (boxes[..., :2] + boxes[..., 2:]) / 2
        half = ((boxes[..., 2:] - boxes[..., :2]) / 2 * 0.8).clamp(min=cell / 2)
        in_x = (at - middle[..., :1]).abs() <= half[..., :1]
        in_y = (at - middle[..., 1:]).abs() <= half[..., 1:]
        mask = (in_y[..., :, None] & in_x[..., None, :]) & (strength >= 0.5)[..., None, None]
        target = mask.any(1).float()
    p = evidence.sigmoid()
    focal = torch.where(target > 0, 0.75 * (1 - p) ** 2, 0.25 * p**2)
    bce = F.binary_cross_entropy_with_logits(evidence, target, reduction="none")
    return loss + 4.0 * (focal * bce).sum() / target.sum().clamp(min=16)
