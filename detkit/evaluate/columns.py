"""The boxes of all images in one table of float64, as both engines get them; and detections that come from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import DataError


class Columns(NamedTuple):
    """Boxes of all images together, in the float64 both engines get; N rows in image order."""

    images: NDArray[np.int64]  # [N] 1-based rank of the image id
    categories: NDArray[np.int64]  # [N] label + 1
    boxes_xywh: NDArray[np.float64]  # [N, 4]
    areas_px: NDArray[np.float64]  # [N]
    scores: NDArray[np.float64]  # [N], zeros for truths
    crowd: NDArray[np.bool_]  # [N]


@dataclass(frozen=True, slots=True, eq=False)
class Results(Sequence[Detections]):
    """Detections read from a results file, one per sample, and beside them the numbers exactly as the file has them.

    A `Detections` holds float32; what is measured on the file must not: a score of 0.87654321 or a box that overlaps
    by just 0.5 would count otherwise than with pycocotools. Whoever takes predictions asks `found_columns` for them.

    Args:
        detections: in the data set's order.
        columns: the same boxes in float64; `images` is the 1-based position in the data set.
        points_xyv: float64 [N, P, 3], or None.
        notes: what a reader of the figures should know about the file, a sentence each.
    """

    detections: tuple[Detections, ...]
    columns: Columns
    points_xyv: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.detections)

    @overload
    def __getitem__(self, index: int) -> Detections: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Detections, ...]: ...

    def __getitem__(self, index: int | slice) -> Detections | tuple[Detections, ...]:
        return self.detections[index]


def image_order(dataset: Dataset) -> NDArray[np.int64]:
    """Positions of the photos by image id, [I]: the order in which both engines take them."""
    return np.argsort([sample.image_id for sample in dataset], kind="stable").astype(np.int64)


def truth_columns(dataset: Dataset) -> Columns:
    """All labelled boxes, in the label file's own numbers and with its areas where it gives them."""
    samples = [dataset.samples[i] for i in image_order(dataset)]
    truths = stack_columns([sample.truth for sample in samples], [sample.areas_px for sample in samples])
    boxes_xywh, areas_px, start = truths.boxes_xywh.copy(), truths.areas_px.copy(), 0
    for sample in samples:
        own, exact_xywh = sample.truth.boxes_xyxy, sample.boxes_xywh
        if exact_xywh is not None and np.array_equal(own, _float32_xyxy(exact_xywh)):  # else the boxes were mended
            rows = slice(start, start + len(own))
            boxes_xywh[rows] = exact_xywh
            areas_px[rows] = exact_xywh[:, 2:].prod(axis=1) if sample.areas_px is None else sample.areas_px
        start += len(own)
    return truths._replace(boxes_xywh=boxes_xywh, areas_px=areas_px)


def _float32_xyxy(boxes_xywh: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]]).astype(np.float32)


def found_columns(dataset: Dataset, predictions: Sequence[Detections]) -> Columns:
    """All predicted boxes; those of `Results` exactly as their file has them."""
    order = image_order(dataset)
    if not isinstance(predictions, Results):
        return stack_columns([predictions[i] for i in order], [None] * len(order))
    rows, ranks = found_rows(dataset, predictions)
    columns: list[Any] = [column[rows] for column in predictions.columns]
    return Columns(*columns)._replace(images=ranks)


def found_rows(dataset: Dataset, results: Results) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of a file's detections by image id, [N], and the 1-based rank of each one's image id, [N]."""
    order = image_order(dataset)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    ranks = rank[results.columns.images - 1]
    rows = np.argsort(ranks, kind="stable").astype(np.int64)
    return rows, ranks[rows]


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
    stacked = stack_columns(predictions, [None] * len(predictions))
    labels, classes = stacked.categories - 1, len(dataset.class_names)
    finite = np.isfinite(stacked.boxes_xywh).all(axis=1) & np.isfinite(stacked.scores)

    def refuse(bad: ArrayLike, what: str, found: object = None, expected: object = None) -> None:
        if np.any(bad):
            name = dataset.samples[stacked.images[np.argmax(bad)] - 1].name
            raise DataError(f"{name}: {what}", found=found, expected=expected)

    outside = (labels < 0) | (labels >= classes)
    wrong = int(labels[np.argmax(outside)]) if outside.any() else 0
    refuse(outside, "predicted class out of range", wrong, f"below {classes}")
    refuse(~finite, "a predicted box or score is not a finite number")
    inverted = (stacked.boxes_xywh[:, 2:] < 0).any(axis=1)
    refuse(inverted, "a predicted box is inverted", expected="x1 <= x2 and y1 <= y2")


def results_list(dataset: Dataset, predictions: Sequence[Detections]) -> list[dict[str, Any]]:
    """Detections as COCO's results format: image_id, category_id, bbox (xywh, pixels) and score, one dict each.

    The numbers are those `evaluate` scores, to the last bit.
    """
    check_predictions(dataset, predictions)
    found = found_columns(dataset, predictions)
    ids = np.sort(np.array([sample.image_id for sample in dataset], object))  # by rank
    listed = zip(ids[found.images - 1], *(column.tolist() for column in found[1:]), strict=True)
    return [
        {"image_id": image_id, "category_id": dataset.category_ids[category - 1], "bbox": box_xywh, "score": score}
        for image_id, category, box_xywh, _, score, _ in listed
    ]


def stack_columns(per_image: Sequence[Detections], areas_px: Sequence[NDArray[np.float64] | None]) -> Columns:
    """Gather all images; widths are taken in float64, so that both engines see the same bits."""
    counts = [len(detections) for detections in per_image]

    def gather(parts: list[Any], dtype: type, width: tuple[int, ...] = ()) -> NDArray[Any]:
        return np.concatenate([np.zeros((0, *width), dtype), *parts]).astype(dtype)

    boxes_xyxy = gather([d.boxes_xyxy for d in per_image], np.float64, (4,))
    with np.errstate(invalid="ignore"):  # infinity less infinity: such boxes are refused by name
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
