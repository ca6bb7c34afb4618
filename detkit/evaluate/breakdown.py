"""Which objects are found: recall by size and by shape, with the boxes as shown and with all there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.evaluate.coco import COCO_SIZES, UNDEFINED
from detkit.evaluate.overlaps import Conf, Overlaps, owners, thresholds

FOUND_IOU = 0.5
SIDES_PX = (0, 8, 16, 32, 48, 64, 96, 128, 192, 256, math.inf)  # finer than COCO's, which end at 32 and 96
ASPECTS = (0, 1 / 4, 1 / 2, 4 / 5, 5 / 4, 2, 4, math.inf)  # width by height
ASPECT_NAMES = ("very tall", "tall", "rather tall", "about square", "rather wide", "wide", "very wide")


@dataclass(frozen=True, slots=True)
class RecallBin:
    """Objects of one size or shape: how many there are and what share of them is found.

    Args:
        name: for people.
        low, high: the side in pixels (root of the area) or width by height, low <= value < high; None is no limit.
        truths: objects.
        found: of them, by boxes at or above the working threshold; `found_at_floor` by any box.
        recall, recall_at_floor: the shares; -1 without objects.
    """

    name: str
    low: float
    high: float | None
    truths: int
    found: int
    found_at_floor: int
    recall: float
    recall_at_floor: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Recall at IoU 0.5 by COCO's three sizes, by finer sizes and by aspect, of all classes together."""

    coco_sizes: tuple[RecallBin, ...]
    sizes: tuple[RecallBin, ...]
    aspects: tuple[RecallBin, ...]
    conf: tuple[float, ...]
    iou: float

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self)


def recall_breakdown(table: Overlaps, *, conf: Conf) -> Breakdown:
    """Recall by size and aspect; crowds are not asked for.

    Size is the root of the area that the label file gives (COCO's), else of the box; COCO counts an object of just
    32 x 32 px as small and as medium, here it is medium.

    Args:
        table: from `find_overlaps`.
        conf: the working threshold, one for all classes or one for each.
    """
    asked = table.counts
    found = [_found(table, rows)[asked] for rows in (table.shown(conf), None)]
    sides = np.sqrt(np.maximum(table.truths.areas_px[asked], 0))
    width, height = table.truths.boxes_xywh[asked, 2:].T
    aspects = width / np.where(height > 0, height, 1e-9)
    coco = [*(low for low, _ in COCO_SIZES.values()), math.inf]
    return Breakdown(
        coco_sizes=_bins(sides, coco, list(COCO_SIZES), *found),
        sizes=_bins(sides, SIDES_PX, [_span(*ends) for ends in pairwise(SIDES_PX)], *found),
        aspects=_bins(aspects, ASPECTS, ASPECT_NAMES, *found),
        conf=tuple(thresholds(conf, table.class_count).tolist()),
        iou=FOUND_IOU,
    )


def _found(table: Overlaps, shown: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    owner = owners(table, FOUND_IOU, shown=shown)
    found = np.zeros(len(table.counts), np.bool_)
    found[owner[owner >= 0]] = True
    return found


def _bins(
    values: NDArray[np.float64],
    edges: Sequence[float],
    names: Sequence[str],
    found: NDArray[np.bool_],
    at_floor: NDArray[np.bool_],
) -> tuple[RecallBin, ...]:
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(names) - 1)
    counts = [np.bincount(place[rows], minlength=len(names)).tolist() for rows in (slice(None), found, at_floor)]
    result = []
    for name, low, high, *row in zip(names, edges, edges[1:], *counts, strict=False):
        shares = [part / row[0] if row[0] else UNDEFINED for part in row[1:]]
        result.append(RecallBin(name, float(low), None if math.isinf(high) else float(high), *row, *shares))
    return tuple(result)


def _span(low: float, high: float) -> str:
    return f"{low:g}+" if math.isinf(high) else f"{low:g}-{high:g}"
