"""Target assignment: which cells and anchors answer for which labelled boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


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
    targets: Targets, grids_hw: Sequence[tuple[int, int]], strides: Sequence[int], anchors_wh: Tensor, max_ratio: float
) -> list[Matches]:
    """Give each target to every anchor whose sides are within `max_ratio` of its own, in up to three cells.

    The cells are the one that holds the midpoint and its nearest neighbour along x and along y (the decoding reaches
    half a cell beyond its own). A slot (image, cell, anchor) answers for one target: the midpoint's own cell goes
    before a neighbour, then the closer shape. Crowd boxes are given to nobody.

    Args:
        targets: the batch's boxes.
        grids_hw: rows and columns per level. strides: pixels per cell per level.
        anchors_wh: float [L, A, 2] in canvas pixels.
    Returns:
        One `Matches` per level.
    """
    keep = torch.nonzero(~targets.crowd).squeeze(1)
    boxes = targets.boxes_xyxy[keep]
    centre_xy, size_wh = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    matches = []
    for grid_hw, stride, anchors in zip(grids_hw, strides, anchors_wh, strict=True):
        ratio = size_wh[:, None] / anchors[None]  # [M, A, 2]
        worst = torch.maximum(ratio, 1 / ratio.clamp(min=1e-9)).amax(2)  # [M, A]
        target, anchor = torch.nonzero(worst < max_ratio, as_tuple=True)
        cell, hop, origin = _cells_around(centre_xy[target] / stride, grid_hw)
        cost = worst[target, anchor][origin] + hop * 2 * max_ratio  # a neighbour ranks behind every own cell
        found = Matches(
            targets.image_index[keep][target][origin], anchor[origin], cell[:, 1], cell[:, 0], keep[target][origin]
        )
        matches.append(_one_target_per_slot(found, cost, grid_hw, len(anchors)))
    return matches


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
