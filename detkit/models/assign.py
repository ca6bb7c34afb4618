"""Target assignment: which cells and anchors answer for which labelled boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detkit.models.losses import ciou_pairs

_TOP_IOUS = 10  # SimOTA: a target gets about as many slots as the sum of its best IoUs
_IOU_WEIGHT = 3.0
_OUTSIDE = 1e5  # cost of a cell whose centre lies outside the box: only where nothing inside is left


class Targets(NamedTuple):
    """The labelled boxes of a batch in one table of M rows.

    image_index: int64 [M]. labels: int64 [M]. boxes_xyxy: float32 [M, 4] in canvas pixels. crowd: bool [M].
    """

    image_index: Tensor
    labels: Tensor
    boxes_xyxy: Tensor
    crowd: Tensor


class Matches(NamedTuple):
    """T slots of one pyramid level that answer for a target: each field is int64 [T]; `target` indexes `Targets`."""

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    target: Tensor


def assign_by_shape(
    targets: Targets,
    grids_hw: Sequence[tuple[int, int]],
    strides: Sequence[int],
    anchors_wh: Tensor | Sequence[Tensor],
    max_ratio: float,
) -> list[Matches]:
    """Give each target to every anchor whose sides are within `max_ratio` of its own, in up to three cells.

    The cells are the one that holds the midpoint and its nearest neighbour along x and along y (the decoding reaches
    half a cell beyond its own). A slot (image, cell, anchor) answers for one target: the midpoint's own cell goes
    before a neighbour, then the closer shape. Crowd boxes are given to nobody.

    Args:
        targets: the batch's boxes.
        grids_hw: rows and columns per level. strides: pixels per cell per level.
        anchors_wh: float [L, A, 2] in canvas pixels, or L of [A, 2].
    Returns:
        One `Matches` per level.
    """
    keep = torch.nonzero(~targets.crowd).squeeze(1)
    boxes = targets.boxes_xyxy[keep]
    centre_xy, size_wh = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    matches = []
    for grid_hw, stride, anchors in zip(grids_hw, strides, anchors_wh, strict=True):
        worst = _worst_ratio(size_wh, anchors)  # [M, A]
        target, anchor = torch.nonzero(worst < max_ratio, as_tuple=True)
        cell, hop, origin = _cells_around(centre_xy[target] / stride, grid_hw)
        cost = worst[target, anchor][origin] + hop * 2 * max_ratio  # a neighbour ranks behind every own cell
        found = Matches(
            targets.image_index[keep][target][origin], anchor[origin], cell[:, 1], cell[:, 0], keep[target][origin]
        )
        matches.append(_one_target_per_slot(found, cost, grid_hw, len(anchors)))
    return matches


@torch.no_grad()
def assign_by_simota(
    targets: Targets,
    boxes_xyxy: Sequence[Tensor],
    logits: Sequence[Tensor],
    strides: Sequence[int],
    anchors_wh: Tensor,
    max_ratio: float,
) -> list[Matches]:
    """Give each target to the slots that already predict it best (SimOTA: Ge 2021, arXiv:2107.08430), with anchors.

    A target gets as many slots as the sum of its ten best IoUs, at least one, those of least cost: class loss of
    sqrt(objectness x class) + 3 (-log IoU), after all others where the cell's centre is outside the box. A slot
    answers for the target of least cost. The paper's region of 2.5 strides shrinks to what the decoding can reach,
    or the loss could not fall: at most four cells a level, so what is chosen is above all the level and the anchor.

    Args:
        boxes_xyxy, logits: per level the decoded boxes [B, A, H, W, 4] and objectness and classes [B, A, H, W, 1 + K].
        targets, strides, anchors_wh, max_ratio: as for `assign_by_shape`; max_ratio at most 4, the decoding's reach.
    """
    keep = torch.nonzero(~targets.crowd).squeeze(1)
    kept = Targets(*(column[keep] for column in targets))
    size_wh = kept.boxes_xyxy[:, 2:] - kept.boxes_xyxy[:, :2]
    found, masks, costs, overlaps = [], [], [], []
    for boxes, scores, stride, anchors in zip(boxes_xyxy, logits, strides, anchors_wh, strict=True):
        fits = _worst_ratio(size_wh, anchors) < max_ratio  # [M, A]
        slots, mask = _slots_in_reach(kept, (boxes.shape[2], boxes.shape[3]), stride, fits)
        cost, iou = _simota_cost(kept, slots, boxes, scores, stride)
        found.append(slots)
        masks.append(mask)
        costs.append(torch.full(mask.shape, torch.inf, dtype=cost.dtype, device=cost.device).masked_scatter(mask, cost))
        overlaps.append(torch.zeros(mask.shape, dtype=iou.dtype, device=iou.device).masked_scatter(mask, iou))
    chosen = _cheapest(torch.cat(costs, 1), torch.cat(overlaps, 1)).split([m.shape[1] for m in masks], 1)
    matches = []
    for slots, mask, cost, boxes, picked in zip(found, masks, costs, boxes_xyxy, chosen, strict=True):
        among = picked[mask]  # of this level's slots, in their order
        taken = Matches(*(column[among] for column in slots))._replace(target=keep[slots.target[among]])
        matches.append(_one_target_per_slot(taken, cost[picked], (boxes.shape[2], boxes.shape[3]), boxes.shape[1]))
    return matches


def _slots_in_reach(kept: Targets, grid_hw: tuple[int, int], stride: int, fits: Tensor) -> tuple[Matches, Tensor]:
    """Slots of a level from which the decoding can reach each of M targets, and where they stand in [M, A * 4].

    The midpoint must be less than one cell from the cell's centre along x and y: four cells at most.
    """
    midpoint = (kept.boxes_xyxy[:, :2] + kept.boxes_xyxy[:, 2:]) / 2 / stride  # [M, 2] in cells
    own = midpoint.floor()
    step = torch.where(midpoint - own < 0.5, -1.0, 1.0)
    hops = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], device=own.device)
    cell = own[:, None] + step[:, None] * hops  # [M, 4, 2] as x, y
    limit = torch.tensor([grid_hw[1], grid_hw[0]], device=own.device)
    usable = ((midpoint[:, None] - cell - 0.5).abs() < 1) & (cell >= 0) & (cell < limit)  # [M, 4, 2]
    mask = fits[:, :, None] & usable.all(2)[:, None]  # [M, A, 4]
    target, anchor, hop = torch.nonzero(mask, as_tuple=True)
    column, row = cell[target, hop].long().unbind(1)
    return Matches(kept.image_index[target], anchor, row, column, target), mask.flatten(1)


def _simota_cost(
    kept: Targets, slots: Matches, boxes_xyxy: Tensor, logits: Tensor, stride: int
) -> tuple[Tensor, Tensor]:
    """Cost (float64: the large term must not swallow the small ones) and IoU of S slots with their targets."""
    truth = kept.boxes_xyxy[slots.target]  # [S, 4]
    place = slots[:4]
    _, iou = ciou_pairs(boxes_xyxy[place].float(), truth)
    chance = logits[place].double().sigmoid()  # [S, 1 + K]
    score = (chance[:, :1] * chance[:, 1:]).sqrt()  # [S, K]
    wanted = F.one_hot(kept.labels[slots.target], score.shape[1])
    likelihood = torch.where(wanted == 1, score, 1 - score)
    class_loss = -likelihood.log().clamp(min=-100).sum(1)
    centre_xy = (torch.stack([slots.column, slots.row], 1) + 0.5) * stride
    inside = ((centre_xy > truth[:, :2]) & (centre_xy < truth[:, 2:])).all(1)
    return class_loss - _IOU_WEIGHT * (iou.double() + 1e-8).log() + _OUTSIDE * ~inside, iou


def _cheapest(cost: Tensor, iou: Tensor) -> Tensor:
    """Bool [M, C]: the dynamic number of slots per target, those of least cost (infinite: not to be had)."""
    count = iou.topk(min(_TOP_IOUS, iou.shape[1]), 1).values.sum(1).long().clamp(min=1)  # [M]
    rank = cost.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return (rank < count[:, None]) & cost.isfinite()


def _worst_ratio(size_wh: Tensor, anchors_wh: Tensor) -> Tensor:
    """[M, A] >= 1: the larger factor between the sides of M targets and A anchors, in either direction."""
    ratio = size_wh[:, None] / anchors_wh[None]  # [M, A, 2]
    return torch.maximum(ratio, 1 / ratio.clamp(min=1e-9)).amax(2)


def _cells_around(centre_xy: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Own cell and nearest neighbours of [T, 2] midpoints in cells: (cells [S, 2] as x, y, hop [S], origin [S])."""
    own = centre_xy.floor()
    step = torch.where(centre_xy - own < 0.5, -1.0, 1.0)  # [T, 2] towards the nearer edge
    along_x, along_y = step * step.new_tensor([1.0, 0.0]), step * step.new_tensor([0.0, 1.0])
    cells = torch.cat([own, own + along_x, own + along_y]).long()  # [3T, 2]
    count = len(centre_xy)
    origin = torch.arange(count, device=own.device).repeat(3)
    hop = (torch.arange(3 * count, device=own.device) >= count).float()
    limit = torch.tensor([grid_hw[1], grid_hw[0]], device=own.device)
    inside = ((cells >= 0) & (cells < limit)).all(1)
    return cells[inside], hop[inside], origin[inside]


def _one_target_per_slot(found: Matches, cost: Tensor, grid_hw: tuple[int, int], anchor_count: int) -> Matches:
    """Keep, for each (image, anchor, row, column), the match of lowest cost."""
    slot = ((found.image * anchor_count + found.anchor) * grid_hw[0] + found.row) * grid_hw[1] + found.column
    order = torch.argsort(cost, stable=True)
    order = order[torch.argsort(slot[order], stable=True)]  # by slot, the cheapest first
    sorted_slot = slot[order]
    first = torch.ones_like(sorted_slot, dtype=torch.bool)
    first[1:] = sorted_slot[1:] != sorted_slot[:-1]
    return Matches(*(column[order[first]] for column in found))
