"""Box geometry on NumPy arrays: convert, measure, move, clip and compare; no other file holds an IoU formula.

Coordinates are continuous, x2 and y2 exclusive, width = x2 - x1. A box whose x2 < x1 or y2 < y1 counts as empty.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.floating[Any]]
IouKind = Literal["iou", "giou", "diou", "ciou"]

_LARGEST = 1e75  # fourth powers of coordinates still fit a float64


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> FloatArray:
    """Corners to top-left corner and size; [N, 4] in, [N, 4] of the same float type out."""
    x1, y1, x2, y2 = _columns(boxes_xyxy)
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> FloatArray:
    """Top-left corner and size to corners; [N, 4] in, [N, 4] of the same float type out."""
    x, y, width, height = _columns(boxes_xywh)
    return np.stack([x, y, x + width, y + height], axis=1)


def xyxy_to_cxcywh(boxes_xyxy: ArrayLike) -> FloatArray:
    """Corners to centre and size; [N, 4] in, [N, 4] of the same float type out."""
    x1, y1, x2, y2 = _columns(boxes_xyxy)
    return np.stack([x1 + (x2 - x1) / 2, y1 + (y2 - y1) / 2, x2 - x1, y2 - y1], axis=1)


def cxcywh_to_xyxy(boxes_cxcywh: ArrayLike) -> FloatArray:
    """Centre and size to corners; [N, 4] in, [N, 4] of the same float type out."""
    cx, cy, width, height = _columns(boxes_cxcywh)
    return np.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], axis=1)


def xywh_to_cxcywh(boxes_xywh: ArrayLike) -> FloatArray:
    """Top-left corner and size to centre and size; [N, 4] in, [N, 4] of the same float type out."""
    x, y, width, height = _columns(boxes_xywh)
    return np.stack([x + width / 2, y + height / 2, width, height], axis=1)


def cxcywh_to_xywh(boxes_cxcywh: ArrayLike) -> FloatArray:
    """Centre and size to top-left corner and size; [N, 4] in, [N, 4] of the same float type out."""
    cx, cy, width, height = _columns(boxes_cxcywh)
    return np.stack([cx - width / 2, cy - height / 2, width, height], axis=1)


def scale(boxes: ArrayLike, scale_xy: tuple[float, float]) -> FloatArray:
    """Multiply x by `scale_xy[0]` and y by `scale_xy[1]`; right for xyxy, xywh and cxcywh alike."""
    columns = _columns(boxes)
    return (columns * np.array([*scale_xy, *scale_xy], columns.dtype)[:, None]).T


def shift(boxes_xyxy: ArrayLike, offset_xy: tuple[float, float]) -> FloatArray:
    """Move boxes by `offset_xy` pixels."""
    columns = _columns(boxes_xyxy)
    return (columns + np.array([*offset_xy, *offset_xy], columns.dtype)[:, None]).T


def clip(boxes_xyxy: ArrayLike, size_hw: tuple[int, int]) -> FloatArray:
    """Cut boxes to the image: x to 0..W and y to 0..H; a box wholly outside becomes one of zero area."""
    columns = _columns(boxes_xyxy)
    height, width = size_hw
    return np.clip(columns, 0, np.array([width, height, width, height], columns.dtype)[:, None]).T


def area(boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Area of each box in square pixels, float64 [N]; 0 for an empty box."""
    return _area(_safe_columns(boxes_xyxy))


def iou_matrix(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of every box of `a` with every box of `b`.

    Args:
        a_xyxy: [N, 4].
        b_xyxy: [M, 4].
    Returns:
        float64 [N, M] in 0-1; 0 where the union has no area, never NaN.
    """
    a, b = _safe_columns(a_xyxy)[:, :, None], _safe_columns(b_xyxy)[:, None, :]
    intersection = _intersection(a, b)  # [N, M]
    return _ratio(intersection, _area(a) + _area(b) - intersection)


def ioa_matrix(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Intersection over the area of `a`: COCO's overlap of a detection `a` with a crowd region `b`.

    Args:
        a_xyxy: [N, 4], the boxes whose area divides.
        b_xyxy: [M, 4].
    Returns:
        float64 [N, M] in 0-1; 0 where the box of `a` has no area, never NaN.
    """
    a, b = _safe_columns(a_xyxy)[:, :, None], _safe_columns(b_xyxy)[:, None, :]
    intersection = _intersection(a, b)  # [N, M]
    return _ratio(intersection, np.broadcast_to(_area(a), intersection.shape))


def iou_pairs(a_xyxy: ArrayLike, b_xyxy: ArrayLike, kind: IouKind = "iou") -> NDArray[np.float64]:
    """Overlap of each box of `a` with the box of `b` in the same row.

    GIoU: Rezatofighi et al., CVPR 2019. DIoU and CIoU: Zheng et al., AAAI 2020.

    Args:
        a_xyxy: [N, 4].
        b_xyxy: [N, 4].
        kind: "iou" 0..1, "giou" and "diou" -1..1, or "ciou" (down to -2).
    Returns:
        float64 [N]; a term whose denominator is 0 counts as 0, so never NaN.
    """
    a, b = _safe_columns(a_xyxy), _safe_columns(b_xyxy)
    if a.shape != b.shape:
        raise ValueError(f"iou_pairs needs as many boxes on both sides, found {a.shape[1]} and {b.shape[1]}")
    intersection = _intersection(a, b)  # [N]
    union = _area(a) + _area(b) - intersection
    iou = _ratio(intersection, union)
    if kind == "iou":
        return iou
    hull = np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])  # [4, N]
    if kind == "giou":
        return iou - _ratio(_area(hull) - union, _area(hull))
    if kind not in ("diou", "ciou"):
        raise ValueError(f'kind is {kind!r}, expected "iou", "giou", "diou" or "ciou"')
    centre_gap_xy = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
    diou = iou - _ratio((centre_gap_xy**2).sum(axis=0), ((hull[2:] - hull[:2]) ** 2).sum(axis=0))
    return diou if kind == "diou" else diou - _aspect_penalty(a, b, iou)


def _aspect_penalty(a: FloatArray, b: FloatArray, iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIoU's alpha * v; arctan2 keeps w / h defined for flat boxes."""
    angle_a, angle_b = (np.arctan2(box[2] - box[0], box[3] - box[1]) for box in (a, b))
    v = 4 / np.pi**2 * (angle_a - angle_b) ** 2
    return np.asarray(v * _ratio(v, 1 - iou + v))


def _columns(boxes: ArrayLike) -> FloatArray:
    """[N, 4] of any number type to [4, N] of a float type; `[]` counts as no boxes."""
    array = np.asarray(boxes)
    if array.shape == (0,):
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes have shape {array.shape}, expected (N, 4)")
    return (array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)).T


def _safe_columns(boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
    """[4, N] float64 with x2 >= x1 and y2 >= y1, without -0.0, in a range whose products cannot overflow."""
    columns = np.clip(_columns(boxes_xyxy).astype(np.float64), -_LARGEST, _LARGEST) + 0.0
    return np.concatenate([columns[:2], np.maximum(columns[:2], columns[2:])])


def _area(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    x1, y1, x2, y2 = columns
    return np.asarray((x2 - x1) * (y2 - y1))


def _intersection(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    return np.asarray(np.maximum(width, 0) * np.maximum(height, 0))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, at most 1 whatever the rounding, and 0 where whole is not positive."""
    return np.minimum(np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0), 1.0)
