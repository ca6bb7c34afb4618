"""COCO's keypoint figures: AP and AR over object keypoint similarity (OKS), from hotcoco or from pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit.data.dataset import Dataset
from detkit.data.keypoints import numbered_names
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.evaluate.coco_engines import Curves, Engine, Grid, annotation_rows, id_rows, run_hotcoco, run_pycocotools
from detkit.evaluate.columns import (
    Results,
    check_predictions,
    found_columns,
    found_rows,
    image_order,
    truth_columns,
)

KEYPOINT_FIGURES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
MAX_DET = 20  # COCO's limit of keypoint results per image and class
UNDEFINED = -1.0  # COCO's figure where there is nothing to find

_SPREADS = {  # COCO's standard deviations of annotators, relative to the square root of the object's area
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
_PAIRED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_PERSON = ("nose", *(name for name in _PAIRED for _ in ("left", "right")))  # COCO's 17 points
_IOUS = np.linspace(0.5, 0.95, 10).tolist()
_AREAS_PX = [[0.0, 1e10], [32.0**2, 96.0**2], [96.0**2, 1e10]]  # all, medium, large: COCO labels no points on small
_ALL, _MEDIUM, _LARGE = range(3)
_IOU_50, _IOU_75 = 0, 5


@dataclass(frozen=True, slots=True)
class KeypointClass:
    """One class: AP, AP50 and AR of its points, its truths with labelled points and its detections."""

    name: str
    category_id: int
    AP: float
    AP50: float
    AR: float
    truths: int
    detections: int


@dataclass(frozen=True, slots=True)
class KeypointResult:
    """COCO's 10 keypoint figures in 0-1 under COCO's names; -1 where there is nothing to find.

    `boxes` are all labelled boxes; those of them that count neither way are crowds and boxes without a labelled
    point, `ignored`. `sigmas` are the points' spreads the similarity was taken with.
    """

    AP: float
    AP50: float
    AP75: float
    APm: float
    APl: float
    AR: float
    AR50: float
    AR75: float
    ARm: float
    ARl: float
    per_class: tuple[KeypointClass, ...]
    sigmas: tuple[float, ...]
    images: int
    boxes: int
    ignored: int
    detections: int
    max_det: int
    engine: Engine

    def figures(self) -> dict[str, float]:
        """The 10 figures by name, in COCO's order."""
        return {name: getattr(self, name) for name in KEYPOINT_FIGURES}

    def rules(self) -> list[str]:
        """By which rules the figures were counted, a sentence each."""
        return [
            "Points match by object keypoint similarity: the mean over labelled points of exp(-d^2 / (2 s^2 k^2)), d "
            "being the distance, s^2 the object's area and k twice the sigma; AP is the mean over 0.50 to 0.95.",
            f"The best {self.max_det} detections of each class on each photo count.",
            f"A detection on a crowd or on a box without a labelled point ({self.ignored} boxes) counts neither way.",
            "Medium is an area of 32x32 to 96x96 px, large above, by the label file's area where it gives one.",
            f"Computed by {self.engine}.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self) | {"rules": self.rules()}


def evaluate_keypoints(
    dataset: Dataset,
    predictions: Sequence[Detections],
    sigmas: ArrayLike | None = None,
    engine: Engine = "hotcoco",
    max_det: int = MAX_DET,
) -> KeypointResult:
    """Score predicted points against labelled ones by COCO's rules.

    Args:
        dataset: boxes with labelled points; areas are the label file's where it gives them, else the boxes'.
        predictions: one per sample, in the data set's order, with `points_xyv`; visibility is not looked at.
        sigmas: spread of each point [P] or one number for all; unasked, those of the labels, else COCO's: see
            `known_sigmas`.
        engine: "hotcoco" or "pycocotools" (the reference); the figures are equal.
        max_det: best detections kept per image and class.
    Raises:
        DataError: no labelled points, or predictions that do not fit.
        UsageError: unknown engine, max_det below 1, sigmas missing, not P or not above 0.
    """
    if engine not in get_args(Engine) or max_det < 1:
        expected = f"engine {' or '.join(get_args(Engine))}, max_det >= 1"
        raise UsageError("cannot evaluate", found=f"engine {engine}, max_det {max_det}", expected=expected)
    check_predictions(dataset, predictions)
    wanted, found_points = _truth_points(dataset), _found_points(dataset, predictions)
    spreads = _checked_sigmas(known_sigmas(dataset) if sigmas is None else sigmas, wanted.shape[1])
    truths, found = truth_columns(dataset), found_columns(dataset, predictions)
    ignored = truths.crowd | ~(wanted[..., 2] > 0).any(axis=1)
    rows = [_with_points(annotation_rows(c), p) for c, p in ((truths, wanted), (found, found_points))]
    images, classes = len(dataset), len(dataset.class_names)
    run = _with_hotcoco if engine == "hotcoco" else run_pycocotools
    curves = run(rows[0], rows[1], images, classes, Grid(_IOUS, _AREAS_PX, [max_det]), spreads)
    counts = [np.bincount(c, minlength=classes + 1)[1:] for c in (truths.categories[~ignored], found.categories)]
    return KeypointResult(
        **_figures(curves),
        per_class=_per_class(dataset, curves, *counts),
        sigmas=tuple(spreads.tolist()),
        images=images,
        boxes=len(truths.images),
        ignored=int(ignored.sum()),
        detections=len(found.images),
        max_det=max_det,
        engine=engine,
    )


def known_sigmas(dataset: Dataset) -> NDArray[np.float64]:
    """The spreads [P] of a data set's points: those its labels give, else COCO's.

    Raises:
        UsageError: neither knows them.
    """
    return np.array(dataset.point_sigmas) if dataset.point_sigmas else coco_sigmas(dataset.point_names)


def coco_sigmas(point_names: Sequence[str]) -> NDArray[np.float64]:
    """COCO's spreads for points of a person, told by their names, [P]; 17 nameless points are COCO's 17 in their order.

    Raises:
        UsageError: a point COCO has no spread for.
    """
    if tuple(point_names) == numbered_names(len(_PERSON)):
        return np.array([_SPREADS[name] for name in _PERSON])
    known = [_SPREADS.get(name.lower().removeprefix("left").removeprefix("right").strip("_- ")) for name in point_names]
    if None in known:
        strange = ", ".join(name for name, spread in zip(point_names, known, strict=True) if spread is None)
        expected = "a sigma for each point, or one for all (COCO's for a body are 0.025 for eyes to 0.107 for hips)"
        raise UsageError("sigmas are needed: COCO has none for these points", found=strange, expected=expected)
    return np.array(known, np.float64)


def _checked_sigmas(sigmas: ArrayLike, count: int) -> NDArray[np.float64]:
    values = np.asarray(sigmas, np.float64).reshape(-1)
    values = np.repeat(values, count) if len(values) == 1 else values
    if len(values) != count or not (np.isfinite(values) & (values > 0)).all():
        raise UsageError("the sigmas do not fit", found=values.tolist(), expected=f"{count} numbers above 0, or one")
    return values


def _truth_points(dataset: Dataset) -> NDArray[np.float64]:
    """Labelled points of all boxes by image id, [M, P, 3]; a box without any has zeros."""
    count = len(dataset.point_names)
    if not count:
        found = f"{dataset.box_count} boxes without points"
        raise DataError("no points are labelled", file=dataset.source, found=found, expected="keypoints")
    parts = [np.zeros((0, count, 3))]
    for i in image_order(dataset):
        truth = dataset.samples[i].truth
        parts.append(np.zeros((len(truth), count, 3)) if truth.points_xyv is None else truth.points_xyv)
    return np.concatenate(parts, dtype=np.float64)


def _found_points(dataset: Dataset, predictions: Sequence[Detections]) -> NDArray[np.float64]:
    """Predicted points of all detections by image id, [N, P, 3]; those of `Results` exactly as their file has them."""
    count, parts = len(dataset.point_names), [np.zeros((0, len(dataset.point_names), 3))]
    for i in image_order(dataset):
        points, expected = predictions[i].points_xyv, (len(predictions[i]), count, 3)
        if points is None and len(predictions[i]):
            raise DataError(f"{dataset.samples[i].name}: predictions have no points", expected=f"{count} points a box")
        if points is not None and (points.shape != expected or not np.isfinite(points).all()):
            found = points.shape if points.shape != expected else "a number not finite"
            raise DataError(f"{dataset.samples[i].name}: predicted points do not fit", found=found, expected=expected)
        parts += [] if points is None else [points]
    if isinstance(predictions, Results) and predictions.points_xyv is not None:
        return predictions.points_xyv[found_rows(dataset, predictions)[0]]
    return np.concatenate(parts, dtype=np.float64)


def _with_points(rows: list[dict[str, Any]], points_xyv: NDArray[np.float64]) -> list[dict[str, Any]]:
    flat = points_xyv.reshape(len(rows), 3 * points_xyv.shape[1]).tolist()
    labelled = (points_xyv[..., 2] > 0).sum(axis=1).tolist()
    each = zip(rows, flat, labelled, strict=True)
    return [{**row, "keypoints": own, "num_keypoints": count} for row, own, count in each]


def _with_hotcoco(
    truths: list[dict[str, Any]],
    found: list[dict[str, Any]],
    images: int,
    classes: int,
    grid: Grid,
    sigmas: NDArray[np.float64],
) -> Curves:
    import hotcoco

    tables = [
        hotcoco.COCO({"images": id_rows(images), "categories": id_rows(classes), "annotations": rows})
        for rows in (truths, found)
    ]
    run = hotcoco.COCOeval(tables[0], tables[1], "keypoints")
    run.params.kpt_oks_sigmas = sigmas.tolist()
    return run_hotcoco(run, grid)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED


def _figures(curves: Curves) -> dict[str, Any]:
    """The 10 figures by name."""
    values = []
    for table in (curves.precision[..., -1], curves.recall[..., -1]):  # [T, R, K, A] and [T, K, A]
        parts = (table[..., _ALL], table[_IOU_50, ..., _ALL], table[_IOU_75, ..., _ALL])
        values += [_mean(part) for part in (*parts, table[..., _MEDIUM], table[..., _LARGE])]
    return dict(zip(KEYPOINT_FIGURES, values, strict=True))


def _per_class(
    dataset: Dataset, curves: Curves, truths: NDArray[np.int64], found: NDArray[np.int64]
) -> tuple[KeypointClass, ...]:
    precision, recall = curves.precision[..., _ALL, -1], curves.recall[..., _ALL, -1]  # [T, R, K] and [T, K]
    return tuple(
        KeypointClass(
            name=name,
            category_id=dataset.category_ids[k],
            AP=_mean(precision[..., k]),
            AP50=_mean(precision[_IOU_50, :, k]),
            AR=_mean(recall[:, k]),
            truths=int(truths[k]),
            detections=int(found[k]),
        )
        for k, name in enumerate(dataset.class_names)
    )
