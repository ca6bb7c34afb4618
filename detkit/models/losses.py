"""Box overlaps that carry gradients; `detkit.boxes.iou_pairs` is the NumPy twin they are tested against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

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
