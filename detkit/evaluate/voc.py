"""PASCAL VOC's average precision, of 11 points (2007) and of all points (2010 on), for comparison with papers.

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, and its development kit. It is not COCO's:
a detection may claim only the object it overlaps most, there is no limit of boxes per image, and one IoU threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import iou_matrix
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.evaluate.columns import Columns, check_predictions, found_columns, truth_columns

VOC_IOU = 0.5
UNDEFINED = -1.0  # a figure where there is nothing to find

_HIT, _WRONG, _IGNORED = 1, 0, -1


@dataclass(frozen=True, slots=True)
class VocClass:
    """One class: all-point AP, 11-point AP, its truths (difficult ones not counted) and its detections."""

    name: str
    category_id: int
    AP: float
    AP11: float
    truths: int
    detections: int


@dataclass(frozen=True, slots=True)
class VocResult:
    """VOC's mean AP over classes, in 0-1: `mAP` of all points, `mAP11` of 11; -1 where nothing is to be found.

    `difficult` are labelled boxes that count neither way: VOC's difficult, COCO's crowds.
    """

    mAP: float
    mAP11: float
    iou: float
    per_class: tuple[VocClass, ...]
    images: int
    boxes: int
    difficult: int
    detections: int

    def figures(self) -> dict[str, float]:
        """The two figures by name."""
        return {"mAP": self.mAP, "mAP11": self.mAP11}

    def rules(self) -> list[str]:
        """By which rules the figures were counted, a sentence each."""
        return [
            f"PASCAL VOC: a detection is right if its IoU with the box of its class it overlaps most is {self.iou:g} "
            "or more and no better-scored one has claimed that box; a second one is wrong.",
            "mAP is the area under the precision-recall curve (VOC 2010 on), mAP11 the mean precision at recall 0, "
            "0.1, ... 1 (VOC 2007); precision is the best at that recall or beyond.",
            f"A detection on a difficult (or crowd) box ({self.difficult} labelled) counts neither way, and so does "
            "the box.",
            "All detections count, however many there are; a class without a labelled box takes no part in the mean.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self) | {"rules": self.rules()}


def evaluate_voc(dataset: Dataset, predictions: Sequence[Detections], iou: float = VOC_IOU) -> VocResult:
    """Score detections against labels by the rules of PASCAL VOC.

    Args:
        dataset: the labelled photos; `truth.crowd` marks what VOC calls difficult.
        predictions: one per sample, in the data set's order. Equal scores keep that order, by image id.
        iou: a detection is right from this overlap on.
    Raises:
        DataError: predictions that do not fit the data set.
        UsageError: an IoU that is not above 0 and up to 1.
    """
    if not 0 < iou <= 1:
        raise UsageError("no such IoU threshold", found=iou, expected="above 0 and up to 1")
    check_predictions(dataset, predictions)
    truths, found = truth_columns(dataset), found_columns(dataset, predictions)
    best_first = np.argsort(-found.scores, kind="stable")
    verdicts = _verdicts(found, truths, best_first, iou)[best_first]
    categories, rows = found.categories[best_first], []
    for k, name in enumerate(dataset.class_names):
        own = verdicts[categories == k + 1]
        count = int(((truths.categories == k + 1) & ~truths.crowd).sum())
        judged = own[own != _IGNORED] == _HIT
        ids = name, dataset.category_ids[k]
        rows.append(VocClass(*ids, all_point_ap(judged, count), eleven_point_ap(judged, count), count, len(own)))
    return VocResult(
        mAP=_mean([row.AP for row in rows]),
        mAP11=_mean([row.AP11 for row in rows]),
        iou=iou,
        per_class=tuple(rows),
        images=len(dataset),
        boxes=len(truths.images),
        difficult=int(truths.crowd.sum()),
        detections=len(found.images),
    )


def all_point_ap(hits: NDArray[np.bool_], truths: int) -> float:
    """Area under the curve of the best precision at each recall or beyond; -1 without truths.

    Args:
        hits: bool [N], whether each detection is right, best score first.
        truths: how many there are to find.
    """
    if not truths:
        return UNDEFINED
    return float(_best_precision(hits)[hits].sum()) / truths  # each hit moves recall on by 1 / truths


def eleven_point_ap(hits: NDArray[np.bool_], truths: int) -> float:
    """Mean of the best precision at recall 0, 0.1, ... 1 or beyond; arguments as `all_point_ap`."""
    if not truths:
        return UNDEFINED
    best, right = _best_precision(hits), np.cumsum(hits)
    reached = np.searchsorted(10 * right, np.arange(11) * truths)  # whole numbers: recall 3 / 10 is 0.3
    return float(np.append(best, 0.0)[reached].mean())


def _best_precision(hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


def _verdicts(found: Columns, truths: Columns, best_first: NDArray[np.int64], iou: float) -> NDArray[np.int8]:
    """Whether each detection is right, wrong or neither, [N]."""
    claimed, overlap = _claims(found, truths)
    enough = overlap >= iou
    difficult = enough & np.append(truths.crowd, False)[claimed]
    contenders = best_first[(enough & ~difficult)[best_first]]
    _, first = np.unique(claimed[contenders], return_index=True)  # of each truth's, the best-scored
    verdicts = np.full(len(claimed), _WRONG, np.int8)
    verdicts[difficult] = _IGNORED
    verdicts[contenders[first]] = _HIT
    return verdicts


def _claims(found: Columns, truths: Columns) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The truth of its image and class each detection overlaps most (-1: none), and by how much; [N] each."""
    claimed, overlap = np.full(len(found.images), -1), np.zeros(len(found.images))
    corners = [np.hstack([c.boxes_xywh[:, :2], c.boxes_xywh[:, :2] + c.boxes_xywh[:, 2:]]) for c in (found, truths)]
    images = np.arange(1, 2 + max(found.images.max(initial=0), truths.images.max(initial=0)))
    found_starts, truth_starts = np.searchsorted(found.images, images), np.searchsorted(truths.images, images)
    for i in np.flatnonzero((np.diff(found_starts) > 0) & (np.diff(truth_starts) > 0)):
        rows = slice(found_starts[i], found_starts[i + 1])
        these = slice(truth_starts[i], truth_starts[i + 1])
        same = found.categories[rows, None] == truths.categories[None, these]
        own = np.where(same, iou_matrix(corners[0][rows], corners[1][these]), -1.0)
        claimed[rows], overlap[rows] = own.argmax(axis=1) + truth_starts[i], own.max(axis=1)
    return np.where(overlap > 0, claimed, -1), overlap


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if value > UNDEFINED]
    return float(np.mean(defined)) if defined else UNDEFINED
