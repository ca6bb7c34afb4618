"""Precision against recall, and precision, recall and F1 against the confidence asked for, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.evaluate.coco import UNDEFINED
from detkit.evaluate.matching import RECALL_POINTS
from detkit.evaluate.overlaps import Overlaps, owners, told_apart

CURVE_IOUS = (0.5, 0.75)
CONF_GRID = np.linspace(0, 1, 101)  # the confidences at which curves are given

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PrCurve:
    """Precision against recall at one IoU, of one class or the mean of those with truths.

    Args:
        name: the class, or "mean".
        truths: objects to find.
        AP: COCO's, the mean of `precision_at`; -1 without truths.
        precision_at: float64 [101], the best precision at this recall or beyond, at recall 0, 0.01, ..., 1; -1 without
            truths.
        recall, precision, scores: float64 [n], after each detection that counts, best first: the raw curve. Empty for
            the mean.
    """

    name: str
    truths: int
    AP: float
    precision_at: FloatArray
    recall: FloatArray
    precision: FloatArray
    scores: FloatArray

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, without the raw curve, which has as many points as there are detections."""
        values = self.precision_at.tolist()
        return {"name": self.name, "truths": self.truths, "AP": self.AP, "precision_at": values}


@dataclass(frozen=True, slots=True)
class BestF1:
    """The confidence with the best F1 and what it gives; all -1 where no detection is right."""

    conf: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True, eq=False)
class ConfCurve:
    """What is gained and lost by asking for more confidence, at IoU 0.5, at `CONF_GRID`: 0, 0.01, ..., 1.

    Args:
        name: the class, or "mean": the mean over classes with truths, one confidence for all.
        truths: objects to find.
        precision: float64 [101], -1 where no box is left.
        recall, f1: float64 [101], -1 without truths.
        best: the best F1 at any confidence; for the mean, at any of the grid.
    """

    name: str
    truths: int
    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    best: BestF1

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        columns = {name: getattr(self, name).tolist() for name in ("precision", "recall", "f1")}
        return {"name": self.name, "truths": self.truths, **columns, "best": asdict(self.best)}


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """All curves: `pr[iou]` and `by_conf` hold one for each class in label order, `mean_pr` and `mean` their means."""

    pr: dict[float, tuple[PrCurve, ...]]
    mean_pr: dict[float, PrCurve]
    by_conf: tuple[ConfCurve, ...]
    mean: ConfCurve

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, raw curves left out; IoUs are keys like "0.5"."""
        pr = {
            f"{iou:g}": {"classes": [curve.to_dict() for curve in each], "mean": self.mean_pr[iou].to_dict()}
            for iou, each in self.pr.items()
        }
        by_conf = {"classes": [curve.to_dict() for curve in self.by_conf], "mean": self.mean.to_dict()}
        grids = {"recall": RECALL_POINTS.tolist(), "conf": CONF_GRID.tolist()}
        return {**grids, "precision_recall": pr, "by_confidence": by_conf}


def curves(table: Overlaps) -> Curves:
    """Precision-recall curves at IoU 0.5 and 0.75 by COCO's rules, and curves over the confidence at IoU 0.5."""
    pr: dict[float, tuple[PrCurve, ...]] = {}
    for iou in CURVE_IOUS:
        hit, ignored = told_apart(table, owners(table, iou))
        rows = [_class_rows(table, k, hit, ~ignored) for k in range(table.class_count)]
        counts = table.truth_counts().tolist()
        named = zip(table.dataset.class_names, counts, rows, strict=True)
        pr[iou] = tuple(_pr_curve(name, truths, *of_class) for name, truths, of_class in named)
    by_conf = tuple(_conf_curve(curve) for curve in pr[CURVE_IOUS[0]])
    return Curves(pr, {iou: _mean_pr(each) for iou, each in pr.items()}, by_conf, _mean_conf(by_conf))


def _class_rows(
    table: Overlaps, label: int, hit: NDArray[np.bool_], judged: NDArray[np.bool_]
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Scores of a class's detections that count, best first, and which are right."""
    rows = (table.found.categories == label + 1) & judged
    return table.found.scores[rows], hit[rows]


def _pr_curve(name: str, truths: int, scores: FloatArray, hit: NDArray[np.bool_]) -> PrCurve:
    right = np.cumsum(hit)
    precision = right / np.arange(1, len(hit) + 1)
    if not truths:
        undefined = np.full(len(RECALL_POINTS), UNDEFINED)
        return PrCurve(name, 0, UNDEFINED, undefined, np.full(len(hit), UNDEFINED), precision, scores)
    recall = right / truths
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)  # at this recall or beyond
    precision_at = best[np.searchsorted(recall, RECALL_POINTS, side="left")]
    return PrCurve(name, truths, float(precision_at.mean()), precision_at, recall, precision, scores)


def _conf_curve(curve: PrCurve) -> ConfCurve:
    """From the raw curve: the boxes at or above a confidence are its beginning."""
    right = np.append(0, np.rint(curve.precision * np.arange(1, len(curve.precision) + 1)))
    kept = np.searchsorted(-curve.scores, -CONF_GRID, side="right")
    ends = np.append(np.flatnonzero(np.diff(curve.scores)), len(curve.scores) - 1) + 1  # boxes of one score go together
    f1 = _f1(right[kept], kept, curve.truths)
    best = BestF1(UNDEFINED, UNDEFINED, UNDEFINED, UNDEFINED)
    if curve.truths and right[-1]:
        at = int(ends[np.argmax(_f1(right[ends], ends, curve.truths))])
        values = _f1(right[[at]], np.array([at]), curve.truths)[0], right[at] / at, right[at] / curve.truths
        best = BestF1(float(curve.scores[at - 1]), *map(float, values))
    recall = right[kept] / curve.truths if curve.truths else np.full(len(kept), UNDEFINED)
    precision = np.where(kept > 0, right[kept] / np.maximum(kept, 1), UNDEFINED)
    return ConfCurve(curve.name, curve.truths, precision, recall, f1, best)


def _f1(right: FloatArray, kept: NDArray[np.int64], truths: int) -> FloatArray:
    return 2 * right / (kept + truths) if truths else np.full(len(kept), UNDEFINED)


def _mean_pr(each: Sequence[PrCurve]) -> PrCurve:
    rows = [curve.precision_at for curve in each if curve.truths]
    precision_at = np.mean(rows, axis=0) if rows else np.full(len(RECALL_POINTS), UNDEFINED)
    none = np.zeros(0)
    return PrCurve("mean", sum(c.truths for c in each), float(precision_at.mean()), precision_at, none, none, none)


def _mean_conf(each: Sequence[ConfCurve]) -> ConfCurve:
    """The mean over classes with truths; of precision, over those of them that have boxes left."""
    counted = [curve for curve in each if curve.truths]
    undefined = np.full(len(CONF_GRID), UNDEFINED)
    if not counted:
        return ConfCurve("mean", 0, undefined, undefined, undefined, BestF1(*[UNDEFINED] * 4))
    recall, f1 = (np.mean([getattr(curve, name) for curve in counted], axis=0) for name in ("recall", "f1"))
    rows = np.stack([curve.precision for curve in counted])
    known = rows > UNDEFINED
    mean = np.where(known, rows, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    precision = np.where(known.any(axis=0), mean, UNDEFINED)
    at = int(np.argmax(f1))
    values = (CONF_GRID[at], f1[at], precision[at], recall[at]) if f1[at] > 0 else [UNDEFINED] * 4
    truths = sum(curve.truths for curve in counted)
    return ConfCurve("mean", truths, precision, recall, f1, BestF1(*map(float, values)))
