"""How sure a figure is: intervals of AP, AP50, AP75 and of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.evaluate.coco import MAX_DET, UNDEFINED
from detkit.evaluate.matching import match
from detkit.evaluate.resampling import FIGURES, Figures, effective_images, known, limits, resample

DRAWS = 500
LEVEL = 0.95


class Interval(NamedTuple):
    """Where a figure may lie on other photos of the same kind; both -1 where that is undefined."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassIntervals:
    """One class: the intervals of its AP and AP50."""

    name: str
    category_id: int
    AP: Interval
    AP50: Interval


@dataclass(frozen=True, slots=True)
class Intervals:
    """Intervals at `level` from `draws` resampled sets of `images` photos.

    An interval is (-1, -1) where the figure is undefined or its truths lie on fewer than two photos: one photo says
    nothing about how others would differ. A class counts in the draws that hold a truth of it.

    `resolution` is how far apart the AP of two models must be for two independent tests on sets of this size to tell
    them apart: z * sqrt(2) * standard error, with z = 1.96 at level 0.95; `resolution_AP50` alike; -1 is undefined.
    Two models on the same photos mostly fail on the same ones, so `detkit.evaluate.compare` tells smaller gaps apart.
    """

    AP: Interval
    AP50: Interval
    AP75: Interval
    per_class: tuple[ClassIntervals, ...]
    resolution: float
    resolution_AP50: float
    images: int
    draws: int
    seed: int
    level: float

    def figures(self) -> dict[str, list[float]]:
        """AP, AP50 and AP75 by name as [low, high]."""
        return {name: list(getattr(self, name)) for name in FIGURES}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; an interval is [low, high]."""
        return _plain(asdict(self))


def bootstrap(
    dataset: Dataset,
    predictions: Sequence[Detections],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    max_det: int = MAX_DET,
) -> Intervals:
    """Intervals of AP, AP50, AP75 and of each class, from sets of as many photos drawn with replacement.

    Args:
        dataset: the labelled photos.
        predictions: one per sample, in the data set's order.
        draws: resampled sets.
        seed: the same seed gives the same intervals.
        level: 0.95 for 95 % intervals.
        max_det: best boxes kept per image and class.
    Raises:
        DataError: predictions that do not fit the data set.
        UsageError: draws below 2, a negative seed, or a level not between 0 and 1.
    """
    _check_settings(draws, seed, level)
    matching = match(dataset, predictions, max_det)
    [figures] = resample([matching], draws, seed)
    rows = _intervals(figures, effective_images(matching), level)
    classes = zip(dataset.class_names, dataset.category_ids, rows[0][1:], rows[1][1:], strict=True)
    return Intervals(
        AP=rows[0][0],
        AP50=rows[1][0],
        AP75=rows[2][0],
        per_class=tuple(ClassIntervals(*values) for values in classes),
        resolution=_resolution(figures[0, 0, 1:], level),
        resolution_AP50=_resolution(figures[1, 0, 1:], level),
        images=len(dataset),
        draws=draws,
        seed=seed,
        level=level,
    )


def _check_settings(draws: int, seed: int, level: float) -> None:
    if draws < 2 or seed < 0 or not 0 < level < 1:
        expected = "draws >= 2, seed >= 0, level between 0 and 1"
        raise UsageError("no such interval", found=f"draws {draws}, seed {seed}, level {level}", expected=expected)


def _intervals(figures: Figures, images: NDArray[np.float64], level: float) -> list[list[Interval]]:
    """Intervals of figures in 0-1, [3][1 + K]: on the scale arcsin(sqrt(AP)), which keeps them there."""
    angles = np.arcsin(np.sqrt(np.clip(figures, 0, 1)))
    ends = np.sin(np.clip(limits(figures, angles, images, level), 0, np.pi / 2)) ** 2
    return [[_interval(pair) for pair in rows] for rows in ends]


def _interval(ends: NDArray[np.float64]) -> Interval:
    low, high = np.nan_to_num(ends, nan=UNDEFINED).tolist()
    return Interval(low, high)


def _resolution(drawn: NDArray[np.float64], level: float) -> float:
    """What two independent tests can tell apart at `level`, from one figure's draws [B]."""
    seen = known(drawn)
    z = NormalDist().inv_cdf((1 + level) / 2)
    return float(z * 2**0.5 * seen.std(ddof=1)) if len(seen) > 1 else UNDEFINED


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
