"""Non-maximum suppression without PyTorch: of overlapping boxes of one class, keep the best; one box of many windows.

`nms` keeps exactly the boxes that `torchvision.ops.batched_nms` keeps on a CPU, in the same order, ties included.
Rounding decides near the threshold, so it works on float32 with torchvision's operations in torchvision's order:
NumPy moves and sorts the boxes, and an operator of onnxruntime compares them, since NumPy's calls alone take longer.
Two differences are on purpose: boxes of two classes never suppress each other, even at negative coordinates, and
equal scores come out by ascending index, where torchvision leaves their order open above a thousand boxes.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit import boxes
from detkit.nms_operator import kept_ranks

Indices = NDArray[np.intp]
Float32 = NDArray[np.float32]

_OFFSET_LIMIT = 1000  # up to here torchvision moves each class away by an offset, which rounds the coordinates
_ONE_CALL = 1 << 15  # up to so many boxes times classes all are compared in one call, with no sorting by class
_CALL_BOXES, _CALL_ROWS = 512, 64  # else classes that have no more boxes together, and are no more, share a call
_COVERED = 0.5  # a cut box is part of a box that holds this share of it
_AS_HIGH = 0.7  # what two parts of one object share across the cut, of what they span
_PAIRS = 1 << 20  # pairs of boxes compared at once


def nms(
    boxes_xyxy: ArrayLike, scores: ArrayLike, labels: ArrayLike | None = None, iou_threshold: float = 0.6
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: a box goes when a better kept one of its class overlaps it too much.

    Args:
        boxes_xyxy: [N, 4] pixels, compared as float32.
        scores: [N]; among equal scores the earlier box counts as the better.
        labels: [N] non-negative ints, or None to let every box suppress every other.
        iou_threshold: a box is dropped when its IoU is greater than this; 0 or more.
    Returns:
        int64 indices of the kept boxes, by descending score.
    """
    corners, score_column, label_column = _checked(boxes_xyxy, scores, labels)
    if not iou_threshold >= 0:
        raise ValueError(f"iou_threshold is {iou_threshold}, expected 0 or more")
    if not len(corners):
        return np.zeros(0, np.int64)
    threshold = float32_floor(min(iou_threshold, 1.0))  # no IoU is above 1, so that a higher one changes nothing
    by_score = np.argsort(-score_column, kind="stable")
    xyxy = corners.take(by_score, axis=0)
    ranked_labels = None if label_column is None else label_column.take(by_score)
    if ranked_labels is not None and len(xyxy) <= _OFFSET_LIMIT:
        with np.errstate(all="ignore"):  # of infinite coordinates
            xyxy += (ranked_labels.astype(np.float32) * (xyxy.max() + np.float32(1)))[:, None]
    for low, high in ((0, 2), (1, 3)):  # a box that ends before it begins has no area and suppresses nothing
        np.maximum(xyxy[:, low], xyxy[:, high], out=xyxy[:, high])
    if ranked_labels is None:
        kept = kept_ranks(xyxy, _ranks(len(xyxy)), threshold)
    else:
        kept = _class_by_class(xyxy, ranked_labels, threshold)
    return by_score.take(kept).astype(np.int64, copy=False)


def suppressors(
    boxes_xyxy: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike | None,
    kept: NDArray[np.int64],
    iou_threshold: float = 0.6,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which kept box each dropped one had to go for: the best of those that overlap it too much.

    Args:
        boxes_xyxy, scores, labels, iou_threshold: as for `nms`. kept: what `nms` gave for them.
    Returns:
        int64 [N], the index of that box, -1 for a kept one; float64 [N], their overlap (IoU), 0 for a kept one.
    """
    corners, score_column, label_column = _checked(boxes_xyxy, scores, labels)
    groups = np.zeros(len(corners), np.int64) if label_column is None else label_column
    by, overlaps = np.full(len(corners), -1, np.int64), np.zeros(len(corners))
    rank = np.argsort(np.argsort(-score_column, kind="stable"))
    gone = np.setdiff1d(np.arange(len(corners)), kept)
    step = max(1, _PAIRS // max(1, len(kept)))
    for start in range(0, len(gone), step):
        rows = gone[start : start + step]
        ious = boxes.iou_matrix(corners[rows], corners[kept])  # [n, M], the best kept first
        ious[(groups[rows, None] != groups[kept]) | (rank[rows, None] < rank[kept])] = -1
        too_much = ious > iou_threshold
        first = np.where(too_much.any(axis=1), too_much.argmax(axis=1), ious.argmax(axis=1))  # the latter: by rounding
        by[rows], overlaps[rows] = kept[first], ious[np.arange(len(rows)), first]
    return by, overlaps


def soft_nms(
    boxes_xyxy: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    method: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
) -> tuple[NDArray[np.int64], Float32]:
    """Soft-NMS (Bodla et al., ICCV 2017): overlapped boxes lose score instead of being dropped.

    Args:
        boxes_xyxy, scores, labels: as for `nms`.
        method: "gaussian" multiplies by exp(-IoU^2 / sigma); "linear" by 1 - IoU where IoU > `iou_threshold`.
        score_threshold: a box whose score falls below this is dropped.
    Returns:
        int64 indices of the kept boxes and their new float32 scores, by descending new score.
    """
    if method not in ("gaussian", "linear"):
        raise ValueError(f'method is {method!r}, expected "gaussian" or "linear"')
    corners, score_column, label_column = _checked(boxes_xyxy, scores, labels)
    new_scores = np.full(len(corners), -1.0)  # a score below 0 marks a dropped box
    group_of = np.zeros(len(corners), np.int64) if label_column is None else label_column
    for group in np.unique(group_of):
        members = np.flatnonzero(group_of == group)
        remaining = score_column[members].astype(np.float64)
        while len(members) and remaining.max() >= score_threshold:
            best = int(remaining.argmax())
            new_scores[members[best]] = remaining[best]
            remaining *= _decay(corners[members[best]], corners[members], method, sigma, iou_threshold)
            stays = remaining >= score_threshold
            stays[best] = False
            members, remaining = members[stays], remaining[stays]
    order = np.argsort(-new_scores, kind="stable")
    order = order[new_scores[order] >= 0].astype(np.int64, copy=False)
    return order, new_scores[order].astype(np.float32)


def merge_tiles(
    boxes_xyxy: ArrayLike, scores: ArrayLike, labels: ArrayLike | None, cut: ArrayLike, iou_threshold: float = 0.6
) -> tuple[NDArray[np.int64], Float32]:
    """One box an object, from boxes found in overlapping windows of one photo, some of them cut by a window's edge.

    A cut box goes when half of it lies in a whole box of its class. Those left that continue each other across an edge
    are joined, first along x, then along y, and what half lies in a joined box goes too. Then comes `nms`.

    Args:
        boxes_xyxy, scores, labels, iou_threshold: as for `nms`; boxes on the photo.
        cut: bool [N, 4], which sides end at an edge of the box's window, beyond which the photo goes on.
    Returns:
        int64 indices [M] of the boxes that stay, by descending score, and where they lie now, float32 [M, 4]. A joined
        box has the index of its best part.
    """
    corners, score_column, label_column = _checked(boxes_xyxy, scores, labels)
    groups = np.zeros(len(corners), np.int64) if label_column is None else label_column
    sides = np.asarray(cut, np.bool_).reshape(len(corners), 4)
    whole, parts = np.flatnonzero(~sides.any(axis=1)), np.flatnonzero(sides.any(axis=1))
    whole = whole[nms(corners[whole], score_column[whole], groups[whole], iou_threshold)]
    parts = parts[~_covered(corners[parts], groups[parts], corners[whole], groups[whole])]
    parts = parts[np.argsort(-score_column[parts], kind="stable")]
    hulls, open_sides, joined = corners[parts], sides[parts], np.zeros(len(parts), np.bool_)
    for turn in ([0, 1, 2, 3], [1, 0, 3, 2]):  # along x; then x and y change places
        best, hulls, open_sides, grown = _joined(hulls[:, turn], open_sides[:, turn], groups[parts])
        parts, hulls, open_sides, joined = parts[best], hulls[:, turn], open_sides[:, turn], joined[best] | grown
    left = joined | ~_covered(hulls, groups[parts], hulls[joined], groups[parts[joined]])
    rows, placed_xyxy = np.concatenate([whole, parts[left]]), np.concatenate([corners[whole], hulls[left]])
    kept = nms(placed_xyxy, score_column[rows], groups[rows], iou_threshold)
    return rows[kept].astype(np.int64, copy=False), placed_xyxy[kept]


def _covered(
    parts_xyxy: Float32, part_groups: NDArray[np.int64], boxes_xyxy: Float32, box_groups: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which parts [N] lie by half or more in one of the boxes of their group."""
    covered = np.zeros(len(parts_xyxy), np.bool_)
    step = max(1, _PAIRS // max(1, len(boxes_xyxy)))
    for start in range(0, len(parts_xyxy), step):
        rows = slice(start, start + step)
        inside = boxes.ioa_matrix(parts_xyxy[rows], boxes_xyxy) >= _COVERED  # [n, M]
        covered[rows] = (inside & (part_groups[rows, None] == box_groups)).any(axis=1)
    return covered


def _joined(
    parts_xyxy: Float32, open_sides: NDArray[np.bool_], groups: NDArray[np.int64]
) -> tuple[Indices, Float32, NDArray[np.bool_], NDArray[np.bool_]]:
    """Join parts [N, 4], best first, that continue each other along x.

    Returns the best part of each object, the hull of its parts, the sides on which that is still cut, and whether it
    has more than one part.
    """
    hulls, open_sides = parts_xyxy.copy(), open_sides.copy()
    left, grown = np.ones(len(hulls), np.bool_), np.zeros(len(hulls), np.bool_)
    best = []
    for first in range(len(hulls)):
        if not left[first]:
            continue
        best.append(first)
        while True:
            left[first] = False
            others = np.flatnonzero(left & (groups == groups[first]))
            after = _continues(hulls[first], open_sides[first], hulls[others], open_sides[others])
            before = _continues(hulls[others], open_sides[others], hulls[first], open_sides[first])
            if not (after | before).any():
                break
            at = int((after | before).argmax())
            other, far = others[at], 2 if after[at] else 0
            left[other], grown[first] = False, True
            hulls[first, :2] = np.minimum(hulls[first, :2], hulls[other, :2])
            hulls[first, 2:] = np.maximum(hulls[first, 2:], hulls[other, 2:])
            open_sides[first, far] = open_sides[other, far]
            open_sides[first, [1, 3]] |= open_sides[other, [1, 3]]
    return np.array(best, np.intp), hulls[best], open_sides[best], grown[best]


def _continues(
    a_xyxy: Float32, a_open: NDArray[np.bool_], b_xyxy: Float32, b_open: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether b goes on where a is cut on its right: b is cut on its left, lies further right, and is as high."""
    (a_left, a_top, a_right, a_bottom), (b_left, b_top, b_right, b_bottom) = a_xyxy.T, b_xyxy.T
    staggered = (a_left < b_left) & (b_left <= a_right) & (a_right < b_right)
    shared = np.minimum(a_bottom, b_bottom) - np.maximum(a_top, b_top)
    spanned = np.maximum(a_bottom, b_bottom) - np.minimum(a_top, b_top)
    return np.asarray(a_open[..., 2] & b_open[..., 0] & staggered & (shared >= _AS_HIGH * spanned))


def _decay(best_xyxy: Float32, boxes_xyxy: Float32, method: str, sigma: float, threshold: float) -> Any:
    """The factor that remains of each box's score beside the best one."""
    iou = boxes.iou_matrix(best_xyxy[None], boxes_xyxy)[0]
    return np.exp(-(iou**2) / sigma) if method == "gaussian" else np.where(iou > threshold, 1 - iou, 1.0)


def _checked(
    boxes_xyxy: ArrayLike, scores: ArrayLike, labels: ArrayLike | None
) -> tuple[Float32, Float32, NDArray[np.int64] | None]:
    """The columns with their types settled; a wrong shape raises ValueError."""
    corners = np.asarray(boxes_xyxy, np.float32)
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    score_column = np.asarray(scores, np.float32)
    label_column = None if labels is None else np.asarray(labels, np.int64)
    count = len(score_column)
    if corners.shape != (count, 4) or score_column.ndim != 1 or (labels is not None and np.shape(labels) != (count,)):
        found = f"{corners.shape}, {score_column.shape} and {None if labels is None else np.shape(labels)}"
        raise ValueError(f"boxes, scores and labels have shapes {found}, expected (N, 4), (N,) and (N,)")
    return corners, score_column, label_column


def float32_floor(threshold: float) -> np.float32:
    """The largest float32 that is <= threshold: x > threshold is then decided in float32 as exactly as in float64."""
    rounded = np.float32(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf))


def _class_by_class(xyxy: Float32, labels: NDArray[np.int64], threshold: np.float32) -> Indices:
    """Which boxes stay, ascending, each class for itself; they come by descending score."""
    if labels.view(np.uint64).max() < 1 << 16:  # which no negative label is
        classes = np.bincount(labels).nonzero()[0]
        if len(classes) * len(labels) <= _ONE_CALL:
            return np.sort(kept_ranks(xyxy, (labels == classes[:, None]) * _ranks(len(labels)), threshold))
    order, ends = _grouped(labels)
    xyxy, alive = xyxy.take(order, axis=0), np.zeros(len(order), np.bool_)
    start = first = 0  # box and class
    while start < len(order):
        last = max(min(bisect_right(ends, start + _CALL_BOXES), first + _CALL_ROWS), first + 1)
        stop = ends[last - 1]
        ranks = _ranks(stop - start)
        if last - first > 1:
            row_of = np.repeat(np.arange(last - first), np.diff(ends[first:last], prepend=start))
            ranks = (row_of == np.arange(last - first)[:, None]) * ranks
        alive[order[start:stop][kept_ranks(xyxy[start:stop], ranks, threshold)]] = True
        start, first = stop, last
    return np.flatnonzero(alive)


def _grouped(labels: NDArray[np.int64]) -> tuple[Indices, list[int]]:
    """The order that puts equal labels side by side, each as they come, and where each label ends in it."""
    keys: NDArray[Any] = labels
    if 0 <= labels.min() and labels.max() < 1 << 16:
        keys = labels.astype(np.uint16)  # NumPy sorts 16-bit integers by radix
    order = np.argsort(keys, kind="stable")
    keys = keys.take(order)
    return order, [*(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist(), len(keys)]


def _ranks(count: int) -> Float32:
    """One row of ranks [1, N] for boxes that come by descending score."""
    return np.arange(count, 0, -1, dtype=np.float32)[None]
