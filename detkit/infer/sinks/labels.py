"""Predictions as the labels they are written as: what COCO, YOLO, VOC and CSV files share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detkit.detections import Detections
from detkit.infer.records import Record, detections_of

_VISIBLE, _HIDDEN, _ABSENT = 2, 1, 0


def boxes_with_area(record: Record) -> list[dict[str, Any]]:
    """The detections of a record that label formats can carry: a box thinner than 1/1000 pixel is none there."""
    return [one for one in record["detections"] if _has_area(*one["box_xyxy"])]


def _has_area(x1: float, y1: float, x2: float, y2: float) -> bool:
    return x2 > x1 and y2 > y1


def visibility(probability: float) -> int:
    """COCO's flag of a predicted point: 2 where it is likely seen, 1 where it is likely hidden, 0 where it is none."""
    return _ABSENT if probability <= 0 else _VISIBLE if probability > 0.5 else _HIDDEN


def as_labels(record: Record, point_names: Sequence[str] = ()) -> Detections:
    """The boxes of a "photo" or "frame" record, their points with COCO's flags for visibility."""
    found = detections_of({**record, "detections": boxes_with_area(record)}, point_names)
    if found.points_xyv is None:
        return found
    points_xyv = found.points_xyv.copy()
    points_xyv[:, :, 2] = np.vectorize(visibility, otypes=[np.float32])(points_xyv[:, :, 2])
    return replace(found, points_xyv=points_xyv)
