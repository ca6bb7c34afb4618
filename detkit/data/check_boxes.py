"""The boxes' part of `detkit data check`: what is sound in itself and still looks wrong on its photo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import iou_matrix
from detkit.data.dataset import Sample
from detkit.data.findings import Finding

BEYOND_PX = 1.0  # how far a box may reach over the photo's edge without a word
SAME_IOU, TWO_CLASSES_IOU = 0.95, 0.9
TINY_PX = 4.0  # root of the area on the canvas: half a cell of the finest grid
EXTREME_RATIO = 15.0
STRIDES, LEVELS_PX = (8, 16, 32), (32.0, 96.0)  # cells of the grids, and the root of the area where the next takes over
ANCHORS_PER_CELL = 3


def box_findings(sample: Sample, class_names: Sequence[str], size_px: int) -> Iterator[Finding]:
    """What looks wrong with the boxes of one photo; crowd boxes do not count.

    Args:
        sample: the photo with its boxes.
        class_names: in label order.
        size_px: side of the canvas it will be trained on.
    """
    truth = sample.truth
    kept = np.arange(len(truth)) if truth.crowd is None else np.flatnonzero(~truth.crowd)
    if not len(kept):
        return
    boxes_xyxy = truth.boxes_xyxy[kept].astype(np.float64)
    height, width = truth.size_hw
    beyond = np.maximum(-boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - [width, height]).max(1)
    for at in np.flatnonzero(beyond > BEYOND_PX).tolist():
        what = f"the box reaches {beyond[at]:.4g} px over the edge of its {width}x{height} photo"
        yield _finding("box-over-edge", what, sample, int(kept[at]))
    sides_wh = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    ratios = sides_wh.max(1) / sides_wh.min(1)
    for at in np.flatnonzero(ratios > EXTREME_RATIO).tolist():
        w, h = sides_wh[at]
        what = f"a box of {w:.4g}x{h:.4g} px, {ratios[at]:.0f} times as long as wide"
        yield _finding("box-extreme-shape", what, sample, int(kept[at]))
    roots_px = np.sqrt(sides_wh.prod(1)) * size_px / max(width, height)
    if len(tiny := np.flatnonzero(roots_px < TINY_PX)):
        what = f"{len(tiny)} of {len(kept)} boxes are below {TINY_PX:.0f}x{TINY_PX:.0f} px at {size_px} px"
        yield Finding("box-tiny", what, sample.label_file, photo=sample.image_path)
    yield from _overlaps(sample, class_names, kept)
    yield from _crowded(sample, boxes_xyxy, roots_px, size_px)


def _overlaps(sample: Sample, class_names: Sequence[str], kept: NDArray[np.int64]) -> Iterator[Finding]:
    labels = sample.truth.labels
    for row, other in same_boxes(sample, kept):
        what = f"the same box as {_place(sample, other)}"
        if labels[row] == labels[other]:
            yield _finding("box-twice", what, sample, row)
        else:
            one, two = (class_names[k] if k < len(class_names) else str(k) for k in labels[[row, other]].tolist())
            yield _finding("box-two-classes", f"{what}, which is called {two!r} there and {one!r} here", sample, row)


def same_boxes(sample: Sample, kept: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Rows of boxes that lie on an earlier one, and that one: of one class, or at a smaller overlap of two."""
    truth = sample.truth
    if len(kept) < 2:
        return
    iou = np.tril(iou_matrix(truth.boxes_xyxy[kept], truth.boxes_xyxy[kept]), -1)
    labels = truth.labels[kept]
    same = iou > np.where(labels[:, None] == labels[None], SAME_IOU, TWO_CLASSES_IOU)
    for row in np.flatnonzero(same.any(1)).tolist():
        yield int(kept[row]), int(kept[same[row].argmax()])


def _crowded(
    sample: Sample, boxes_xyxy: NDArray[np.float64], roots_px: NDArray[np.float64], size_px: int
) -> Iterator[Finding]:
    """Cells of the training grid with more objects than anchors; an object's level follows from its size."""
    sides_px = np.array(sample.truth.size_hw[::-1], np.float64)
    scale = size_px / sides_px.max()
    middles_px = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2 * scale + (size_px - sides_px * scale) / 2
    levels = np.digitize(roots_px, LEVELS_PX)
    cells = np.floor(middles_px / np.array(STRIDES)[levels][:, None])
    _, counts = np.unique(np.column_stack([levels, cells]), axis=0, return_counts=True)
    lost = int(np.maximum(counts - ANCHORS_PER_CELL, 0).sum())
    if lost:
        crowded = int((counts > ANCHORS_PER_CELL).sum())
        where = (
            f"{crowded} crowded grid cells at {size_px} px" if crowded > 1 else f"a crowded grid cell at {size_px} px"
        )
        what = f"{lost} of {len(boxes_xyxy)} boxes find no anchor left in {where}"
        yield Finding("cell-crowded", what, sample.label_file, photo=sample.image_path)


def _finding(code: str, message: str, sample: Sample, row: int) -> Finding:
    number = None if sample.rows is None else int(sample.rows[row])
    in_lines = sample.label_file is not None and sample.label_file.suffix.lower() in (".txt", ".csv")
    line, item = (number, None) if in_lines else (None, number)
    found = str([round(value, 2) for value in sample.truth.boxes_xyxy[row].tolist()])
    message = message if in_lines else f"{_place(sample, row)}: {message}"
    return Finding(code, message, sample.label_file, line, item, sample.image_path, found)


def _place(sample: Sample, row: int) -> str:
    """How people find a box: its line, or its number."""
    if sample.rows is None or sample.label_file is None:
        return f"box {row + 1}"
    words = {".txt": "line", ".csv": "line", ".json": "annotation", ".xml": "object"}
    return f"{words.get(sample.label_file.suffix.lower(), 'box')} {sample.rows[row]}"
