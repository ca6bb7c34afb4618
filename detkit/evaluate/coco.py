"""COCO's detection figures, from hotcoco or from pycocotools: the same input to both, the same output from both."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import DataError, UsageError

Engine = Literal["hotcoco", "pycocotools"]
FIGURE_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CONF_FLOOR = 0.001  # boxes to ask a model for when it is measured: low, so that the whole curve is seen
MAX_DET = 100  # COCO's limit of boxes per image
UNDEFINED = -1.0  # COCO's figure where there is nothing to find

_IOU_50, _IOU_75 = 0, 5  # positions among COCO's ten thresholds 0.50:0.05:0.95
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # COCO's size ranges by area: up to 32 px squared, up to 96, above


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class: AP at IoU 0.50:0.95 and at 0.50, its truths (crowds not counted) and its detections."""

    name: str
    category_id: int
    AP: float
    AP50: float
    truths: int
    detections: int


@dataclass(frozen=True, slots=True)
class CocoResult:
    """COCO's 12 figures in 0-1 under COCO's names, and what they were counted on.

    A figure is -1 where it is undefined (no truth of that size or class), exactly as pycocotools has it; such
    classes take no part in the averages. AR1, AR10, AR100 allow 1, 10, `max_det` boxes per image and class.
    `boxes` are all labelled boxes, `crowd_boxes` those of them marked as crowds: a detection on a crowd is
    neither right nor wrong. `detections` counts all that were handed in.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    per_class: tuple[ClassResult, ...]
    images: int
    boxes: int
    crowd_boxes: int
    detections: int
    max_det: int
    engine: Engine

    def figures(self) -> dict[str, float]:
        """The 12 figures by name, in COCO's order."""
        return {name: getattr(self, name) for name in FIGURE_NAMES}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self)


class Columns(NamedTuple):
    """Boxes of all images together, in the float64 both engines get; N rows in image order."""

    images: NDArray[np.int64]  # [N] 1-based rank of the image id
    categories: NDArray[np.int64]  # [N] label + 1
    boxes_xywh: NDArray[np.float64]  # [N, 4]
    areas_px: NDArray[np.float64]  # [N]
    scores: NDArray[np.float64]  # [N], zeros for truths
    crowd: NDArray[np.bool_]  # [N]


class _Curves(NamedTuple):
    """Accumulated results in COCO's layout; T thresholds, R recalls, K classes, 4 sizes, 3 limits per image."""

    precision: NDArray[np.float64]  # [T, R, K, 4, 3]
    recall: NDArray[np.float64]  # [T, K, 4, 3]


def evaluate(
    dataset: Dataset, predictions: Sequence[Detections], engine: Engine = "hotcoco", max_det: int = MAX_DET
) -> CocoResult:
    """Score detections against labels by COCO's rules.

    Args:
        dataset: the labelled photos; crowd boxes by COCO's rule, sizes by `areas_px` where the labels give them.
        predictions: one per sample, in the data set's order. Equal scores keep the order given here.
        engine: "hotcoco" (Rust) or "pycocotools" (the reference); the figures are equal.
        max_det: best boxes kept per image and class.
    Returns:
        The figures.
    Raises:
        DataError: predictions that do not fit the data set (count, size, labels, non-finite values).
        UsageError: unknown engine, or max_det below 1.
    """
    if engine not in _ENGINES or max_det < 1:
        expected = f"engine {' or '.join(get_args(Engine))}, max_det >= 1"
        raise UsageError("cannot evaluate", found=f"engine {engine}, max_det {max_det}", expected=expected)
    check_predictions(dataset, predictions)
    order = np.argsort([sample.image_id for sample in dataset], kind="stable")
    truths = stack_columns([dataset.samples[i].truth for i in order], [dataset.samples[i].areas_px for i in order])
    found = stack_columns([predictions[i] for i in order], [None] * len(order))
    limits = [1, min(10, max_det), max_det]
    curves = _ENGINES[engine](truths, found, len(dataset), len(dataset.class_names), limits)
    return CocoResult(
        **_figures(curves),
        per_class=_per_class(dataset, curves, truths, found),
        images=len(dataset),
        boxes=len(truths.images),
        crowd_boxes=int(truths.crowd.sum()),
        detections=len(found.images),
        max_det=max_det,
        engine=engine,
    )


def results_list(dataset: Dataset, predictions: Sequence[Detections]) -> list[dict[str, Any]]:
    """Detections as COCO's results format: image_id, category_id, bbox (xywh, pixels) and score, one dict each.

    The numbers are those `evaluate` scores, to the last bit.
    """
    check_predictions(dataset, predictions)
    rows = []
    for sample, prediction in zip(dataset, predictions, strict=True):
        columns = stack_columns([prediction], [None])
        for category, box_xywh, score in zip(columns.categories, columns.boxes_xywh, columns.scores, strict=True):
            category_id = dataset.category_ids[category - 1]
            row = {"image_id": sample.image_id, "category_id": category_id, "bbox": box_xywh.tolist()}
            rows.append({**row, "score": float(score)})
    return rows


def check_predictions(dataset: Dataset, predictions: Sequence[Detections]) -> None:
    """DataError where predictions, one per photo, do not fit the data set or hold what nobody can score."""
    if len(predictions) != len(dataset):
        raise DataError(
            "predictions do not fit the data set", found=len(predictions), expected=f"{len(dataset)} images"
        )
    for sample, prediction in zip(dataset, predictions, strict=True):
        if prediction.size_hw != sample.truth.size_hw:
            found, expected = (f"{w}x{h} px" for h, w in (prediction.size_hw, sample.truth.size_hw))
            raise DataError(f"{sample.name}: predictions lie on another canvas", found=found, expected=expected)
        if prediction.scores is None:
            raise DataError(f"{sample.name}: predictions have no scores")
        labels, boxes_xyxy = prediction.labels, prediction.boxes_xyxy
        if labels.size and not 0 <= labels.min() <= labels.max() < len(dataset.class_names):
            expected = f"below {len(dataset.class_names)}"
            wrong = int(labels.min() if labels.min() < 0 else labels.max())
            raise DataError(f"{sample.name}: predicted class out of range", found=wrong, expected=expected)
        if not (np.isfinite(boxes_xyxy).all() and np.isfinite(prediction.scores).all()):
            raise DataError(f"{sample.name}: a predicted box or score is not a finite number")
        if (boxes_xyxy[:, 2:] < boxes_xyxy[:, :2]).any():
            raise DataError(f"{sample.name}: a predicted box is inverted", expected="x1 <= x2 and y1 <= y2")


def stack_columns(per_image: Sequence[Detections], areas_px: Sequence[NDArray[np.float64] | None]) -> Columns:
    """Gather all images; widths are taken in float64, so that both engines see the same bits."""
    counts = [len(detections) for detections in per_image]

    def gather(parts: list[Any], dtype: type, width: tuple[int, ...] = ()) -> NDArray[Any]:
        return np.concatenate([np.zeros((0, *width), dtype), *parts]).astype(dtype)

    boxes_xyxy = gather([d.boxes_xyxy for d in per_image], np.float64, (4,))
    boxes_xywh = np.hstack([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]])  # [N, 4]
    box_areas_px = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    starts = np.cumsum([0, *counts])
    for start, end, own in zip(starts, starts[1:], areas_px, strict=False):
        if own is not None:
            box_areas_px[start:end] = own
    return Columns(
        images=np.repeat(np.arange(1, len(counts) + 1), counts),
        categories=gather([d.labels for d in per_image], np.int64) + 1,
        boxes_xywh=boxes_xywh,
        areas_px=box_areas_px,
        scores=gather([np.zeros(len(d)) if d.scores is None else d.scores for d in per_image], np.float64),
        crowd=gather([np.zeros(len(d), bool) if d.crowd is None else d.crowd for d in per_image], np.bool_),
    )


def _with_hotcoco(truths: Columns, found: Columns, images: int, classes: int, limits: list[int]) -> _Curves:
    import hotcoco

    image_rows, category_rows = _id_rows(images), _id_rows(classes)
    truth = hotcoco.COCO.from_arrays(
        image_rows,
        category_rows,
        truths.images,
        truths.categories,
        truths.boxes_xywh,
        area=truths.areas_px,
        iscrowd=truths.crowd,
    )
    rows = np.column_stack([found.images, found.boxes_xywh, found.scores, found.categories])  # [N, 7]
    run = hotcoco.COCOeval(truth, truth.load_res(rows), "bbox")
    run.params.max_dets = limits
    run.evaluate()
    run.accumulate()
    assert run.eval is not None  # accumulate() has run
    return _Curves(np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"]))


def _with_pycocotools(truths: Columns, found: Columns, images: int, classes: int, limits: list[int]) -> _Curves:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def build(columns: Columns) -> COCO:
        coco = COCO()
        coco.dataset = {"images": _id_rows(images), "categories": _id_rows(classes), "annotations": _rows(columns)}
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        run = COCOeval(build(truths), build(found), "bbox")
        run.params.maxDets = limits
        run.evaluate()
        run.accumulate()
    return _Curves(run.eval["precision"], run.eval["recall"])


_ENGINES: dict[str, Callable[[Columns, Columns, int, int, list[int]], _Curves]] = {
    "hotcoco": _with_hotcoco,
    "pycocotools": _with_pycocotools,
}


def _id_rows(count: int) -> list[dict[str, Any]]:
    """Images or categories numbered from 1; neither engine looks at anything but the id."""
    return [{"id": i, "name": str(i), "file_name": str(i), "width": 1, "height": 1} for i in range(1, count + 1)]


def _rows(columns: Columns) -> list[dict[str, Any]]:
    """Annotations as pycocotools wants them; ids from 1, because it takes a match with id 0 for no match."""
    keys = ("image_id", "category_id", "bbox", "area", "score", "iscrowd")
    listed = zip(*(column.tolist() for column in columns), strict=True)
    return [{"id": i, **dict(zip(keys, values, strict=True))} for i, values in enumerate(listed, start=1)]


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the defined values, or UNDEFINED."""
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED


def _figures(curves: _Curves) -> dict[str, Any]:
    """The 12 figures by name."""
    at_most = curves.precision[..., -1]  # [T, R, K, 4]
    precisions = [at_most[..., _ALL], at_most[_IOU_50, ..., _ALL], at_most[_IOU_75, ..., _ALL]]
    precisions += [at_most[..., size] for size in (_SMALL, _MEDIUM, _LARGE)]
    recalls = [curves.recall[:, :, _ALL, limit] for limit in range(3)]
    recalls += [curves.recall[:, :, size, -1] for size in (_SMALL, _MEDIUM, _LARGE)]
    return dict(zip(FIGURE_NAMES, map(_mean, precisions + recalls), strict=True))


def _per_class(dataset: Dataset, curves: _Curves, truths: Columns, found: Columns) -> tuple[ClassResult, ...]:
    precision = curves.precision[..., _ALL, -1]  # [T, R, K]
    count = len(dataset.class_names)
    truth_counts = np.bincount(truths.categories[~truths.crowd], minlength=count + 1)[1:]
    found_counts = np.bincount(found.categories, minlength=count + 1)[1:]
    return tuple(
        ClassResult(
            name=name,
            category_id=dataset.category_ids[k],
            AP=_mean(precision[..., k]),
            AP50=_mean(precision[_IOU_50, :, k]),
            truths=int(truth_counts[k]),
            detections=int(found_counts[k]),
        )
        for k, name in enumerate(dataset.class_names)
    )
