"""COCO's matching of detections to labels, done once per image, so that figures of any choice of images are cheap.

Matching looks at one image at a time. So the AP of a resampled set (bootstrap), of a subset or of a shard follows
from the same matches, each image counted as often as it was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import ioa_matrix, iou_matrix
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.evaluate.coco import MAX_DET, UNDEFINED
from detkit.evaluate.columns import Columns, check_predictions, found_columns, image_order, truth_columns

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # [T]
RECALL_POINTS = np.linspace(0, 1, 101)

_LARGEST_AREA_PX = 1e10  # COCO's size range "all" ends here; a truth beyond it is neither right nor wrong to find
_EXACT_FIT = 1 - 1e-10  # what counts as an IoU of 1
_CELLS = 4_000_000  # image counts gathered at a time: blocks that stay near the cache


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Who matched whom, by COCO's rules at its ten IoU thresholds (T), for objects of all sizes.

    Detections (N, at most `max_det` per image and class) stand class by class, best score first, in the order
    COCO's curves take them: those of class k are rows `starts[k]:starts[k + 1]`. Truths (M, those that count:
    crowds are left out) stand class by class too.

    Args:
        image_count: photos, those without boxes included.
        starts: int64 [K + 1].
        images: int64 [N], the position in the data set of the photo each detection lies on.
        hit: bool [T, N], matched to a truth that counts.
        ignored: bool [T, N], on a crowd: neither right nor wrong.
        truth_starts: int64 [K + 1], as `starts`.
        truth_images: int64 [M], as `images`.
    """

    image_count: int
    starts: NDArray[np.int64]
    images: NDArray[np.int64]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    truth_starts: NDArray[np.int64]
    truth_images: NDArray[np.int64]

    @property
    def class_count(self) -> int:
        """K."""
        return len(self.starts) - 1


def match(dataset: Dataset, predictions: Sequence[Detections], max_det: int = MAX_DET) -> Matching:
    """Match detections to labels as pycocotools does.

    Args:
        dataset: the labelled photos.
        predictions: one per sample, in the data set's order.
        max_det: best boxes kept per image and class.
    Raises:
        DataError: predictions that do not fit the data set.
    """
    check_predictions(dataset, predictions)
    order, truths = image_order(dataset), truth_columns(dataset)
    found = best_per_image(found_columns(dataset, predictions), max_det)
    off_limits = truths.crowd | outsized(truths.areas_px)
    owner = _owners(found, truths, off_limits)  # [T, N]
    on_ignored = (owner >= 0) & np.append(off_limits, False)[owner]
    classes = np.arange(1, len(dataset.class_names) + 2)
    counted = np.flatnonzero(~off_limits)
    counted = counted[np.argsort(truths.categories[counted], kind="stable")]
    return Matching(
        image_count=len(dataset),
        starts=np.searchsorted(found.categories, classes),
        images=order[found.images - 1],
        hit=(owner >= 0) & ~on_ignored,
        ignored=on_ignored | ((owner < 0) & outsized(found.areas_px)),
        truth_starts=np.searchsorted(truths.categories[counted], classes),
        truth_images=order[truths.images[counted] - 1],
    )


def average_precisions(matching: Matching, image_counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """COCO's 101-point AP for sets in which each image occurs a given number of times.

    An image drawn twice counts as two images, whose equal scores stand side by side in the curve.

    Args:
        matching: of the whole set.
        image_counts: [I, B], how often each of the I images occurs in each of B sets.
    Returns:
        float64 [T, K, B]; -1 where a set has no truth of the class.
    """
    counts = np.ascontiguousarray(image_counts)
    sets = counts.shape[1]
    result = np.empty((len(IOU_THRESHOLDS), matching.class_count, sets))
    for k in range(matching.class_count):
        rows = matching.starts[k + 1] - matching.starts[k]
        step = max(16, _CELLS // max(1, int(rows)))
        for start in range(0, sets, step):
            result[:, k, start : start + step] = _class_aps(matching, k, counts[:, start : start + step])
    return result


def _class_aps(matching: Matching, k: int, counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """AP of one class, [T, B]. Curves are followed at their hits only: between them precision just falls."""
    rows = slice(matching.starts[k], matching.starts[k + 1])
    truth_images = matching.truth_images[matching.truth_starts[k] : matching.truth_starts[k + 1]]
    truths = counts[truth_images].sum(axis=0, dtype=np.int64)  # [B]
    drawn = counts[matching.images[rows]]  # [n, B]
    seen = np.cumsum(drawn, axis=0, dtype=np.int32)
    starts, reached = _recall_points(truths)
    result = np.zeros((len(IOU_THRESHOLDS), counts.shape[1]))
    for t, (hit, ignored) in enumerate(zip(matching.hit[:, rows], matching.ignored[:, rows], strict=True)):
        at, skipped = np.flatnonzero(hit), np.flatnonzero(ignored)
        if not at.size:
            continue
        right = np.cumsum(drawn[at], axis=0, dtype=np.int32)  # [h, B]
        judged = seen[at]
        if skipped.size:
            dropped = np.cumsum(drawn[skipped], axis=0, dtype=np.int32)
            judged -= np.vstack([np.zeros_like(dropped[:1]), dropped])[np.searchsorted(skipped, at)]
        precision = right / np.maximum(judged, 1)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]  # the best at this recall or beyond
        points = np.diff(reached[starts + right], axis=0, prepend=np.zeros((1, len(truths)), np.uint8))
        result[t] = np.einsum("hb,hb->b", best, points) / len(RECALL_POINTS)
    result[:, truths == 0] = UNDEFINED
    return result


def _recall_points(truths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """A table of how many of COCO's recall points m hits reach: `table[starts[b] + m]` for set b, m up to truths[b]."""
    sizes = truths + 1
    starts = np.cumsum(sizes) - sizes
    hits = np.arange(sizes.sum()) - np.repeat(starts, sizes)
    recall = hits / np.repeat(np.maximum(truths, 1), sizes)
    return starts, np.searchsorted(RECALL_POINTS, recall, side="right").astype(np.uint8)


def outsized(areas_px: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (areas_px < 0) | (areas_px > _LARGEST_AREA_PX)


def best_per_image(found: Columns, max_det: int) -> Columns:
    """At most `max_det` detections per image and class, in the order of COCO's curves: class, score, image."""
    order = np.lexsort((-found.scores, found.images, found.categories))
    group = np.stack([found.images, found.categories])[:, order]
    first = np.append(True, (group[:, 1:] != group[:, :-1]).any(axis=0))[: len(order)]
    places = np.arange(len(order))
    order = order[places - np.maximum.accumulate(np.where(first, places, 0)) < max_det]
    order = order[np.lexsort((-found.scores[order], found.categories[order]))]
    columns: list[Any] = [column[order] for column in found]
    return Columns(*columns)


def _owners(found: Columns, truths: Columns, off_limits: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The truth each detection is matched to at each threshold, [T, N], or -1: greedy by score within image and class.

    Of the free truths that overlap enough, one that counts goes before one that does not, then the larger
    overlap, then the later in the file. Crowds stay free. Round r settles the r-th detection of every image and class.
    """
    thresholds = np.minimum(IOU_THRESHOLDS, _EXACT_FIT)[:, None]
    detection, truth, overlap = _candidates(found, truths)  # [P] each
    order = np.lexsort((-truth, -overlap, off_limits[truth], detection))
    detection, truth, overlap = detection[order], truth[order], overlap[order]
    rounds = _rounds(found, detection)
    owner = np.full((len(thresholds), len(found.images)), -1)
    taken = np.zeros((len(thresholds), len(truths.images)), np.bool_)
    by_round = np.argsort(rounds, kind="stable")
    for pairs in np.split(by_round, np.flatnonzero(np.diff(rounds[by_round])) + 1) if rounds.size else ():
        t_of, pair_of = np.nonzero((overlap[pairs] >= thresholds) & ~taken[:, truth[pairs]])
        pair_of = pairs[pair_of]
        _, best = np.unique(t_of * len(owner[0]) + detection[pair_of], return_index=True)  # the first of each
        t_of, pair_of = t_of[best], pair_of[best]
        owner[t_of, detection[pair_of]] = truth[pair_of]
        taken[t_of, truth[pair_of]] = ~truths.crowd[truth[pair_of]]
    return owner


def _candidates(found: Columns, truths: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows of detections and truths of one image and class that overlap by 0.5 or more, and by how much."""
    none = np.zeros(0, np.int64)
    parts = [(none, none, np.zeros(0))]
    by_image = np.argsort(found.images, kind="stable")
    images = np.arange(1, 2 + max(found.images.max(initial=0), truths.images.max(initial=0)))
    found_starts = np.searchsorted(found.images[by_image], images)
    truth_starts = np.searchsorted(truths.images, images)
    corners = [np.hstack([c.boxes_xywh[:, :2], c.boxes_xywh[:, :2] + c.boxes_xywh[:, 2:]]) for c in (found, truths)]
    for i in np.flatnonzero((np.diff(found_starts) > 0) & (np.diff(truth_starts) > 0)):
        rows = by_image[found_starts[i] : found_starts[i + 1]]
        these = np.arange(truth_starts[i], truth_starts[i + 1])
        overlap = iou_matrix(corners[0][rows], corners[1][these])
        if truths.crowd[these].any():
            overlap = np.where(truths.crowd[these], ioa_matrix(corners[0][rows], corners[1][these]), overlap)
        same = found.categories[rows][:, None] == truths.categories[these]
        at, of = np.nonzero(same & (overlap >= IOU_THRESHOLDS[0]))
        parts.append((rows[at], these[of], overlap[at, of]))
    detection, truth, overlap = (np.concatenate(column) for column in zip(*parts, strict=True))
    return detection, truth, overlap


def _rounds(found: Columns, detection: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each candidate pair the rank of its detection among those of its image and class that have candidates.

    `detection` is sorted; rows of `found` stand class by class and best score first.
    """
    rows, row_of = np.unique(detection, return_inverse=True)
    images, categories = found.images[rows], found.categories[rows]
    order = np.lexsort((images, categories))
    new = np.diff(images[order], prepend=-1) | np.diff(categories[order], prepend=-1)
    places = np.arange(len(rows))
    rank = np.empty(len(rows), np.int64)
    rank[order] = places - np.maximum.accumulate(np.where(new != 0, places, 0))
    return rank[row_of]
