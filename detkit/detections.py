"""`Detections`: the boxes of one image, predicted or labelled. The one type that crosses module borders."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

# field -> (dtype, trailing shape; None stands for "any length")
_COLUMNS: dict[str, tuple[Any, tuple[int | None, ...]]] = {
    "boxes_xyxy": (np.float32, (4,)),
    "labels": (np.int64, ()),
    "scores": (np.float32, ()),
    "points_xyv": (np.float32, (None, 3)),
    "track_ids": (np.int64, ()),
    "crowd": (np.bool_, ()),
}


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """N boxes on one image; `scores is None` means ground truth, and N = 0 is ordinary.

    Args:
        size_hw: height and width of the image the boxes lie on, in pixels.
        boxes_xyxy: float32 [N, 4], continuous pixel coordinates, x2 and y2 exclusive.
        labels: int64 [N], indices into the class names.
        scores: float32 [N] in 0-1, or None for ground truth.
        points_xyv: float32 [N, P, 3]: x, y in pixels and visibility, or None.
        track_ids: int64 [N], or None.
        crowd: bool [N], COCO's `iscrowd`, or None.
    Raises:
        ValueError: a column's shape or length does not fit.
    """

    size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None
    points_xyv: NDArray[np.float32] | None = None
    track_ids: NDArray[np.int64] | None = None
    crowd: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        height, width = self.size_hw
        object.__setattr__(self, "size_hw", (int(height), int(width)))
        count = len(self.boxes_xyxy)
        for name, (dtype, trailing) in _COLUMNS.items():
            value = getattr(self, name)
            if value is None and name not in ("boxes_xyxy", "labels"):
                continue
            column: NDArray[Any] = np.asarray(value, dtype=dtype)
            if column.size == 0 and count == 0 and None not in trailing:
                column = column.reshape([0, *(length or 0 for length in trailing)])
            shape_fits = column.ndim == 1 + len(trailing) and all(
                want is None or want == have for want, have in zip(trailing, column.shape[1:], strict=True)
            )
            if not shape_fits or len(column) != count:
                raise ValueError(f"{name} has shape {column.shape}, expected {(count, *trailing)}")
            object.__setattr__(self, name, column)

    @classmethod
    def empty(cls, size_hw: tuple[int, int], *, scored: bool = True) -> Detections:
        """No boxes on a canvas of `size_hw`; with `scored`, an empty prediction rather than an empty truth."""
        scores = np.zeros(0, np.float32) if scored else None
        return cls(size_hw, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), scores)

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def __getitem__(self, index: Any) -> Detections:
        """The rows chosen by a boolean mask, indices or a slice, as new Detections; an int keeps one row."""
        rows = [index] if isinstance(index, (int, np.integer)) else index
        if isinstance(rows, list) and not rows:
            rows = np.zeros(0, np.int64)
        columns: dict[str, Any] = {name: getattr(self, name) for name in _COLUMNS}
        kept: dict[str, Any] = {name: None if c is None else c[rows] for name, c in columns.items()}
        return Detections(self.size_hw, **kept)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return all((a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]  # holds arrays
