"""COCO's detection figures, from hotcoco or from pycocotools; at other IoU thresholds and for other sizes too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.evaluate.coco_engines import ENGINES, Curves, Grid
from detkit.evaluate.coco_engines import Engine as Engine
from detkit.evaluate.columns import Columns as Columns
from detkit.evaluate.columns import check_predictions as check_predictions
from detkit.evaluate.columns import found_columns, truth_columns
from detkit.evaluate.columns import results_list as results_list
from detkit.evaluate.columns import stack_columns as stack_columns

FIGURE_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CONF_FLOOR = 0.001  # boxes to ask a model for when it is measured: low, so that the whole curve is seen
MAX_DET = 100  # COCO's limit of boxes per image and class
UNDEFINED = -1.0  # COCO's figure where there is nothing to find

Sizes = Mapping[str, tuple[float, float]]
COCO_SIZES: Sizes = {"small": (0, 32), "medium": (32, 96), "large": (96, math.inf)}  # sides of a square of that area
LARGEST_SIDE_PX = 1e5  # COCO's sizes end here

_COCO_IOUS = np.linspace(0.5, 0.95, 10).tolist()  # pycocotools' own: the ninth is 0.8999999999999999
_IOU_50, _IOU_75 = 0, 5  # their positions
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # COCO's ranges of area, which come first in the grid
_SAME = 1e-9  # a threshold asked for that is one of COCO's but for rounding is that one


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class: COCO's figures of it, its truths (crowds not counted) and its detections.

    AP is the mean over IoU 0.50:0.95, APs, APm, APl the same by size; AR100 the recall with `max_det` boxes an image.
    `at_ious` is AP at each of the result's `ious`, `at_sizes` at each of its `sizes`.
    """

    name: str
    category_id: int
    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR100: float
    truths: int
    detections: int
    at_ious: tuple[float, ...]
    at_sizes: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class IouResult:
    """AP and AR (with `max_det` boxes an image) at one IoU threshold."""

    iou: float
    AP: float
    AR: float


@dataclass(frozen=True, slots=True)
class SizeResult:
    """Objects of one size: AP, AP50 and AR of those whose area's square root is from `low_px` to `high_px`.

    `high_px` is None where the range has no end. `truths` are the labelled boxes of that size, crowds not counted.
    """

    name: str
    low_px: float
    high_px: float | None
    AP: float
    AP50: float
    AR: float
    truths: int


@dataclass(frozen=True, slots=True)
class CocoResult:
    """COCO's 12 figures in 0-1 under COCO's names, and what they were counted on.

    A figure is -1 where it is undefined (no truth of that size or class), exactly as pycocotools has it; such
    classes take no part in the averages. AR1, AR10, AR100 allow 1, 10, `max_det` boxes per image and class.
    `boxes` are all labelled boxes, `crowd_boxes` those of them marked as crowds: a detection on a crowd is
    neither right nor wrong. `detections` counts all that were handed in, `beyond_max_det` those of them unused.
    `sizes` are COCO's three unless others were asked for; `ious` are those that were asked for.
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
    sizes: tuple[SizeResult, ...]
    ious: tuple[IouResult, ...]
    images: int
    boxes: int
    crowd_boxes: int
    detections: int
    beyond_max_det: int
    max_det: int
    engine: Engine

    def figures(self) -> dict[str, float]:
        """The 12 figures by name, in COCO's order."""
        return {name: getattr(self, name) for name in FIGURE_NAMES}

    def rules(self) -> list[str]:
        """By which rules the figures were counted, a sentence each."""
        unused = f"{self.beyond_max_det} of {self.detections} detections lie beyond that and do not count"
        on_crowds = f"A detection on a crowd box ({self.crowd_boxes} labelled) counts neither way, and so does the box."
        return [
            "AP is the mean over IoU 0.50 to 0.95 in steps of 0.05 and over the classes, precision being read at 101 "
            "recalls.",
            f"The best {self.max_det} boxes of each class on each photo count; {unused}.",
            on_crowds if self.crowd_boxes else "No labelled box is a crowd.",
            "Small is an area up to 32x32 px, medium up to 96x96 px, large above, by the label file's area where it "
            "gives one.",
            "A class without a labelled box takes no part in the mean.",
            f"Computed by {self.engine}.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self) | {"rules": self.rules()}


def evaluate(
    dataset: Dataset,
    predictions: Sequence[Detections],
    engine: Engine = "hotcoco",
    max_det: int = MAX_DET,
    *,
    ious: Sequence[float] = (),
    sizes: Sizes = COCO_SIZES,
) -> CocoResult:
    """Score detections against labels by COCO's rules.

    Args:
        dataset: the labelled photos; crowd boxes by COCO's rule, sizes by `areas_px` where the labels give them.
        predictions: one per sample, in the data set's order. Equal scores keep the order given here.
        engine: "hotcoco" (Rust) or "pycocotools" (the reference); the figures are equal.
        max_det: best boxes kept per image and class.
        ious: thresholds to give AP and AR at, each above 0 and up to 1.
        sizes: name -> (low, high), the square root of the area in px; both ends belong to it, as COCO has it.
    Raises:
        DataError: predictions that do not fit the data set (count, size, labels, non-finite values).
        UsageError: unknown engine, max_det below 1, no such threshold or size.
    """
    if engine not in ENGINES or max_det < 1:
        expected = f"engine {' or '.join(get_args(Engine))}, max_det >= 1"
        raise UsageError("cannot evaluate", found=f"engine {engine}, max_det {max_det}", expected=expected)
    _check_settings(ious, sizes)
    check_predictions(dataset, predictions)
    return evaluate_columns(
        dataset, found_columns(dataset, predictions), engine=engine, max_det=max_det, ious=ious, sizes=sizes
    )


def evaluate_columns(
    dataset: Dataset, found: Columns, *, engine: Engine, max_det: int, ious: Sequence[float], sizes: Sizes
) -> CocoResult:
    """`evaluate` for detections that are checked and in one table already; `images` are ranks of the image ids."""
    truths = truth_columns(dataset)
    asked = [next((known for known in _COCO_IOUS if abs(known - iou) < _SAME), float(iou)) for iou in ious]
    grid = Grid(
        ious=sorted({*_COCO_IOUS, *asked}),
        areas_px=_areas(sizes),
        limits=[1, min(10, max_det), max_det],
    )
    curves = ENGINES[engine](truths, found, len(dataset), len(dataset.class_names), grid)
    at, buckets = [grid.ious.index(iou) for iou in asked], _buckets(sizes)
    coco = Curves(*(curve[[grid.ious.index(iou) for iou in _COCO_IOUS]] for curve in curves))
    return CocoResult(
        **_figures(coco),
        per_class=_per_class(dataset, coco, curves.precision[at], buckets, truths, found),
        sizes=_by_size(sizes, coco, truths),
        ious=tuple(
            IouResult(iou, _mean(curves.precision[t, ..., _ALL, -1]), _mean(curves.recall[t, :, _ALL, -1]))
            for iou, t in zip(map(float, ious), at, strict=True)
        ),
        images=len(dataset),
        boxes=len(truths.images),
        crowd_boxes=int(truths.crowd.sum()),
        detections=len(found.images),
        beyond_max_det=_beyond(found, len(dataset.class_names), max_det),
        max_det=max_det,
        engine=engine,
    )


def _check_settings(ious: Sequence[float], sizes: Sizes) -> None:
    for iou in ious:
        if not 0 < iou <= 1:
            raise UsageError("no such IoU threshold", found=iou, expected="above 0 and up to 1")
    for name, (low, high) in sizes.items():
        if not (name.strip() and 0 <= low < high):
            raise UsageError(f"no such size: {name!r}", found=f"{low} to {high} px", expected="0 <= low < high")


def _area_range(ends_px: tuple[float, float]) -> list[float]:
    return [min(end, LARGEST_SIDE_PX) ** 2.0 for end in ends_px]


def _areas(sizes: Sizes) -> list[list[float]]:
    """COCO's ranges of area and those of `sizes`, each once: hotcoco loses the first of two that are equal."""
    areas = [[0.0, LARGEST_SIDE_PX**2], *map(_area_range, [*COCO_SIZES.values(), *sizes.values()])]
    return [area for place, area in enumerate(areas) if area not in areas[:place]]


def _buckets(sizes: Sizes) -> list[int]:
    """Where in the grid the ranges of `sizes` are."""
    return [_areas(sizes).index(_area_range(ends_px)) for ends_px in sizes.values()]


def _beyond(found: Columns, classes: int, max_det: int) -> int:
    """Detections beyond the best `max_det` of their class on their image."""
    _, counts = np.unique(found.images * (classes + 1) + found.categories, return_counts=True)
    return int(np.maximum(counts - max_det, 0).sum())


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the defined values, or UNDEFINED."""
    defined = values[values > UNDEFINED]
    return float(defined.mean()) if defined.size else UNDEFINED


def _figures(curves: Curves) -> dict[str, Any]:
    """The 12 figures by name, from the curves at COCO's ten thresholds."""
    at_most = curves.precision[..., -1]  # [T, R, K, A]
    precisions = [at_most[..., _ALL], at_most[_IOU_50, ..., _ALL], at_most[_IOU_75, ..., _ALL]]
    precisions += [at_most[..., size] for size in (_SMALL, _MEDIUM, _LARGE)]
    recalls = [curves.recall[:, :, _ALL, limit] for limit in range(3)]
    recalls += [curves.recall[:, :, size, -1] for size in (_SMALL, _MEDIUM, _LARGE)]
    return dict(zip(FIGURE_NAMES, map(_mean, precisions + recalls), strict=True))


def _by_size(sizes: Sizes, curves: Curves, truths: Columns) -> tuple[SizeResult, ...]:
    rows = []
    for area, (name, ends_px) in zip(_buckets(sizes), sizes.items(), strict=True):
        low_area, high_area = _area_range(ends_px)
        counted = ~truths.crowd & (truths.areas_px >= low_area) & (truths.areas_px <= high_area)
        precision = curves.precision[..., area, -1]
        figures = _mean(precision), _mean(precision[_IOU_50]), _mean(curves.recall[:, :, area, -1])
        high_px = float(ends_px[1]) if math.isfinite(ends_px[1]) else None
        rows.append(SizeResult(name, float(ends_px[0]), high_px, *figures, int(counted.sum())))
    return tuple(rows)


def _per_class(
    dataset: Dataset,
    curves: Curves,
    asked: NDArray[np.float64],
    buckets: Sequence[int],
    truths: Columns,
    found: Columns,
) -> tuple[ClassResult, ...]:
    """Each class, from the curves at COCO's thresholds and the precision at those asked for, [T, R, K, A, M]."""
    count = len(dataset.class_names)
    truth_counts = np.bincount(truths.categories[~truths.crowd], minlength=count + 1)[1:].tolist()
    found_counts = np.bincount(found.categories, minlength=count + 1)[1:].tolist()
    rows = []
    for k, name in enumerate(dataset.class_names):
        own = curves.precision[:, :, k, :, -1]  # [T, R, A]
        by_size = [_mean(own[..., area]) for area in range(own.shape[2])]
        row = ClassResult(
            name=name,
            category_id=dataset.category_ids[k],
            AP=by_size[_ALL],
            AP50=_mean(own[_IOU_50, :, _ALL]),
            AP75=_mean(own[_IOU_75, :, _ALL]),
            APs=by_size[_SMALL],
            APm=by_size[_MEDIUM],
            APl=by_size[_LARGE],
            AR100=_mean(curves.recall[:, k, _ALL, -1]),
            truths=truth_counts[k],
            detections=found_counts[k],
            at_ious=tuple(_mean(precision) for precision in asked[:, :, k, _ALL, -1]),
            at_sizes=tuple(by_size[area] for area in buckets),
        )
        rows.append(row)
    return tuple(rows)
