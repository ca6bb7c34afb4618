"""Non-maximum suppression in NumPy: of overlapping boxes of one class, keep the best.

`nms` keeps exactly the boxes that `torchvision.ops.batched_nms` keeps on a CPU, in the same order, ties included.
Rounding decides near the threshold, so it works on float32 with torchvision's operations in torchvision's order.
Two differences are on purpose: boxes of two classes never suppress each other, even at negative coordinates, and
equal scores come out by ascending index, where torchvision leaves their order open above a thousand boxes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit import boxes

Indices = NDArray[np.intp]
Float32 = NDArray[np.float32]

_OFFSET_LIMIT = 1000  # up to here torchvision moves each class away by an offset, which rounds the coordinates
_SMALL_GROUP = 48  # classes with fewer boxes are compared pair by pair, all classes at once
_BLOCK = 96  # rows compared at once within a larger class
_PEELS = 8  # how many of the best boxes of every class are compared with its others first, at most


def nms(
    boxes_xyxy: ArrayLike, scores: ArrayLike, labels: ArrayLike | None = None, iou_threshold: float = 0.6
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: a box goes when a better kept one of its class overlaps it too much.

    Args:
        boxes_xyxy: [N, 4] pixels, compared as float32.
        scores: [N]; among equal scores the earlier box counts as the better.
        labels: [N] non-negative ints, or None to let every box suppress every other.
        iou_threshold: a box is dropped when its IoU is greater than this.
    Returns:
        int64 indices of the kept boxes, by descending score.
    """
    corners, score_column, label_column = _checked(boxes_xyxy, scores, labels)
    if not len(corners):
        return np.zeros(0, np.int64)
    rows = by_score = np.argsort(-score_column, kind="stable")
    starts = np.array([0])
    with np.errstate(all="ignore"):  # two boxes without area: 0 / 0 is NaN, which exceeds no threshold
        if label_column is not None:
            if len(corners) <= _OFFSET_LIMIT:
                corners = corners + (label_column.astype(np.float32) * (corners.max() + np.float32(1)))[:, None]
            rows, starts = _grouped(by_score, label_column)
        alive = _survivors(np.ascontiguousarray(corners[rows].T), starts, _float32_floor(iou_threshold))
    kept = np.zeros(len(rows), np.bool_)
    kept[rows[alive]] = True
    return by_score[kept[by_score]].astype(np.int64, copy=False)


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


def _float32_floor(threshold: float) -> np.float32:
    """The largest float32 that is <= threshold: x > threshold is then decided in float32 as exactly as in float64."""
    rounded = np.float32(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf))


def _grouped(by_score: Indices, labels: NDArray[np.int64]) -> tuple[Indices, Indices]:
    """Rows sorted by label and within it by score, and where each label starts."""
    ranked = labels[by_score]
    if 0 <= ranked.min() and ranked.max() < 65536:
        ranked = ranked.astype(np.uint16)  # NumPy sorts 16-bit integers by radix
    by_label = np.argsort(ranked, kind="stable")
    ranked = ranked[by_label]
    return by_score[by_label], np.concatenate([[0], np.flatnonzero(ranked[1:] != ranked[:-1]) + 1])


def _survivors(columns: Float32, starts: Indices, threshold: np.float32) -> NDArray[np.bool_]:
    """Which of the boxes [4, N], in groups by descending score, no better one of the group suppresses."""
    alive = np.zeros(columns.shape[1], np.bool_)
    rest, sizes = _peeled(columns, np.diff(starts, append=columns.shape[1]), threshold)
    columns, starts, small = columns[:, rest], np.cumsum(sizes) - sizes, sizes < _SMALL_GROUP
    rest_alive = np.ones(len(rest), np.bool_)
    for start, size in zip(starts[~small].tolist(), sizes[~small].tolist(), strict=True):
        rest_alive[start : start + size] = _large_group_survivors(columns[:, start : start + size], threshold)
    first, second = _suppressing_pairs(columns, np.where(small, starts + sizes, 0).repeat(sizes), threshold)
    flags = bytearray(rest_alive)
    for i, j in zip(first.tolist(), second.tolist(), strict=True):  # i ascends, so flags[i] is final
        if flags[i]:
            flags[j] = 0
    alive[rest] = np.frombuffer(flags, np.bool_)
    return alive


def _peeled(columns: Float32, sizes: Indices, threshold: np.float32) -> tuple[Indices, Indices]:
    """Drop what the best of each group suppresses, then the second best, ... while that drops many."""
    rest = np.arange(columns.shape[1])
    for rank in range(_PEELS):
        starts = np.cumsum(sizes) - sizes
        head = np.minimum(starts + rank, starts + sizes - 1).repeat(sizes)
        stays = ~_exceeds(columns[:, head], columns, threshold) | (np.arange(len(rest)) <= head)
        before, rest, columns = len(rest), rest[stays], columns[:, stays]
        sizes = np.add.reduceat(stays, starts, dtype=np.intp)
        if len(rest) > 0.9 * before:
            break
    return rest, sizes


def _suppressing_pairs(columns: Float32, ends: Indices, threshold: np.float32) -> tuple[Indices, Indices]:
    """All i < j < ends[i] with IoU above the threshold, by ascending i."""
    position = np.arange(len(ends))
    partners = np.maximum(ends - position - 1, 0)
    first = position.repeat(partners)
    second = np.arange(len(first)) + (position + 1 - np.cumsum(partners) + partners).repeat(partners)
    x1, _, x2, _ = columns
    touching = np.flatnonzero(np.minimum(x2[first], x2[second]) > np.maximum(x1[first], x1[second]))
    first, second = first[touching], second[touching]
    over = np.flatnonzero(_exceeds(columns[:, first], columns[:, second], threshold))
    return first[over], second[over]


def _large_group_survivors(columns: Float32, threshold: np.float32) -> NDArray[np.bool_]:
    """Block by block: settle the block within itself, then drop what its survivors suppress further on."""
    alive = np.ones(columns.shape[1], np.bool_)
    rest = np.arange(columns.shape[1])
    while len(rest):
        block, rest = rest[:_BLOCK], rest[_BLOCK:]
        block_columns = columns[:, block, None]
        settled = _settled(_exceeds(block_columns, columns[:, block], threshold))
        alive[block] = settled
        if len(rest):
            dropped = _exceeds(block_columns[:, settled], columns[:, rest], threshold).any(axis=0)
            alive[rest[dropped]] = False
            rest = rest[~dropped]
    return alive


def _settled(exceeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Greedy survivors of one block, given which pairs overlap too much; rows as big integers of one bit a box."""
    np.fill_diagonal(exceeds, False)
    packed = np.packbits(exceeds, axis=1, bitorder="little")
    removed = 0
    for i in np.flatnonzero(exceeds.any(axis=1)).tolist():
        if not removed >> i & 1:  # then every better box in this row is already removed
            removed |= int.from_bytes(packed[i].tobytes(), "little")
    bits = np.frombuffer(removed.to_bytes(packed.shape[1], "little"), np.uint8)
    return ~np.unpackbits(bits, count=len(exceeds), bitorder="little").view(np.bool_)


def _exceeds(a: Float32, b: Float32, threshold: np.float32) -> NDArray[np.bool_]:
    """IoU above the threshold for columns that broadcast: [4, N] with [4, N], or [4, N, 1] with [4, M] -> [N, M]."""
    return np.asarray(_iou(a, b) > threshold)


def _iou(a: Float32, b: Float32) -> Float32:
    """IoU rounded step by step as torchvision's CPU kernel does; NaN for two boxes without area."""
    intersection: Float32 = np.minimum(a[2], b[2])
    scratch: Float32 = np.maximum(a[0], b[0])
    intersection -= scratch
    np.maximum(intersection, 0, out=intersection)
    height = np.minimum(a[3], b[3])
    height -= np.maximum(a[1], b[1], out=scratch)
    np.maximum(height, 0, out=height)
    intersection *= height
    union = np.add((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]), out=scratch)
    union -= intersection
    intersection /= union
    return intersection
