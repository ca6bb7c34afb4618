"""Which detections and truths of one photo overlap, whatever their classes: what all that tells mistakes apart asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import ioa_matrix, iou_matrix, xywh_to_xyxy
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.evaluate.coco import MAX_DET
from detkit.evaluate.columns import Columns, check_predictions, found_columns, image_order, truth_columns
from detkit.evaluate.matching import best_per_image, outsized

LOWEST_IOU = 0.05  # pairs that overlap less are not kept

_EXACT_FIT = 1 - 1e-10  # what counts as an IoU of 1

Conf = float | Sequence[float]  # the working threshold: one for all, or one for each class in label order


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """All detections (N), all truths (M) and the pairs (P) of one photo that overlap by `LOWEST_IOU` or more.

    Detections, at most `max_det` per photo and class, stand class by class, best score first; `images` in both tables
    is a photo's 1-based rank by image id. Pairs stand as COCO's matching takes them: the best detection first, and for
    each the truths that count before crowds, then the larger overlap, then the later in the file.

    Args:
        dataset: the labelled photos.
        positions: int64 [I], the position in the data set of the photo of each rank.
        found, truths: the boxes.
        counts: bool [M], truths that are to be found: crowds are not.
        detection, truth: int64 [P], rows of `found` and `truths`.
        overlap: float64 [P]; IoU, and on a crowd the share of the detection that lies on it.
    """

    dataset: Dataset
    positions: NDArray[np.int64]
    found: Columns
    truths: Columns
    counts: NDArray[np.bool_]
    detection: NDArray[np.int64]
    truth: NDArray[np.int64]
    overlap: NDArray[np.float64]

    @property
    def class_count(self) -> int:
        """K."""
        return len(self.dataset.class_names)

    @property
    def same_class(self) -> NDArray[np.bool_]:
        """Pairs of one class, [P]."""
        return self.found.categories[self.detection] == self.truths.categories[self.truth]

    def truth_counts(self) -> NDArray[np.int64]:
        """Truths that count, by class, [K]."""
        return np.bincount(self.truths.categories[self.counts] - 1, minlength=self.class_count)

    def shown(self, conf: Conf) -> NDArray[np.bool_]:
        """Detections at or above the working threshold, [N]."""
        return self.found.scores >= thresholds(conf, self.class_count)[self.found.categories - 1]


def thresholds(conf: Conf, classes: int) -> NDArray[np.float64]:
    """The working threshold of each class, [K].

    Raises:
        UsageError: not one number, nor one for each class; or outside 0-1.
    """
    values = np.asarray(conf, np.float64)
    if values.shape not in ((), (classes,)) or not ((values >= 0) & (values <= 1)).all():
        expected = f"one number in 0-1, or {classes} of them, one for each class"
        raise UsageError("no such confidence", found=conf, expected=expected)
    return np.broadcast_to(values, classes)


def find_overlaps(dataset: Dataset, predictions: Sequence[Detections], max_det: int = MAX_DET) -> Overlaps:
    """Look once at what overlaps; every question about mistakes is asked of the result.

    Args:
        dataset: the labelled photos.
        predictions: one per sample, in the data set's order.
        max_det: best boxes kept per photo and class.
    Raises:
        DataError: predictions that do not fit the data set.
    """
    check_predictions(dataset, predictions)
    truths = truth_columns(dataset)
    found = best_per_image(found_columns(dataset, predictions), max_det)
    counts = ~(truths.crowd | outsized(truths.areas_px))
    detection, truth, overlap = pairs(found, truths)
    rank = np.empty(len(found.scores), np.int64)
    rank[np.argsort(-found.scores, kind="stable")] = np.arange(len(rank))
    order = np.lexsort((-truth, -overlap, ~counts[truth], rank[detection]))
    return Overlaps(
        dataset, image_order(dataset), found, truths, counts, detection[order], truth[order], overlap[order]
    )


def pairs(a: Columns, b: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows of `a` and of `b` that lie on one photo and overlap, and by how much: three columns of P.

    On a crowd of `b` the overlap is the share of the box of `a` that lies on it, as COCO has it.
    """
    by_image = np.argsort(a.images, kind="stable"), np.argsort(b.images, kind="stable")
    images = np.arange(1, 2 + max(a.images.max(initial=0), b.images.max(initial=0)))
    starts = [np.searchsorted(c.images[rows], images) for c, rows in zip((a, b), by_image, strict=True)]
    corners = [xywh_to_xyxy(c.boxes_xywh) for c in (a, b)]
    none = np.zeros(0, np.int64)
    parts = [(none, none, np.zeros(0))]
    for i in np.flatnonzero((np.diff(starts[0]) > 0) & (np.diff(starts[1]) > 0)):
        rows, others = (order[start[i] : start[i + 1]] for order, start in zip(by_image, starts, strict=True))
        matrix = iou_matrix(corners[0][rows], corners[1][others])
        if b.crowd[others].any():
            matrix = np.where(b.crowd[others], ioa_matrix(corners[0][rows], corners[1][others]), matrix)
        at, of = np.nonzero(matrix >= LOWEST_IOU)
        parts.append((rows[at], others[of], matrix[at, of]))
    first, second, overlap = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, overlap


def owners(
    table: Overlaps, iou: float, *, any_class: bool = False, shown: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """The truth each detection is matched to, [N], or -1: the best detection first, each truth once, crowds at will.

    Args:
        iou: overlap from which a detection finds a truth.
        any_class: match boxes of different classes too; a crowd still takes its own class only.
        shown: bool [N], the detections that take part; None is all.
    """
    fits = table.overlap >= min(iou, _EXACT_FIT)
    fits &= table.same_class | (table.counts[table.truth] & any_class)
    if shown is not None:
        fits &= shown[table.detection]
    owner = [-1] * len(table.found.scores)
    free, counts = [True] * len(table.counts), table.counts.tolist()
    for d, t in zip(table.detection[fits].tolist(), table.truth[fits].tolist(), strict=True):
        if owner[d] < 0 and free[t]:
            owner[d] = t
            free[t] = not counts[t]
    return np.array(owner, np.int64)


def told_apart(table: Overlaps, owner: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections are right and which count neither way (on a crowd), [N] each; the others are wrong."""
    counted = np.append(table.counts, False)[owner]
    return counted, (owner >= 0) & ~counted | (owner < 0) & outsized(table.found.areas_px)


def closest(table: Overlaps, pairs_kept: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For each detection the largest overlap among some pairs and with which truth, [N] each; without any, 0 and -1."""
    most, whose = np.zeros(len(table.found.scores)), np.full(len(table.found.scores), -1)
    rows = np.flatnonzero(pairs_kept)
    rows = rows[np.argsort(table.overlap[rows], kind="stable")]  # the largest is written last
    most[table.detection[rows]], whose[table.detection[rows]] = table.overlap[rows], table.truth[rows]
    return most, whose
