"""Why a YOLO model found what it found: the cell and the anchor behind each box, and the box each other one yielded to.

A YOLO network gives one box for each slot, a cell of one of its grids and an anchor there: level by level, finest
first, then anchor by anchor, row by row. So the number of an output row tells its slot.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.errors import UsageError, WeightsError
from detkit.images import Image, Placement, place
from detkit.infer.predictor import Predictor
from detkit.infer.selection import Selection, candidates, shown
from detkit.nms import nms, suppressors
from detkit.weights import ModelCard

FINEST_STRIDE = 8  # canvas pixels of a cell on the first level; each further level has cells of twice the side


@dataclass(frozen=True, slots=True)
class Level:
    """One grid: its cells' side in canvas pixels, its rows and columns, and its anchors' widths and heights."""

    stride: int
    rows: int
    columns: int
    anchors_wh_px: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a box comes from: row of the network's output, level, cell and anchor, all counted from 0."""

    output_row: int
    level: int
    stride: int
    row: int
    column: int
    anchor: int
    anchor_wh_px: tuple[float, float]

    @property
    def cell_xyxy(self) -> tuple[int, int, int, int]:
        """The cell in canvas pixels."""
        x, y = self.column * self.stride, self.row * self.stride
        return x, y, x + self.stride, y + self.stride

    @property
    def anchor_xyxy(self) -> tuple[float, float, float, float]:
        """The anchor laid on the middle of the cell, in canvas pixels."""
        (left, top, right, bottom), (width, height) = self.cell_xyxy, self.anchor_wh_px
        x, y = (left + right) / 2, (top + bottom) / 2
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2


@dataclass(frozen=True, slots=True)
class GridExplanation:
    """What happened on one photo; the N boxes before non-max suppression, best first.

    placement: where the photo lies on the canvas. levels: the grids. selection: thresholds. class_names: of the labels.
    before: all N boxes above their confidence, on the canvas. slots: [N]. on_photo_xyxy: [N, 4], clipped to the photo.
    suppressed_by: [N], the index of the box that made it go, -1 for one that stayed; overlaps: their IoU.
    objects: indices of those that became detections; a kept box is none when it lies outside the photo, or when there
    are too many. highest: the best score of any slot, counting or not, and its class.
    """

    placement: Placement
    levels: tuple[Level, ...]
    selection: Selection
    class_names: tuple[str, ...]
    before: Detections
    slots: tuple[Slot, ...]
    on_photo_xyxy: NDArray[np.float32]
    suppressed_by: NDArray[np.int64]
    overlaps: NDArray[np.float64]
    objects: NDArray[np.intp]
    highest: tuple[float, str]

    @property
    def suppressed(self) -> NDArray[np.intp]:
        """Indices of the boxes that had to go for another."""
        return np.flatnonzero(self.suppressed_by >= 0)

    def suppressed_for(self, index: int) -> NDArray[np.intp]:
        """Indices of the boxes that had to go for this one, best first."""
        return np.flatnonzero(self.suppressed_by == index)

    def name_of(self, index: int) -> str:
        """The class of a box."""
        return self.class_names[int(self.before.labels[index])]

    def reason(self, index: int) -> str:
        """Why a box had to go, in words; empty for one that stayed."""
        other = int(self.suppressed_by[index])
        if other < 0:
            return ""
        kind = "of its class" if self.selection.nms == "class" else "of any class"
        numbers = f"IoU {self.overlaps[index]:.3f} > {self.selection.iou:g}"
        return f"{numbers} with a better box {kind}: {self.name_of(other)} {self._score(other):.2f}"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        chosen = set(self.objects.tolist())
        left_out = [i for i in np.flatnonzero(self.suppressed_by < 0).tolist() if i not in chosen]
        return {
            "canvas": list(self.placement.canvas_hw[::-1]),
            "photo": list(self.placement.image_hw[::-1]),
            "conf": self.selection.conf if self.selection.class_conf is None else list(self.selection.class_conf),
            "iou": self.selection.iou,
            "nms": self.selection.nms,
            "levels": [asdict(level) for level in self.levels],
            "before": len(self.before),
            "after": len(self.objects),
            "highest": {"score": self.highest[0], "class": self.highest[1]},
            "objects": [
                self._box(i) | {"suppressed": [self._gone(k) for k in self.suppressed_for(i).tolist()]}
                for i in self.objects.tolist()
            ],
            "left_out": [self._box(i) for i in left_out],
            "suppressed_by_left_out": [self._gone(k) for i in left_out for k in self.suppressed_for(i).tolist()],
        }

    def _gone(self, index: int) -> dict[str, Any]:
        return self._box(index) | {"iou": float(self.overlaps[index]), "why": self.reason(index)}

    def _box(self, index: int) -> dict[str, Any]:
        slot = self.slots[index]
        return {
            "class": self.name_of(index),
            "score": self._score(index),
            "box": self.on_photo_xyxy[index].tolist(),
            "box_on_canvas": self.before.boxes_xyxy[index].tolist(),
            **asdict(slot),
            "cell_on_canvas": list(slot.cell_xyxy),
            "anchor_on_canvas": list(slot.anchor_xyxy),
        }

    def _score(self, index: int) -> float:
        assert self.before.scores is not None, "they are predictions"
        return float(self.before.scores[index])


def explain_grid(predictor: Predictor, pixels_rgb: Image, full_hw: tuple[int, int] | None = None) -> GridExplanation:
    """Look at one photo as `predictor` does, and keep book of who answers, who stays and who goes.

    Args:
        predictor: of a YOLO model, without tiles. pixels_rgb: the photo, uint8 [H, W, 3].
        full_hw: its height and width, where it was decoded at a fraction of them, as `detect` does.
    Raises:
        WeightsError: see `check_explainable`.
        UsageError: soft suppression.
    """
    card = predictor.card
    check_explainable(card, predictor.path)
    if predictor.selection.nms == "soft":
        raise UsageError("nms", found="soft, which lowers scores and drops no box for another", expected="class")
    canvas, placement = place(pixels_rgb, predictor.canvas_hw, card.fit, card.pad_value, image_hw=full_hw)
    outputs = predictor.engine.run(canvas[None])
    boxes_xyxy, scores_matrix, selection = outputs.boxes_xyxy[0], outputs.scores[0], predictor.selection
    levels = grid_levels(predictor.card, predictor.canvas_hw, len(boxes_xyxy), predictor.path)
    rows, labels, scores = candidates(boxes_xyxy, scores_matrix, selection)
    order = np.argsort(-scores, kind="stable")
    rows, labels, scores = rows[order], labels[order], scores[order]
    before = Detections(predictor.canvas_hw, boxes_xyxy[rows], labels, scores)
    groups = None if selection.nms == "agnostic" else labels
    kept = nms(before.boxes_xyxy, scores, groups, selection.iou)
    by, overlaps = suppressors(before.boxes_xyxy, scores, groups, kept, selection.iou)
    on_photo_xyxy = placement.to_image(before.boxes_xyxy).astype(np.float32)
    return GridExplanation(
        placement=placement,
        levels=levels,
        selection=selection,
        class_names=predictor.class_names,
        before=before,
        slots=tuple(slot_of(levels, row) for row in rows.tolist()),
        on_photo_xyxy=on_photo_xyxy,
        suppressed_by=by,
        overlaps=overlaps,
        objects=kept[shown(on_photo_xyxy[kept], selection)],
        highest=(
            float(scores_matrix.max()),
            predictor.class_names[int(scores_matrix.argmax()) % scores_matrix.shape[1]],
        ),
    )


def check_explainable(card: ModelCard, file: Path | None) -> None:
    """Refuse a model whose boxes come from no grid with anchors, and one that drops boxes itself.

    Raises:
        WeightsError: another task than "yolo", no anchors, or non-max suppression inside the file.
    """
    if card.task != "yolo" or not card.anchors_wh_px:
        found = f"a model for {card.task!r}" + (" without anchors" if card.task == "yolo" else "")
        raise WeightsError("has no grid of anchors to explain", file=file, found=found, expected="a 'yolo' model")
    if card.max_det:
        what = "has non-max suppression inside and says nothing of the boxes it dropped; export it without --nms"
        raise WeightsError(what, file=file)


def grid_levels(card: ModelCard, canvas_hw: tuple[int, int], slot_count: int, file: Path | None) -> tuple[Level, ...]:
    """The grids of a model on a canvas, finest first.

    Raises:
        WeightsError: they do not make up `slot_count` slots.
    """
    strides = [FINEST_STRIDE << index for index in range(len(card.anchors_wh_px))]
    grids = [(canvas_hw[0] // stride, canvas_hw[1] // stride) for stride in strides]
    each = zip(strides, grids, card.anchors_wh_px, strict=True)
    levels = tuple(Level(stride, rows, columns, tuple(anchors)) for stride, (rows, columns), anchors in each)
    expected = sum(level.rows * level.columns * len(level.anchors_wh_px) for level in levels)
    if expected != slot_count:
        found = f"{slot_count} boxes for {expected} slots of strides {', '.join(map(str, strides))}"
        raise WeightsError("the network's boxes do not fit the anchors in its card", file=file, found=found)
    return levels


def slot_of(levels: tuple[Level, ...], output_row: int) -> Slot:
    """The slot behind a row of the network's output."""
    rest = output_row
    for index, level in enumerate(levels):
        cells = level.rows * level.columns
        if rest < cells * len(level.anchors_wh_px):
            anchor, cell = divmod(rest, cells)
            row, column = divmod(cell, level.columns)
            return Slot(output_row, index, level.stride, row, column, anchor, level.anchors_wh_px[anchor])
        rest -= cells * len(level.anchors_wh_px)
    raise IndexError(f"output row {output_row} is beyond the grids")
