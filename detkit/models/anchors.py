"""Anchor shapes: k-means under 1 - IoU on the training boxes, their best possible recall, and what a grid must lose.

NumPy only. Shapes are [N, 2] widths and heights in canvas pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def shape_iou_matrix(a_wh: Floats, b_wh: Floats) -> Floats:
    """IoU of boxes that share their centre: [N, 2] against [M, 2] gives [N, M] (Redmon 2017, YOLO9000)."""
    overlap = np.minimum(a_wh[:, None], b_wh[None]).prod(-1)  # [N, M]
    union = a_wh.prod(-1)[:, None] + b_wh.prod(-1)[None] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def shape_ratio_matrix(a_wh: Floats, b_wh: Floats) -> Floats:
    """Largest factor, in either side and either direction, between shapes: [N, 2] and [M, 2] give [N, M] >= 1."""
    ratio = a_wh[:, None] / np.maximum(b_wh[None], 1e-9)  # [N, M, 2]
    return np.maximum(ratio, 1 / np.maximum(ratio, 1e-9)).max(-1)


def kmeans_anchors(boxes_wh: Floats, k: int, *, seed: int = 0, rounds: int = 100) -> Floats:
    """K anchor shapes by k-means under the distance 1 - IoU, sorted by area.

    Args:
        boxes_wh: [N, 2] sizes in pixels; sides under one pixel are left out.
        k: how many anchors.
    Returns:
        [k, 2]. With fewer than k distinct shapes the largest ones are repeated, slightly grown.
    """
    boxes_wh = np.asarray(boxes_wh, np.float64)
    boxes_wh = boxes_wh[(boxes_wh >= 1).all(1)]
    distinct = np.unique(boxes_wh, axis=0)
    if len(distinct) <= k:
        filler = distinct[-1] if len(distinct) else np.array([32.0, 32.0])
        extra = [filler * 1.1**i for i in range(1, k - len(distinct) + 1)]
        return _by_area(np.array([*distinct, *extra]).reshape(k, 2))
    rng = np.random.default_rng(seed)
    centres = [distinct[rng.integers(len(distinct))]]
    while len(centres) < k:  # k-means++ start
        distance = 1 - shape_iou_matrix(boxes_wh, np.array(centres)).max(1)
        centres.append(boxes_wh[rng.choice(len(boxes_wh), p=distance**2 / (distance**2).sum())])
    anchors = np.array(centres)
    for _ in range(rounds):
        nearest = shape_iou_matrix(boxes_wh, anchors).argmax(1)
        groups = [boxes_wh[nearest == i] for i in range(k)]
        moved = np.array([np.median(g, 0) if len(g) else anchors[i] for i, g in enumerate(groups)])
        if np.array_equal(moved, anchors):
            break
        anchors = moved
    return _by_area(anchors)


def _by_area(shapes_wh: Floats) -> Floats:
    return shapes_wh[np.argsort(shapes_wh.prod(1), kind="stable")]


@dataclass(frozen=True, slots=True)
class AnchorFit:
    """How well anchors serve a set of boxes.

    mean_iou: mean over boxes of the IoU with the best anchor, centres aligned.
    best_possible_recall: share of boxes that at least one anchor may be trained on (shape ratio under the limit).
    anchors_per_target: mean number of such anchors per box.
    """

    mean_iou: float
    best_possible_recall: float
    anchors_per_target: float


def anchor_fit(boxes_wh: Floats, anchors_wh: Floats, max_ratio: float) -> AnchorFit:
    """Figures of merit of `anchors_wh` [A, 2] on `boxes_wh` [N, 2]; all zero for N = 0."""
    if not len(boxes_wh):
        return AnchorFit(0.0, 0.0, 0.0)
    fits = shape_ratio_matrix(boxes_wh, anchors_wh) < max_ratio  # [N, A]
    best_iou = shape_iou_matrix(boxes_wh, anchors_wh).max(1)
    return AnchorFit(float(best_iou.mean()), float(fits.any(1).mean()), float(fits.sum(1).mean()))


@dataclass(frozen=True, slots=True)
class Collisions:
    """Objects a grid with anchors cannot tell apart; see `count_collisions`."""

    objects: int
    crowded_cells: int
    objects_lost_to_crowding: int
    same_shape_cells: int
    objects_lost_to_same_shape: int


def count_collisions(
    boxes_cxcywh: Sequence[Floats], strides: Sequence[int], anchors_wh: Sequence[Floats]
) -> Collisions:
    """Count YOLO's two known failures on labelled canvases.

    Each object goes to its best anchor by shape IoU, and to the cell of that anchor's level that holds its midpoint.
    A cell with more objects than anchors is crowded; two objects on one anchor of one cell have the same shape.

    Args:
        boxes_cxcywh: per canvas [N, 4] in canvas pixels.
        strides: cell size per level.
        anchors_wh: per level [A, 2].
    """
    per_level = [len(a) for a in anchors_wh]
    level_of = np.repeat(np.arange(len(per_level)), per_level)
    flat = np.concatenate([np.asarray(a, np.float64) for a in anchors_wh])
    stride_of = np.asarray(strides)[level_of]
    objects = crowded = lost_crowd = same = lost_same = 0
    for boxes in boxes_cxcywh:
        if not len(boxes):
            continue
        best = shape_iou_matrix(boxes[:, 2:], flat).argmax(1)
        cells = np.floor(boxes[:, :2] / stride_of[best][:, None]).astype(np.int64)
        rows = np.column_stack([level_of[best], cells, best])
        in_cell, cell_counts = np.unique(rows[:, :3], axis=0, return_counts=True)
        slots = np.asarray(per_level)[in_cell[:, 0]]
        shape_counts = np.unique(rows, axis=0, return_counts=True)[1]
        objects += len(boxes)
        crowded += int((cell_counts > slots).sum())
        lost_crowd += int(np.maximum(cell_counts - slots, 0).sum())
        same += int((shape_counts > 1).sum())
        lost_same += int((shape_counts - 1).sum())
    return Collisions(objects, crowded, lost_crowd, same, lost_same)
