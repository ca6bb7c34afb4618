"""How well a localizer answers for photos of one object or none: is there one, which, and where; and a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import iou_pairs
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.weights import ModelCard

Floats = NDArray[np.float64]
UNDEFINED = -1.0  # a figure where there is nothing to measure
LOC_IOU = 0.5

_DRAWS, _LEVEL = 1000, 0.95
_SURE = 0.5  # the guesser's score is 0 or 1


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted on each photo, as means; -1 where no photo of the kind is there.

    quality: over all photos; of one with an object the IoU of its box, if it was found and its class is right, else 0;
    of an empty one 1, if nothing was found, else 0.
    pc_accuracy: share of all photos of which it is right that there is an object, or none. misses: share of the photos
    with an object in which none was found. false_alarms: share of the empty ones in which one was.
    class_accuracy, mean_IoU, LOC, centre_error: over the photos with an object, at any score. Right class; IoU of the
    box, whatever its class; right class and IoU of at least 0.5 (the localization accuracy of ImageNet's challenge,
    Russakovsky 2015); distance of the centres over the photo's diagonal.
    """

    quality: float
    pc_accuracy: float
    misses: float
    false_alarms: float
    class_accuracy: float
    mean_IoU: float
    LOC: float
    centre_error: float

    def to_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """The photos of one class: how many, and the figures of `Figures` on them."""

    name: str
    photos: int
    class_accuracy: float
    mean_IoU: float
    LOC: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a guesser knows of the training data: mean box in shares of the photo, commonest class, most have an object.

    It gives every photo the same answer.
    """

    box_rel_xyxy: tuple[float, float, float, float]
    class_name: str
    says_object: bool


@dataclass(frozen=True, slots=True)
class LocalizationResult:
    """The figures of a model, where each lies with 95 % on other photos of the kind (bootstrap over photos), and more.

    conf: score from which on an object counts as found. baseline: the figures of the mean box, by the same code; None
    where it is unknown. ratio: the model's mean_IoU over that of the baseline, or -1.
    photos, objects, left_out: photos measured, those of them with an object, and photos with more than one.
    """

    figures: Figures
    intervals: dict[str, tuple[float, float]]
    baseline: Figures | None
    ratio: float
    per_class: tuple[ClassFigures, ...]
    conf: float
    photos: int
    objects: int
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; the model's figures stand at the top."""
        rest = {name: value for name, value in asdict(self).items() if name != "figures"}
        return self.figures.to_dict() | rest | {"intervals": {k: list(v) for k, v in self.intervals.items()}}


def one_or_none(dataset: Dataset) -> Dataset:
    """The photos with one object or none; a crowd box stands for more than one.

    Raises:
        DataError: no photo has exactly one object.
    """
    kept = tuple(sample for sample in dataset if len(sample.truth) <= 1 and not _has_crowd(sample.truth))
    if not any(len(sample.truth) for sample in kept):
        raise DataError(
            "no photo has exactly one object, so there is nothing to localize",
            file=dataset.source,
            found=f"photos with more: {len(dataset) - len(kept)}, with none: {len(kept)}",
            expected="one object a photo, or none",
        )
    return replace(dataset, samples=kept)


def mean_box(dataset: Dataset) -> Baseline:
    """The guesser that has seen a data set of photos with one object or none."""
    own = [sample.truth for sample in dataset if len(sample.truth)]
    boxes = np.array([t.boxes_xyxy[0] / np.tile(t.size_hw[::-1], 2) for t in own], np.float64)
    counts = np.bincount([int(t.labels[0]) for t in own], minlength=len(dataset.class_names))
    x1, y1, x2, y2 = (round(value, 5) for value in boxes.mean(axis=0).tolist())
    return Baseline((x1, y1, x2, y2), dataset.class_names[int(counts.argmax())], 2 * len(own) >= len(dataset))


def baseline_of_card(card: ModelCard) -> Baseline | None:
    """The guesser of the data a model was trained on, as its card has it; None where it has none."""
    listed = card.training.get("baseline")
    try:
        box = np.array(listed["box_rel_xyxy"], np.float64)  # type: ignore[index]
        known = Baseline(tuple(box.tolist()), listed["class_name"], bool(listed["says_object"]))  # type: ignore[index]
    except (TypeError, ValueError, KeyError):
        return None
    fits = box.shape == (4,) and np.isfinite(box).all() and known.class_name in card.class_names
    return known if fits else None


def evaluate_localization(
    dataset: Dataset, predictions: Sequence[Detections], conf: float, baseline: Baseline | None = None
) -> LocalizationResult:
    """Measure the one answer a model gives for each photo: its best box, however low its score.

    Args:
        dataset: labelled photos; those with more than one object are left out.
        predictions: one per photo of `one_or_none(dataset)`; the first row is the answer, an empty one finds nothing.
        conf: score from which on an object counts as found.
        baseline: a guesser to compare with; see `mean_box`.
    Raises:
        DataError: no photo with exactly one object, or predictions that do not fit.
    """
    usable = one_or_none(dataset)
    if len(predictions) != len(usable):
        raise DataError("boxes do not fit the data set", found=len(predictions), expected=f"{len(usable)} photos")
    counted = _counted(usable, predictions, conf)
    figures = _figures(counted)
    guessed = None if baseline is None else _figures(_counted(usable, _guesses(usable, baseline), _SURE))
    labels = np.array([s.truth.labels[0] if len(s.truth) else -1 for s in usable], np.int64)
    return LocalizationResult(
        figures=figures,
        intervals=_intervals(counted),
        baseline=guessed,
        ratio=figures.mean_IoU / guessed.mean_IoU if guessed is not None and guessed.mean_IoU > 0 else UNDEFINED,
        per_class=tuple(_of_class(name, counted[:, labels == k]) for k, name in enumerate(usable.class_names)),
        conf=conf,
        photos=len(usable),
        objects=int((labels >= 0).sum()),
        left_out=len(dataset) - len(usable),
    )


def _has_crowd(truth: Detections) -> bool:
    return truth.crowd is not None and bool(truth.crowd.any())


def _counted(dataset: Dataset, answers: Sequence[Detections], conf: float) -> Floats:
    """What each of `Figures` counts on each photo, [figures, photos]; NaN where it does not count it."""
    rows = [_count(sample.truth, answer, conf) for sample, answer in zip(dataset, answers, strict=True)]
    return np.array(rows, np.float64).T


def _count(truth: Detections, answer: Detections, conf: float) -> tuple[float, ...]:
    """One photo: the values behind `Figures`, in their order."""
    assert len(answer) == 0 or answer.scores is not None, "an answer has a score"
    found = len(answer) > 0 and float(answer.scores[0]) >= conf  # type: ignore[index]
    nothing = float("nan")
    if len(truth) == 0:
        return float(not found), float(not found), nothing, float(found), nothing, nothing, nothing, nothing
    if len(answer) == 0:
        return 0.0, 0.0, 1.0, nothing, 0.0, 0.0, 0.0, 1.0
    right = bool(answer.labels[0] == truth.labels[0])
    ours, theirs = answer.boxes_xyxy[:1].astype(np.float64), truth.boxes_xyxy[:1].astype(np.float64)
    iou = float(iou_pairs(ours, theirs)[0])
    shift = (ours[0, :2] + ours[0, 2:] - theirs[0, :2] - theirs[0, 2:]) / 2
    off = float(np.hypot(*shift) / np.hypot(*truth.size_hw))
    loc = float(right and iou >= LOC_IOU)
    return iou * (right and found), float(found), float(not found), nothing, float(right), iou, loc, off


def _figures(counted: Floats) -> Figures:
    return Figures(*_means(counted))


def _means(counted: Floats) -> list[float]:
    """The mean of each row over the photos it counts."""
    rows = (row[np.isfinite(row)] for row in counted)
    return [float(row.mean()) if len(row) else UNDEFINED for row in rows]


def _intervals(counted: Floats) -> dict[str, tuple[float, float]]:
    """Percentiles of the figures on as many photos drawn with replacement."""
    names = list(Figures.__slots__)
    if counted.shape[1] < 2:
        return dict.fromkeys(names, (UNDEFINED, UNDEFINED))
    drawn = np.random.default_rng(0).integers(counted.shape[1], size=(_DRAWS, counted.shape[1]))
    found = {}
    for name, row in zip(names, counted, strict=True):
        values = row[drawn]  # [draws, photos]
        known = np.isfinite(values)
        totals, counts = np.where(known, values, 0).sum(axis=1), known.sum(axis=1)
        means = totals[counts > 0] / counts[counts > 0]
        few = np.isfinite(row).sum() < 2
        ends = (UNDEFINED, UNDEFINED) if few else np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]).tolist()
        found[name] = (float(ends[0]), float(ends[1]))
    return found


def _of_class(name: str, counted: Floats) -> ClassFigures:
    figures = _figures(counted)
    return ClassFigures(name, counted.shape[1], figures.class_accuracy, figures.mean_IoU, figures.LOC)


def _guesses(dataset: Dataset, baseline: Baseline) -> list[Detections]:
    """The same answer for every photo, in its own pixels."""
    label, score = dataset.class_names.index(baseline.class_name), float(baseline.says_object)
    sizes = [sample.truth.size_hw for sample in dataset]
    box = np.array(baseline.box_rel_xyxy)
    return [Detections(hw, (box * np.tile(hw[::-1], 2))[None], [label], [score]) for hw in sizes]  # type: ignore[arg-type]
