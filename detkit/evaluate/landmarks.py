"""How far predicted points lie from labelled ones: normalised mean error, failure rates and the cumulative curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit.boxes import xyxy_to_xywh
from detkit.data.dataset import Dataset
from detkit.data.keypoints import eye_pair, labelled_boxes
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.weights import ModelCard

Floats = NDArray[np.float64]
EYES, BOX = "distance between the eyes", "square root of the box's area"
UNDEFINED = -1.0  # a figure where there is nothing to measure
CURVE_STEPS = 40  # the cumulative curve has a value at each of 0, 0.005, ..., 0.2
CURVE_END = 0.2
WORST = 12  # boxes named

_LIMITS = (0.08, 0.10)
_DRAWS, _LEVEL = 1000, 0.95


@dataclass(frozen=True, slots=True)
class PointResult:
    """One point: its name, its mean error over the normaliser, and how often it is labelled."""

    name: str
    error: float
    count: int


@dataclass(frozen=True, slots=True)
class BoxError:
    """One labelled box: its photo's name, its row there, and the mean error of its points over its normaliser."""

    name: str
    row: int
    error: float


@dataclass(frozen=True, slots=True)
class LandmarkResult:
    """Errors of points, each divided by its box's normaliser.

    NME: mean over boxes of the mean over a box's labelled points; `interval` holds it with 95 % (bootstrap over boxes).
    FR08, FR10: share of boxes whose mean error is above 0.08, 0.10.
    AUC: area under the cumulative curve up to 0.10, as a share of it. baseline_NME: of the mean shape of the training
    data laid into each box, and `ratio` how many times better the model is; both -1 where that shape is unknown.
    curve: (error, share of boxes with at most that error), the cumulative error distribution; baseline_curve: that of
    the mean shape, () where it is unknown. worst: the boxes with the largest errors, the worst first.
    left_out: labelled boxes that have no normaliser.
    """

    NME: float
    FR08: float
    FR10: float
    AUC: float
    baseline_NME: float
    ratio: float
    interval: tuple[float, float]
    normaliser: str
    per_point: tuple[PointResult, ...]
    curve: tuple[tuple[float, float], ...]
    baseline_curve: tuple[tuple[float, float], ...]
    worst: tuple[BoxError, ...]
    boxes: int
    points: int
    left_out: int

    def figures(self) -> dict[str, float]:
        """The figures by name."""
        return {name: getattr(self, name) for name in ("NME", "FR08", "FR10", "AUC", "baseline_NME", "ratio")}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self)


def evaluate_landmarks(
    dataset: Dataset, predictions: Sequence[Detections], mean_shape: ArrayLike | None = None
) -> LandmarkResult:
    """Measure the points predicted for the labelled boxes of a data set.

    The normaliser is the distance between the eyes where points of these names exist, else the square root of the
    box's area. Points with visibility 0 are not labelled and not counted, crowd boxes neither.

    Args:
        dataset: boxes with labelled points.
        predictions: for each photo its labelled boxes, in their order, with predicted points.
        mean_shape: [P, 2] relative to the box (see `mean_shape`), for the baseline; NaN where it is unknown.
    Raises:
        DataError: no labelled point, or predictions of another shape than the labels.
    """
    rows = labelled_boxes(dataset)
    found_xyv = _checked(dataset, predictions)
    truths = [dataset.samples[photo].truth for photo, _ in rows]
    boxes_xyxy = np.array([t.boxes_xyxy[r] for t, (_, r) in zip(truths, rows, strict=True)], np.float64)  # [M, 4]
    wanted = np.array([t.points_xyv[r] for t, (_, r) in zip(truths, rows, strict=True)], np.float64)  # type: ignore[index]
    found = np.array([found_xyv[photo][row] for photo, row in rows], np.float64)  # [M, P, 3]
    sizes_px, normaliser = _normalisers(dataset, boxes_xyxy, wanted)
    usable = sizes_px > 0
    boxes_xyxy, wanted, found, sizes_px = boxes_xyxy[usable], wanted[usable], found[usable], sizes_px[usable]
    errors = _errors(found[..., :2], wanted, sizes_px)  # [M, P], NaN where nothing is labelled
    means = _row_means(errors)
    shaped = np.zeros(0)  # errors of the mean shape
    if mean_shape is not None:
        shaped = _row_means(_errors(lay_shape(mean_shape, boxes_xyxy), wanted, sizes_px))
        shaped = shaped[np.isfinite(shaped)]  # a box may have such points alone as were never labelled in training
    nme, baseline = (float(each.mean()) if len(each) else UNDEFINED for each in (means, shaped))
    return LandmarkResult(
        NME=nme,
        **{f"FR{limit * 100:02.0f}": float((means > limit).mean()) if len(means) else UNDEFINED for limit in _LIMITS},
        AUC=float(np.clip(1 - means / _LIMITS[-1], 0, None).mean()) if len(means) else UNDEFINED,
        baseline_NME=baseline,
        ratio=baseline / nme if baseline >= 0 and nme > 0 else UNDEFINED,
        interval=_interval(means),
        normaliser=normaliser,
        per_point=_per_point(dataset.point_names, errors),
        curve=_curve(means),
        baseline_curve=_curve(shaped) if len(shaped) else (),
        worst=_worst(dataset, [row for row, fits in zip(rows, usable, strict=True) if fits], means),
        boxes=len(means),
        points=int(np.isfinite(errors).sum()),
        left_out=int((~usable).sum()),
    )


def mean_shape(dataset: Dataset) -> Floats:
    """The mean place of each point in its box, [P, 2]: (0, 0) is the box's top-left corner, (1, 1) its bottom right.

    A point that is never labelled is NaN.
    """
    total, count = np.zeros((len(dataset.point_names), 2)), np.zeros(len(dataset.point_names))
    for photo, row in labelled_boxes(dataset):
        truth = dataset.samples[photo].truth
        assert truth.points_xyv is not None
        box, points = truth.boxes_xyxy[row].astype(np.float64), truth.points_xyv[row].astype(np.float64)
        labelled = points[:, 2] > 0
        total[labelled] += (points[labelled, :2] - box[:2]) / (box[2:] - box[:2])
        count += labelled
    return np.divide(total, count[:, None], out=np.full_like(total, np.nan), where=count[:, None] > 0)


def shape_of_card(card: ModelCard) -> Floats | None:
    """The mean shape [P, 2] of the data a model was trained on, as its card has it; None where it has none."""
    try:
        shape = np.array(card.training.get("mean_shape"), np.float64)
    except (TypeError, ValueError):
        return None
    return shape if shape.shape == (len(card.point_names), 2) else None


def points_results(dataset: Dataset, predictions: Sequence[Detections]) -> list[dict[str, Any]]:
    """Points as COCO's results format: image_id, category_id, keypoints (x, y, visibility, pixels), score, bbox."""
    rows: list[dict[str, Any]] = []
    for sample, points in zip(dataset, _checked(dataset, predictions), strict=True):
        boxes_xywh = xyxy_to_xywh(sample.truth.boxes_xyxy.astype(np.float64))
        for label, box_xywh, own in zip(sample.truth.labels.tolist(), boxes_xywh, points, strict=True):
            row = {"image_id": sample.image_id, "category_id": dataset.category_ids[label], "bbox": box_xywh.tolist()}
            rows.append({**row, "keypoints": own.ravel().tolist(), "score": float(own[:, 2].mean())})
    return rows


def lay_shape(shape: ArrayLike, boxes_xyxy: Floats) -> Floats:
    """A shape [P, 2] relative to a box, laid into each of M boxes: [M, P, 2] in pixels."""
    corner, size = boxes_xyxy[:, None, :2], (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2])[:, None]
    return np.asarray(corner + np.asarray(shape, np.float64) * size)


def _checked(dataset: Dataset, predictions: Sequence[Detections]) -> list[NDArray[np.float32]]:
    """The predicted points of each photo [N, P, 3]."""
    if len(predictions) != len(dataset):
        raise DataError("points do not fit the data set", found=len(predictions), expected=f"{len(dataset)} photos")
    every = []
    for sample, prediction in zip(dataset, predictions, strict=True):
        points, expected = prediction.points_xyv, (len(sample.truth), len(dataset.point_names), 3)
        if points is None or points.shape != expected or not np.isfinite(points).all():
            found = "none" if points is None else points.shape if points.shape != expected else "a number not finite"
            raise DataError(f"{sample.name}: predicted points do not fit", found=found, expected=expected)
        every.append(points)
    return every


def _normalisers(dataset: Dataset, boxes_xyxy: Floats, wanted: Floats) -> tuple[Floats, str]:
    """What each box's errors are divided by [M], 0 where it has none, and what that is."""
    eyes = eye_pair(dataset.point_names)
    if eyes is None:
        return np.sqrt((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)), BOX
    left, right = wanted[:, eyes[0]], wanted[:, eyes[1]]
    both = (left[:, 2] > 0) & (right[:, 2] > 0)
    return np.where(both, np.hypot(*(left - right)[:, :2].T), 0.0), EYES


def _errors(found_xy: Floats, wanted: Floats, sizes_px: Floats) -> Floats:
    """Distance of each point over its box's normaliser [M, P]; NaN where none is labelled or found."""
    distance = np.hypot(*np.moveaxis(found_xy - wanted[..., :2], -1, 0))
    return np.where(wanted[..., 2] > 0, distance / sizes_px[:, None], np.nan)


def _per_point(names: Sequence[str], errors: Floats) -> tuple[PointResult, ...]:
    counts = np.isfinite(errors).sum(axis=0).tolist()
    sums = np.nansum(errors, axis=0).tolist()
    each = zip(names, sums, counts, strict=True)
    return tuple(PointResult(name, total / count if count else UNDEFINED, count) for name, total, count in each)


def _row_means(errors: Floats) -> Floats:
    """The mean error of each box's points [M]; NaN for a box without any."""
    count = np.isfinite(errors).sum(axis=1)
    return np.divide(np.nansum(errors, axis=1), count, out=np.full(len(errors), np.nan), where=count > 0)


def _worst(dataset: Dataset, rows: Sequence[tuple[int, int]], means: Floats) -> tuple[BoxError, ...]:
    places = [(dataset.samples[photo].name, row) for photo, row in rows]
    order = np.argsort(-means, kind="stable")[:WORST]
    return tuple(BoxError(places[at][0], places[at][1], float(means[at])) for at in order.tolist())


def _curve(means: Floats) -> tuple[tuple[float, float], ...]:
    at = np.linspace(0, CURVE_END, CURVE_STEPS + 1)
    shares = (means[None] <= at[:, None]).mean(axis=1) if len(means) else np.full(len(at), UNDEFINED)
    return tuple(zip(at.round(6).tolist(), shares.tolist(), strict=True))


def _interval(means: Floats) -> tuple[float, float]:
    """Where the mean lies with 95 % on other boxes of the same kind: percentiles of resampled means."""
    if len(means) < 2:
        return UNDEFINED, UNDEFINED
    drawn = np.random.default_rng(0).integers(len(means), size=(_DRAWS, len(means)))
    low, high = np.quantile(means[drawn].mean(axis=1), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)
