"""Two models on the same photos: how far apart their figures are, how sure that is, and what it says in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.evaluate.coco import MAX_DET, UNDEFINED
from detkit.evaluate.flips import Flips, find_flips
from detkit.evaluate.intervals import DRAWS, LEVEL, Interval
from detkit.evaluate.matching import match
from detkit.evaluate.resampling import FIGURES, Figures, effective_images, known, limits, resample

POWER = 0.8  # how often a gap is to be seen that is said to be seen
CLASS = "class:"  # figures of a class are called class:person


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both models, in 0-1, all measured on the same draws; -1 where it is undefined.

    Args:
        figure: "AP", "AP50", "AP75", or "class:NAME" for the AP of a class ("class50:NAME" for its AP50).
        a, b: the figure of each model.
        delta: b - a.
        interval: of delta. b_better: the share of draws in which B is better, ties by halves.
        error: the standard error of delta.
        detectable: the true gap that would leave 0 out of the interval in 80 % of such comparisons.
    """

    figure: str
    a: float
    b: float
    delta: float
    interval: Interval
    b_better: float
    error: float
    detectable: float

    @property
    def defined(self) -> bool:
        """Is there something to judge by?"""
        return self.error >= 0


@dataclass(frozen=True, slots=True)
class ClassChange:
    """One class: its AP and AP50, and its labelled objects (crowds not counted)."""

    name: str
    category_id: int
    truths: int
    AP: Change
    AP50: Change


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """Model B against model A on the same photos. Intervals of classes are not widened for being many."""

    AP: Change
    AP50: Change
    AP75: Change
    per_class: tuple[ClassChange, ...]
    flips: Flips
    images: int
    draws: int
    seed: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; an interval is [low, high]."""
        figures = {name: _change_dict(getattr(self, name)) for name in FIGURES}
        classes = [
            {"name": c.name, "category_id": c.category_id, "truths": c.truths}
            | {"AP": _change_dict(c.AP), "AP50": _change_dict(c.AP50)}
            for c in self.per_class
        ]
        settings = {"images": self.images, "draws": self.draws, "seed": self.seed, "level": self.level}
        return {**figures, "per_class": classes, "flips": self.flips.to_dict(), **settings}


class PairedFigures:
    """The figures of two models on a set and on its draws: what `compare` and the gate look at."""

    def __init__(
        self,
        dataset: Dataset,
        predictions_a: Sequence[Detections],
        predictions_b: Sequence[Detections],
        *,
        draws: int = DRAWS,
        seed: int = 0,
        max_det: int = MAX_DET,
    ) -> None:
        """Match and draw; arguments and errors are those of `compare`."""
        if draws < 2 or seed < 0:
            raise UsageError(
                "no such comparison", found=f"draws {draws}, seed {seed}", expected="draws >= 2, seed >= 0"
            )
        matchings = [match(dataset, predictions, max_det) for predictions in (predictions_a, predictions_b)]
        self.a, self.b = resample(matchings, draws, seed)
        self.class_names, self.images, self.draws, self.seed = dataset.class_names, len(dataset), draws, seed
        self.truths = np.diff(matchings[0].truth_starts)  # [K]
        self._changed = _changed_images(dataset, predictions_a, predictions_b)
        self._effective = np.minimum(effective_images(matchings[0]), 2 * self._changed[1:] + 1)
        self.names = [
            [*FIGURES[row : row + 1], *(f"{_prefix(FIGURES[row])}{name}" for name in dataset.class_names)]
            for row in range(len(FIGURES))
        ]

    def changes(self, level: float = LEVEL) -> list[list[Change]]:
        """B less A: rows AP, AP50, AP75, columns all classes and each; intervals at `level`.

        With equal models all of k photos that differ speak for one side by chance in 2^-k of cases. Where that is more
        than the interval may err on that side (up to 5 photos at level 0.95) it holds 0, whatever the draws say.
        """
        if not 0 < level < 1:
            raise UsageError("no such interval", found=f"level {level}", expected="a number between 0 and 1")
        gaps: Figures = self.b - self.a  # [3, 1 + K, 1 + B]
        ends = limits(gaps, gaps, self._effective, level)
        chance = 0.5**self._changed > (1 - level) / 2  # [1 + K]
        ends[:, chance] = np.stack([np.minimum(ends[:, chance, 0], 0), np.maximum(ends[:, chance, 1], 0)], axis=-1)
        rows = range(len(FIGURES))
        return [[self._change(row, k, gaps[row, k], ends[row, k]) for k in range(gaps.shape[1])] for row in rows]

    def _change(self, row: int, k: int, gaps: NDArray[np.float64], ends: NDArray[np.float64]) -> Change:
        a, b = (float(np.nan_to_num(figures[row, k, 0], nan=UNDEFINED)) for figures in (self.a, self.b))
        drawn, figure = known(gaps[1:]), self.names[row][k]
        if np.isnan(ends).any():
            return Change(figure, a, b, UNDEFINED, Interval(UNDEFINED, UNDEFINED), UNDEFINED, UNDEFINED, UNDEFINED)
        low, high = np.clip(ends, -1, 1).tolist()
        detectable = (ends[1] - ends[0]) / 2 + NormalDist().inv_cdf(POWER) * drawn.std(ddof=1)
        better = float(np.mean(drawn > 0) + np.mean(drawn >= 0)) / 2
        error = float(drawn.std(ddof=1))
        return Change(figure, a, b, float(gaps[0]), Interval(low, high), better, error, float(detectable))


def compare(
    dataset: Dataset,
    predictions_a: Sequence[Detections],
    predictions_b: Sequence[Detections],
    *,
    conf: float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    max_det: int = MAX_DET,
) -> ModelComparison:
    """How much better model B is than model A on the same photos, by a paired bootstrap over images.

    What is hard for both models drops out of the difference, so a gap can be seen that is far smaller than the
    interval of either figure.

    Args:
        dataset: the labelled photos.
        predictions_a, predictions_b: one per sample each, in the data set's order.
        conf: threshold of both models for the flipped photos; None: see `find_flips`.
        draws, seed: of the resampled sets.
        level: 0.95 for 95 % intervals.
        max_det: best boxes kept per image and class.
    Raises:
        DataError: predictions that do not fit the data set. UsageError: a setting out of its range.
    """
    paired = PairedFigures(dataset, predictions_a, predictions_b, draws=draws, seed=seed, max_det=max_det)
    rows = paired.changes(level)
    classes = zip(dataset.class_names, dataset.category_ids, paired.truths.tolist(), rows[0][1:], rows[1][1:])
    return ModelComparison(
        AP=rows[0][0],
        AP50=rows[1][0],
        AP75=rows[2][0],
        per_class=tuple(ClassChange(*values) for values in classes),
        flips=find_flips(dataset, predictions_a, predictions_b, conf=conf),
        images=len(dataset),
        draws=draws,
        seed=seed,
        level=level,
    )


def verdict(change: Change, images: int, level: float = LEVEL, *, a: str = "A", b: str = "B") -> str:
    """One sentence in plain words on one figure: who is better, or that nobody can tell."""
    if not change.defined:
        return f"{change.figure} cannot be compared: its objects lie on fewer than two photos."
    low, high = change.interval
    between = f"{100 * level:g} % interval {points(low)} to {points(high)}"
    if low == high == 0:
        return f"{a} and {b} are equal in {change.figure}: nothing that counts differs on these {images:,} photos."
    if low > 0 or high < 0:
        word = "better" if low > 0 else "worse"
        return f"{b} is {word} than {a} by {abs(100 * change.delta):.2f} points of {change.figure} ({between})."
    return (
        f"{a} and {b} cannot be told apart in {change.figure} on these {images:,} photos: the difference is "
        f"{points(change.delta)} points ({between}); one of about {100 * change.detectable:.1f} would show."
    )


def points(value: float) -> str:
    """A difference in AP points (hundredths) with its sign."""
    return f"{100 * value:+.2f}"


def _prefix(figure: str) -> str:
    return CLASS.replace(":", figure.removeprefix("AP") + ":")


def _change_dict(change: Change) -> dict[str, Any]:
    return asdict(change) | {"interval": list(change.interval)}


def _changed_images(dataset: Dataset, a: Sequence[Detections], b: Sequence[Detections]) -> NDArray[np.int64]:
    """On how many photos the two models' boxes are not the same, of any class and of each, [1 + K].

    A gap that k photos make is as uncertain as those are few, however many others agree: the variance that is estimated
    from k like events has itself a relative variance of 1 / k, which is that of 2 k degrees of freedom.
    """
    changed = np.zeros(1 + len(dataset.class_names), np.int64)
    for mine, other in zip(a, b, strict=True):
        labels = [k for k in np.union1d(mine.labels, other.labels) if not _alike(mine, other, k)]
        changed[0] += bool(labels)
        changed[1 + np.array(labels, np.int64)] += 1
    return changed


def _alike(mine: Detections, other: Detections, label: int) -> bool:
    """Are their boxes and scores of one class the same, in the same order?"""
    assert mine.scores is not None  # `match` has seen it
    assert other.scores is not None
    ours, theirs = mine.labels == label, other.labels == label
    same_boxes = np.array_equal(mine.boxes_xyxy[ours], other.boxes_xyxy[theirs])
    return same_boxes and np.array_equal(mine.scores[ours], other.scores[theirs])
