"""All that is said about a model's mistakes on a data set, from one look at what overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.evaluate.breakdown import Breakdown, recall_breakdown
from detkit.evaluate.calibration import Calibration, calibration
from detkit.evaluate.coco import MAX_DET
from detkit.evaluate.curves import Curves, curves
from detkit.evaluate.mistakes import ConfusionMatrix, ErrorTypes, confusion_matrix, error_types
from detkit.evaluate.overlaps import Conf, find_overlaps
from detkit.evaluate.suspects import Suspect, label_suspects
from detkit.evaluate.worst import PhotoErrors, worst_photos

WORST, SUSPECTS = 50, 100  # how many are listed


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What went wrong; each part says how it is counted."""

    confusion: ConfusionMatrix
    errors: ErrorTypes
    curves: Curves
    calibration: Calibration
    breakdown: Breakdown
    worst: tuple[PhotoErrors, ...]
    suspects: tuple[Suspect, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        parts = ("confusion", "errors", "curves", "calibration", "breakdown")
        lists = {name: [each.to_dict() for each in getattr(self, name)] for name in ("worst", "suspects")}
        return {name: getattr(self, name).to_dict() for name in parts} | lists


def analyse(
    dataset: Dataset,
    predictions: Sequence[Detections],
    *,
    conf: Conf,
    iou: float = 0.5,
    max_det: int = MAX_DET,
    worst: int = WORST,
    suspects: int = SUSPECTS,
) -> Analysis:
    """Say what went wrong.

    Args:
        dataset: the labelled photos.
        predictions: one per sample, in the data set's order, down to a low score (`CONF_FLOOR`).
        conf: the working threshold, one for all classes or one for each in label order.
        iou: overlap from which the confusion matrix takes a box to be on an object; all else is at COCO's 0.5.
        max_det: best boxes kept per photo and class.
        worst, suspects: how many photos and labels to list.
    Raises:
        DataError: predictions that do not fit the data set.
        UsageError: a setting out of its range.
    """
    table = find_overlaps(dataset, predictions, max_det)
    return Analysis(
        confusion=confusion_matrix(table, conf=conf, iou=iou),
        errors=error_types(table, conf=conf),
        curves=curves(table),
        calibration=calibration(table),
        breakdown=recall_breakdown(table, conf=conf),
        worst=worst_photos(table, conf=conf, limit=worst),
        suspects=label_suspects(table, limit=suspects),
    )
