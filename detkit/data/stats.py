"""What a data set holds: photos, boxes and classes, sizes and shapes, and which classes stand together."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import area
from detkit.data.dataset import Dataset

SMALL_PX, LARGE_PX = 32.0, 96.0  # COCO's borders: sides of squares
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TOP_PAIRS, _TOP_SIZES = 10, 5


@dataclass(frozen=True, slots=True)
class ClassStats:
    """One class: photos that show it, its boxes, their median sides, and how many are small, medium and large."""

    name: str
    images: int
    boxes: int
    median_wh_px: tuple[float, float] | None
    small: int
    medium: int
    large: int


@dataclass(frozen=True, slots=True)
class SplitStats:
    """One split, or all of them; crowd boxes are counted, and left out of everything else.

    Args:
        split: its name, "" for all.
        images: photos.
        empty_images: photos without a box.
        boxes: boxes, crowds not among them.
        crowd_boxes: boxes around crowds.
        boxes_per_image: their mean, median and maximum.
        small: boxes up to 32x32 px. medium: up to 96x96 px. large: the rest.
        image_wh_px: the smallest, median and largest width and height.
        common_sizes: the most frequent (width, height, photos).
        aspect_ratios: quantiles of box width / height: 5 %, 25 %, 50 %, 75 %, 95 %.
        classes: in label order.
        pairs: the classes that most often stand on one photo: (class, class, photos).
    """

    split: str
    images: int
    empty_images: int
    boxes: int
    crowd_boxes: int
    boxes_per_image: dict[str, float]
    small: int
    medium: int
    large: int
    image_wh_px: dict[str, tuple[float, float]]
    common_sizes: tuple[tuple[int, int, int], ...]
    aspect_ratios: dict[str, float]
    classes: tuple[ClassStats, ...]
    pairs: tuple[tuple[str, str, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON types."""
        return asdict(self)


def describe(dataset: Dataset) -> SplitStats:
    """Count and measure one split; photos are not opened."""
    truths = [s.truth if s.truth.crowd is None else s.truth[~s.truth.crowd] for s in dataset]
    per_image = np.array([len(truth) for truth in truths], np.int64)
    boxes_xyxy = np.concatenate([truth.boxes_xyxy for truth in truths] or [np.zeros((0, 4), np.float32)]).astype(
        np.float64
    )
    labels = np.concatenate([truth.labels for truth in truths] or [np.zeros(0, np.int64)])
    sides_px = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]  # [N, 2]
    buckets = np.digitize(area(boxes_xyxy), [SMALL_PX**2, LARGE_PX**2])  # [N]: 0 small, 1 medium, 2 large
    shown = [sorted(set(truth.labels.tolist())) for truth in truths]
    small, medium, large = np.bincount(buckets, minlength=3).tolist()
    return SplitStats(
        split=dataset.split,
        images=len(dataset),
        empty_images=int((per_image == 0).sum()),
        boxes=len(labels),
        crowd_boxes=dataset.box_count - len(labels),
        boxes_per_image=_mean_median_max(per_image),
        small=small,
        medium=medium,
        large=large,
        image_wh_px=_image_sizes(dataset),
        common_sizes=_common_sizes(dataset),
        aspect_ratios=_quantiles(sides_px[:, 0] / sides_px[:, 1]),
        classes=_classes(dataset.class_names, labels, sides_px, buckets, shown),
        pairs=_pairs(dataset.class_names, shown),
    )


def _mean_median_max(counts: NDArray[np.int64]) -> dict[str, float]:
    if not len(counts):
        return {"mean": 0.0, "median": 0.0, "max": 0.0}
    return {"mean": round(float(counts.mean()), 3), "median": float(np.median(counts)), "max": float(counts.max())}


def _image_sizes(dataset: Dataset) -> dict[str, tuple[float, float]]:
    if not len(dataset):
        return {}
    sizes_wh = np.array([sample.truth.size_hw[::-1] for sample in dataset])  # [N, 2]
    found = {"min": sizes_wh.min(0), "median": np.median(sizes_wh, 0), "max": sizes_wh.max(0)}
    return {name: (float(width), float(height)) for name, (width, height) in found.items()}


def _common_sizes(dataset: Dataset) -> tuple[tuple[int, int, int], ...]:
    counted = Counter(sample.truth.size_hw for sample in dataset).most_common(_TOP_SIZES)
    return tuple((width, height, count) for (height, width), count in counted)


def _quantiles(ratios: NDArray[np.float64]) -> dict[str, float]:
    if not len(ratios):
        return {}
    values = np.quantile(ratios, QUANTILES).round(3).tolist()
    return {f"{100 * at:.0f}%": value for at, value in zip(QUANTILES, values, strict=True)}


def _classes(
    names: tuple[str, ...],
    labels: NDArray[np.int64],
    sides_px: NDArray[np.float64],
    buckets: NDArray[np.int64],
    shown: list[list[int]],
) -> tuple[ClassStats, ...]:
    images = Counter(label for own in shown for label in own)
    found = []
    for label, name in enumerate(names):
        own = labels == label
        width, height = np.median(sides_px[own], 0).round(1).tolist() if own.any() else (0.0, 0.0)
        by_size = np.bincount(buckets[own], minlength=3).tolist()
        median_wh_px = (width, height) if own.any() else None
        found.append(ClassStats(name, images[label], int(own.sum()), median_wh_px, *by_size))
    return tuple(found)


def _pairs(names: tuple[str, ...], shown: list[list[int]]) -> tuple[tuple[str, str, int], ...]:
    counted = Counter(pair for own in shown for pair in combinations(own, 2))
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:_TOP_PAIRS]
    return tuple((names[one], names[other], count) for (one, other), count in ranked)
