"""Whether a score of 0.7 means right seven times in ten."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detkit.errors import UsageError
from detkit.evaluate.coco import UNDEFINED
from detkit.evaluate.overlaps import Overlaps, owners, told_apart

BINS = 10
LOWEST_SCORE = 0.05  # below lie about nine boxes in ten, hardly ever right and never shown: they would drown the others
RIGHT_IOU = 0.5

Binning = Literal["width", "mass"]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Boxes scored from `low` to `high` (the last bin has its end): how sure they are on average, how many are right.

    `score` and `right` (the share that found an object) are -1 where the bin is empty.
    """

    low: float
    high: float
    count: int
    score: float
    right: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """One class, or "all".

    Args:
        name: the class.
        ece: expected calibration error (Guo et al., ICML 2017): the mean over boxes of the gap between score and share
            of right boxes in their bin; -1 without boxes.
        worst: the largest gap of a bin; -1 without boxes.
        bias: mean score less share of right boxes: above 0 is too sure, below 0 too modest; 0 without boxes.
        count: boxes.
        bins: from low scores to high.
    """

    name: str
    ece: float
    worst: float
    bias: float
    count: int
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Reliability of all boxes together and of each class, in label order.

    Args:
        total: all classes.
        per_class: each.
        binning: "width": bins of equal width from 0 to 1; "mass": of equally many boxes.
        lowest_score: boxes below take no part.
        iou: overlap from which a box is right.
    """

    total: Reliability
    per_class: tuple[Reliability, ...]
    binning: Binning
    lowest_score: float
    iou: float

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self)


def calibration(
    table: Overlaps, *, bins: int = BINS, binning: Binning = "width", lowest_score: float = LOWEST_SCORE
) -> Calibration:
    """How far scores are from the share of boxes that are right at IoU 0.5; boxes on crowds take no part.

    Args:
        table: from `find_overlaps`.
        bins: how many.
        binning: see `Calibration`. Equal scores share a bin.
        lowest_score: leave out boxes below.
    Raises:
        UsageError: a setting out of its range.
    """
    if bins < 1 or binning not in get_args(Binning) or not 0 <= lowest_score < 1:
        found = f"bins {bins}, binning {binning}, lowest_score {lowest_score}"
        expected = "bins >= 1, binning width or mass, lowest_score in 0-1"
        raise UsageError("no such calibration", found=found, expected=expected)
    hit, ignored = told_apart(table, owners(table, RIGHT_IOU))
    scores = np.clip(table.found.scores, 0, 1)
    kept = ~ignored & (scores >= lowest_score)

    def of(name: str, rows: NDArray[np.bool_]) -> Reliability:
        return _reliability(name, scores[rows], hit[rows], _edges(scores[rows], bins, binning))

    names = enumerate(table.dataset.class_names)
    each = tuple(of(name, kept & (table.found.categories == k + 1)) for k, name in names)
    return Calibration(of("all", kept), each, binning, lowest_score, RIGHT_IOU)


def _edges(scores: NDArray[np.float64], bins: int, binning: Binning) -> NDArray[np.float64]:
    """Ends of the bins, ascending; fewer bins of equal mass than asked for where many scores are equal."""
    if binning == "width" or not scores.size:
        return np.linspace(0, 1, bins + 1)
    inner = np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1], method="higher")
    return np.unique([0.0, *inner, 1.0])


def _reliability(
    name: str, scores: NDArray[np.float64], hit: NDArray[np.bool_], edges: NDArray[np.float64]
) -> Reliability:
    place = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, len(edges) - 2)
    count, total, right = (np.bincount(place, w, len(edges) - 1) for w in (None, scores, hit.astype(np.float64)))
    full = np.maximum(count, 1)
    score, share = np.where(count > 0, total / full, UNDEFINED), np.where(count > 0, right / full, UNDEFINED)
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), count.tolist(), score.tolist(), share.tolist(), strict=True)
    told = tuple(ReliabilityBin(*row) for row in rows)
    if not scores.size:
        return Reliability(name, UNDEFINED, UNDEFINED, 0.0, 0, told)
    gap = np.abs(score - share)
    bias = float(scores.mean() - hit.mean())
    return Reliability(name, float((gap * count).sum() / len(scores)), float(gap.max()), bias, len(scores), told)
