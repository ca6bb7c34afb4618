"""Losses that torch has not: box overlaps with gradients (NumPy twin: `detkit.boxes.iou_pairs`), focal, quality."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-7


def ciou_pairs(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Complete IoU and plain IoU of paired boxes (Zheng 2020, arXiv:1911.08287), differentiable.

    Args:
        a_xyxy: [N, 4] predictions. b_xyxy: [N, 4] targets.
    Returns:
        (ciou [N], iou [N]); the trade-off weight alpha is held constant, as in the paper.
    """
    low = torch.maximum(a_xyxy[:, :2], b_xyxy[:, :2])
    high = torch.minimum(a_xyxy[:, 2:], b_xyxy[:, 2:])
    overlap = (high - low).clamp(min=0).prod(1)  # [N]
    a_wh, b_wh = a_xyxy[:, 2:] - a_xyxy[:, :2], b_xyxy[:, 2:] - b_xyxy[:, :2]
    iou = overlap / (a_wh.prod(1) + b_wh.prod(1) - overlap + _TINY)
    hull_wh = torch.maximum(a_xyxy[:, 2:], b_xyxy[:, 2:]) - torch.minimum(a_xyxy[:, :2], b_xyxy[:, :2])
    shift = (a_xyxy[:, :2] + a_xyxy[:, 2:] - b_xyxy[:, :2] - b_xyxy[:, 2:]) / 2
    distance = (shift**2).sum(1) / ((hull_wh**2).sum(1) + _TINY)
    angle_gap = torch.atan2(b_wh[:, 0], b_wh[:, 1] + _TINY) - torch.atan2(a_wh[:, 0], a_wh[:, 1] + _TINY)
    shape = 4 / math.pi**2 * angle_gap**2
    with torch.no_grad():
        alpha = shape / (1 - iou + shape + _TINY)
    return iou - distance - alpha * shape, iou


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss, elementwise (Lin 2017, arXiv:1708.02002): the easy, mostly empty slots hardly count.

    Args:
        logits: any shape. targets: the same shape, 0 or 1.
        alpha: weight of the ones; the zeros weigh 1 - alpha. gamma: 0 is plain cross-entropy.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    chance = logits.sigmoid()
    missing = torch.where(targets > 0.5, 1 - chance, chance)  # 1 - probability of the truth
    return torch.where(targets > 0.5, alpha, 1 - alpha) * missing**gamma * entropy


def quality_focal_loss(logits: Tensor, targets: Tensor, *, beta: float = 2.0) -> Tensor:
    """Quality focal loss, elementwise (Li 2020, arXiv:2006.04388): |target - p|^beta times the cross-entropy.

    Args:
        logits: any shape. targets: the same shape, 0 to 1: the IoU reached, 0 where nothing is.
        beta: 0 is plain cross-entropy.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - logits.sigmoid()).abs() ** beta * entropy


def smooth_one_hot(labels: Tensor, class_count: int, smoothing: float) -> Tensor:
    """Class targets [T, K] of int64 labels [T]: 1 - s/2 for the own class and s/2 for the others (binary form)."""
    return F.one_hot(labels, class_count).float() * (1 - smoothing) + smoothing / 2
