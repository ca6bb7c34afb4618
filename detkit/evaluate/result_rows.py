"""Detections of a results file as one table: whose photo each is on, what of them nobody can score, and the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit.data.dataset import Dataset
from detkit.data.label_files import short
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.evaluate.columns import Columns, Results

SHOWN = 5  # of many wrong things this many are named
NUMBERS = frozenset({int, float})
_BEYOND_PX, _BEYOND_SHARE = 2.0, 0.02  # how far over the photo's edge a predicted box may lie before it is remarkable
_REMARKABLE = 0.3  # the share of such boxes from which on the file's unit or box form is in doubt


class Rows(NamedTuple):
    """N detections in the file's order."""

    photos: NDArray[np.int64]  # [N] position in the data set
    labels: NDArray[np.int64]  # [N]
    boxes_xywh: NDArray[np.float64]  # [N, 4]
    scores: NDArray[np.float64]  # [N]
    points_xyv: NDArray[np.float64] | None = None  # [N, P, 3]


Where = Callable[[int], tuple[str, int | None]]  # how the i-th detection is called in a message, and its line


class PhotoNames:
    """Finds a photo of a data set by the name, or path, that another program gave it."""

    def __init__(self, dataset: Dataset) -> None:
        self._names = [_slashed(sample.name) for sample in dataset]
        self._paths = [_slashed(str(sample.image_path)) for sample in dataset]
        self._by_base: dict[str, list[int]] = {}
        for position, name in enumerate(self._names):
            self._by_base.setdefault(name.rpartition("/")[2], []).append(position)

    def find(self, name: str) -> list[int]:
        """Positions of the photos that may be meant: one where the full relative path or the file name says which."""
        name = _slashed(name)
        alike = self._by_base.get(name.rpartition("/")[2], [])
        same = [k for k in alike if self._names[k] == name or f"/{self._paths[k]}".endswith(f"/{name}")]
        inside = [k for k in alike if f"/{name}".endswith(f"/{self._names[k]}")]
        longest = sorted(inside, key=lambda k: len(self._names[k]))[-1:]  # "b/a/x.jpg" rather than "a/x.jpg"
        return same if len(same) == 1 else longest or alike


def _slashed(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def check_rows(rows: Rows, file: Path, where: Where) -> None:
    """DataError for the first number that is not finite, score outside 0-1 or negative size; it says how many."""

    def refuse(bad: ArrayLike, what: str, values: NDArray[np.float64], expected: str) -> None:
        if np.any(bad):
            first, count = int(np.argmax(bad)), int(np.sum(bad))
            place, line = where(first)
            more = f" (and {count - 1} more)" if count > 1 else ""
            found = short(values[first].tolist())
            raise DataError(f"{place}: {what}{more}", file=file, line=line, found=found, expected=expected)

    boxes_xywh, scores = rows.boxes_xywh, rows.scores
    refuse(~np.isfinite(boxes_xywh).all(axis=1), "the box is not finite", boxes_xywh, "x, y, width, height in pixels")
    refuse(~np.isfinite(scores), "the score is not finite", scores, "0 to 1")
    refuse((scores < 0) | (scores > 1), "the score lies outside 0 to 1", scores, "0 to 1")
    negative = (boxes_xywh[:, 2:] < 0).any(axis=1)
    refuse(negative, "the box has a negative size", boxes_xywh, "x, y, width, height (or x1 <= x2, y1 <= y2)")
    if rows.points_xyv is not None:
        flat = rows.points_xyv.reshape(len(scores), 3 * rows.points_xyv.shape[1])
        refuse(~np.isfinite(flat).all(axis=1), "a point is not finite", flat, "x, y, visibility of each point")


def assemble(rows: Rows, dataset: Dataset, notes: Iterable[str] = ()) -> Results:
    """Checked rows as `Results`: a photo's detections keep the file's order; a photo without any is empty."""
    order = np.argsort(rows.photos, kind="stable")
    photos, labels = rows.photos[order], rows.labels[order]
    boxes_xywh, scores = rows.boxes_xywh[order], rows.scores[order]
    points_xyv = None if rows.points_xyv is None else rows.points_xyv[order]
    boxes_xyxy = np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]]).astype(np.float32)
    narrow, narrow_points = scores.astype(np.float32), None if points_xyv is None else points_xyv.astype(np.float32)
    starts = np.searchsorted(photos, np.arange(len(dataset) + 1)).tolist()
    detections = []
    for sample, start, end in zip(dataset, starts, starts[1:], strict=False):
        own = slice(start, end)
        points = None if narrow_points is None else narrow_points[own]
        detections.append(Detections(sample.truth.size_hw, boxes_xyxy[own], labels[own], narrow[own], points))
    areas_px, crowd = boxes_xywh[:, 2] * boxes_xywh[:, 3], np.zeros(len(scores), np.bool_)
    columns = Columns(photos + 1, labels + 1, boxes_xywh, areas_px, scores, crowd)
    return Results(tuple(detections), columns, points_xyv, (*notes, *_remarks(columns, dataset, starts)))


def _remarks(columns: Columns, dataset: Dataset, starts: Sequence[int]) -> list[str]:
    """What is not wrong but worth a look."""
    remarks, counts = [], np.diff(starts)
    if empty := int((counts == 0).sum()):
        remarks.append(f"{empty} of {len(dataset)} photos have no results and count as empty")
    if not len(columns.images):
        return remarks
    sizes_wh = np.array([sample.truth.size_hw[::-1] for sample in dataset], np.float64)[columns.images - 1]  # [N, 2]
    ends = columns.boxes_xywh[:, :2] + columns.boxes_xywh[:, 2:]
    beyond = (ends > sizes_wh + np.maximum(_BEYOND_PX, _BEYOND_SHARE * sizes_wh)).any(axis=1)
    if beyond.mean() > _REMARKABLE:
        remarks.append(f"{beyond.mean():.0%} of the boxes reach beyond their photo: are they x, y, width, height?")
    if len(ends) > SHOWN and (ends <= 1).all():
        remarks.append("every box lies within one pixel: are they in fractions of the photo instead of pixels?")
    return remarks


def listed(values: Iterable[Any]) -> str:
    """The first few of many values, and how many more there are."""
    every = list(values)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(map(str, every[:SHOWN])) + more


def as_floats(values: Sequence[Any]) -> NDArray[np.float64]:
    """Numbers as float64; a whole number that is too large for one is infinite."""
    try:
        return np.array(values, np.float64)
    except OverflowError:
        return np.array([np.inf if abs(value) > 1e308 else float(value) for value in values], np.float64)
