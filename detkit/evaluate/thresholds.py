"""Confidence thresholds chosen on labelled photos, class by class, and how sure the choice is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.evaluate.intervals import DRAWS, LEVEL, Interval
from detkit.evaluate.outcomes import LEFT_OUT, ON_CROWD, Outcome, crowds, outcomes
from detkit.thresholds import ClassThreshold, Thresholds

IOU = 0.5  # overlap from which a box counts as right

_CELLS = 4_000_000  # image counts gathered at a time
_SLACK = 1e-12  # a precision of 19/20 meets 0.95
_UNKNOWN = Interval(-1.0, -1.0)


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """The threshold of one class.

    Args:
        name: the class.
        conf: boxes scored at least this are kept; None where there is nothing to choose by: no truth, or nothing right.
        interval: where the choice would have fallen on other photos of the same kind.
        precision, recall, f1: of the boxes kept, on the photos it was chosen on (so they flatter a little); else -1.
        precision_interval, recall_interval: of precision and recall at this threshold; (-1, -1) where undefined.
        truths: labelled objects, crowds not counted.
        reached: False where no threshold has the precision asked for, and this is the one that comes nearest.
    """

    name: str
    conf: float | None
    interval: Interval
    precision: float
    recall: float
    f1: float
    precision_interval: Interval
    recall_interval: Interval
    truths: int
    reached: bool


def choose_thresholds(
    dataset: Dataset,
    predictions: Sequence[Detections],
    *,
    precision: float | None = None,
    iou: float = IOU,
    draws: int = DRAWS,
    seed: int = 0,
    model: str | None = None,
) -> Thresholds:
    """The thresholds of `study_thresholds`, as a model card and `detkit detect` take them.

    Args:
        model: the model's name, to be noted with them; the other arguments are those of `study_thresholds`.
    """
    choices = study_thresholds(dataset, predictions, precision=precision, iou=iou, draws=draws, seed=seed)
    rule = "F1" if precision is None else f"precision {precision:g}"
    return to_thresholds(choices, rule, iou, model, dataset)


def to_thresholds(
    choices: Sequence[ClassChoice], rule: str, iou: float, model: str | None, dataset: Dataset
) -> Thresholds:
    """Choices in the form that is stored: what is undefined is None."""

    def known(value: float) -> float | None:
        return None if value < 0 else value

    rows = {}
    for c in choices:
        ends = (None, None) if c.conf is None else (known(c.interval.low), known(c.interval.high))
        rows[c.name] = ClassThreshold(c.conf, *ends, known(c.precision), known(c.recall), known(c.f1), c.truths)
    return Thresholds(rows, rule, iou, model, dataset.name or None)


def study_thresholds(
    dataset: Dataset,
    predictions: Sequence[Detections],
    *,
    precision: float | None = None,
    iou: float = IOU,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[ClassChoice]:
    """For each class the confidence with the best F1, or the lowest whose precision is at least `precision`.

    A threshold lies in the middle between two scores, so that a box whose score moves in the last digit stays on its
    side. Of several with one F1 the highest is taken: it keeps fewer boxes. Intervals come from sets of as many photos
    drawn with replacement; the high end of `interval` is the cautious choice of a precision: 39 of 40 such sets reach
    it with that confidence or a lower one.

    Args:
        dataset: the labelled photos; boxes on crowds count neither way.
        predictions: one per sample, in the data set's order, down to a low confidence.
        precision: the precision to reach, 0-1; None chooses by F1.
        iou: overlap from which a box is right.
        draws, seed: of the resampled sets.
    Raises:
        DataError: predictions that do not fit the data set. UsageError: a setting out of its range.
    """
    good = draws >= 2 and seed >= 0 and 0 < iou <= 1 and (precision is None or 0 < precision <= 1)
    if not good:
        found = f"precision {precision}, iou {iou}, draws {draws}, seed {seed}"
        expected = "precision and iou above 0 and at most 1, draws >= 2, seed >= 0"
        raise UsageError("no such thresholds", found=found, expected=expected)
    rng = np.random.default_rng(seed)
    images = len(dataset)
    drawn = [np.bincount(rng.integers(0, max(images, 1), images), minlength=images) for _ in range(draws)]
    counts = np.stack([np.ones(images, np.int64), *drawn], axis=1).astype(np.int16)  # [I, 1 + B]
    results = outcomes(dataset, predictions, iou)
    return [
        _choice(name, _class_rows(dataset, predictions, results, k), counts, precision)
        for k, name in enumerate(dataset.class_names)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _ClassRows:
    """One class: its boxes best score first, those on crowds left out, and the photos its truths lie on."""

    scores: NDArray[np.float64]  # [n]
    hit: NDArray[np.bool_]  # [n]
    images: NDArray[np.int64]  # [n]
    truth_images: NDArray[np.int64]  # [m]


def _class_rows(
    dataset: Dataset, predictions: Sequence[Detections], found: Sequence[Outcome], label: int
) -> _ClassRows:
    parts = [(np.zeros(0), np.zeros(0, np.bool_), np.zeros(0, np.int64))]
    truths = []
    for number, (sample, boxes, outcome) in enumerate(zip(dataset, predictions, found, strict=True)):
        assert boxes.scores is not None
        rows = (boxes.labels == label) & (outcome.owner != ON_CROWD) & (outcome.owner != LEFT_OUT)
        parts.append((boxes.scores[rows].astype(np.float64), outcome.owner[rows] >= 0, np.full(rows.sum(), number)))
        truths += [number] * int(((sample.truth.labels == label) & ~crowds(sample.truth)).sum())
    scores, hit, images = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")
    return _ClassRows(scores[order], hit[order], images[order], np.array(truths, np.int64))


def _choice(name: str, rows: _ClassRows, counts: NDArray[np.int16], precision: float | None) -> ClassChoice:
    truths = len(rows.truth_images)
    if truths == 0 or not rows.hit.any():
        none = (-1.0, 0.0, 0.0) if truths else (-1.0, -1.0, -1.0)  # precision, recall, F1 of keeping nothing
        return ClassChoice(name, None, _UNKNOWN, *none, _UNKNOWN, _UNKNOWN, truths, False)
    cuts = np.append(np.flatnonzero(np.diff(rows.scores)), len(rows.scores) - 1)  # boxes up to here are kept
    step = max(8, _CELLS // len(rows.scores))
    blocks = [_cut(rows, cuts, counts[:, at : at + step], precision) for at in range(0, counts.shape[1], step)]
    chosen = np.concatenate(blocks)  # [1 + B], a place in cuts, or -1
    last = int(cuts[chosen[0]])
    kept = rows.images[: last + 1]
    right = counts[kept[rows.hit[: last + 1]]].sum(axis=0, dtype=np.int64)
    judged, there = counts[kept].sum(axis=0, dtype=np.int64), counts[rows.truth_images].sum(axis=0, dtype=np.int64)
    p, r = right[0] / judged[0], right[0] / truths
    confs = _confidences(rows.scores, cuts)
    return ClassChoice(
        name=name,
        conf=float(confs[chosen[0]]),
        interval=_percentiles(confs[chosen[1:]][chosen[1:] >= 0]),
        precision=float(p),
        recall=float(r),
        f1=float(2 * p * r / (p + r)) if p + r else 0.0,
        precision_interval=_share_interval(right, judged),
        recall_interval=_share_interval(right, there),
        truths=truths,
        reached=precision is None or bool(p >= precision - _SLACK),
    )


def _cut(
    rows: _ClassRows, cuts: NDArray[np.int64], counts: NDArray[np.int16], precision: float | None
) -> NDArray[np.int64]:
    """Where each drawn set would be cut: a place in `cuts`, or -1 where it holds nothing to choose by; [B]."""
    drawn = counts[rows.images]  # [n, B]
    right = np.cumsum(drawn * rows.hit[:, None], axis=0, dtype=np.int32)[cuts]  # [c, B]
    judged = np.cumsum(drawn, axis=0, dtype=np.int32)[cuts]
    truths = counts[rows.truth_images].sum(axis=0, dtype=np.int64)
    if precision is None:
        best = np.argmax(2 * right / np.maximum(judged + truths, 1), axis=0)  # the first: the highest confidence
    else:
        reached = right / np.maximum(judged, 1)
        lowest = len(cuts) - 1 - np.argmax((reached >= precision - _SLACK)[::-1], axis=0)
        nearest = len(cuts) - 1 - np.argmax(reached[::-1], axis=0)
        best = np.where(reached.max(axis=0) >= precision - _SLACK, lowest, nearest)
    return np.where((right[-1] > 0) & (truths > 0), best, -1)


def _confidences(scores: NDArray[np.float64], cuts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The threshold of each cut: midway to the next lower score; the lowest score itself after the last."""
    return (scores[cuts] + scores[np.minimum(cuts + 1, len(scores) - 1)]) / 2


def _share_interval(right: NDArray[np.int64], of: NDArray[np.int64]) -> Interval:
    """Wilson's interval (1927) of right / of, [1 + B] each, the set itself first.

    Boxes of one photo are alike, so they count as that many independent ones as would vary like the draws (Korn and
    Graubard, 1998). Near 1 the plain percentiles would be far too sure: 18 right of 18 are 1 in every draw.
    """
    share, count, z = right[0] / of[0], float(of[0]), NormalDist().inv_cdf((1 + LEVEL) / 2)
    variance = float(np.var((right / np.maximum(of, 1))[1:][of[1:] > 0])) if (of[1:] > 0).any() else 0.0
    if variance > 0:
        count = min(count, share * (1 - share) / variance)
    count = max(count, 1.0)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(float(max(0, centre - reach)), float(min(1, centre + reach)))


def _percentiles(values: NDArray[np.float64]) -> Interval:
    if not len(values):
        return _UNKNOWN
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
