"""What became of each box of one photo at one IoU, by COCO's rules: whose truth it found, a crowd, or a false alarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import ioa_matrix, iou_matrix
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.evaluate.coco import MAX_DET, check_predictions

FALSE_ALARM, ON_CROWD, LEFT_OUT = -1, -2, -3  # what an owner may be instead of a truth


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One photo's detections and truths, told apart.

    Args:
        owner: int64 [N], in the order of the photo's detections: the truth each one found, else FALSE_ALARM, ON_CROWD
            (neither right nor wrong) or LEFT_OUT (not among the best of its class).
        found: bool [M], the truths that were found; never a crowd.
    """

    owner: NDArray[np.int64]
    found: NDArray[np.bool_]


def outcomes(
    dataset: Dataset, predictions: Sequence[Detections], iou: float = 0.5, max_det: int = MAX_DET
) -> list[Outcome]:
    """The outcome of every photo.

    Boxes of one class are taken best score first. Each takes, of the truths that are free and overlap by `iou`, one
    that counts before a crowd, then the one it overlaps most. So boxes below some score change nothing for the others.

    Args:
        dataset: the labelled photos.
        predictions: one per sample, in the data set's order.
        iou: overlap from which a box finds a truth.
        max_det: best boxes kept per photo and class.
    Raises:
        DataError: predictions that do not fit the data set.
    """
    check_predictions(dataset, predictions)
    pairs = zip(dataset, predictions, strict=True)
    return [_outcome(sample.truth, prediction, iou, max_det) for sample, prediction in pairs]


def crowds(truth: Detections) -> NDArray[np.bool_]:
    """Which truths are crowds, bool [M]."""
    return np.zeros(len(truth), np.bool_) if truth.crowd is None else truth.crowd


def best_first(found: Detections) -> NDArray[np.int64]:
    """Rows of detections by falling score; equal ones in their own order."""
    assert found.scores is not None  # check_predictions has seen it
    return np.argsort(-found.scores, kind="stable")


def overlaps(found: Detections, truth: Detections) -> NDArray[np.float64]:
    """COCO's overlap of each detection with each truth, [N, M]: with a crowd, the share of the detection that is on it.

    Classes are not looked at.
    """
    boxes_xyxy, truths_xyxy = _corners(found), _corners(truth)
    matrix, crowd = iou_matrix(boxes_xyxy, truths_xyxy), crowds(truth)
    return np.where(crowd, ioa_matrix(boxes_xyxy, truths_xyxy), matrix) if crowd.any() else matrix


def _outcome(truth: Detections, found: Detections, iou: float, max_det: int) -> Outcome:
    owner = np.full(len(found), FALSE_ALARM, np.int64)
    crowd, free = crowds(truth), np.ones(len(truth), np.bool_)
    order = best_first(found)
    for label in np.unique(found.labels):
        owner[order[found.labels[order] == label][max_det:]] = LEFT_OUT
    if len(truth) and len(found):
        matrix = overlaps(found, truth)
        fits = (matrix >= min(iou, 1 - 1e-10)) & (found.labels[:, None] == truth.labels)
        for row in order[(fits.any(axis=1) & (owner != LEFT_OUT))[order]]:
            choice = np.flatnonzero(fits[row] & free)
            if choice.size:
                best = choice[np.lexsort((choice, matrix[row, choice], ~crowd[choice]))[-1]]
                owner[row] = ON_CROWD if crowd[best] else best
                free[best] = crowd[best]
    return Outcome(owner, ~free & ~crowd)


def _corners(boxes: Detections) -> NDArray[Any]:
    """Corners in float64 by way of width and height, to the bit as COCO's files have them."""
    corner_xy = boxes.boxes_xyxy[:, :2].astype(np.float64)
    return np.hstack([corner_xy, corner_xy + (boxes.boxes_xyxy[:, 2:].astype(np.float64) - corner_xy)])
