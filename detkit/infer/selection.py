"""Which of a network's boxes become detections: thresholds, non-max suppression, and back to the photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.images import Placement
from detkit.nms import nms

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of a network's boxes become detections.

    Args:
        conf: a box scored below this is dropped.
        iou: of two boxes of a class that overlap more than this, the better stays.
        max_det: at most so many detections for a photo, the best.
        class_agnostic: boxes of different classes suppress each other too.
        max_candidates: at most so many (box, class) pairs enter non-max suppression, the best.
    """

    conf: float
    iou: float
    max_det: int = 100
    class_agnostic: bool = False
    max_candidates: int = 3000

    def __post_init__(self) -> None:
        for name in ("conf", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} of a prediction", found=getattr(self, name), expected="0 to 1")
        for name in ("max_det", "max_candidates"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} of a prediction", found=getattr(self, name), expected="1 or more")


def select(
    boxes_xyxy: Float32,
    scores_matrix: Float32,
    placement: Placement,
    selection: Selection,
    points_xyv: Float32 | None = None,
) -> Detections:
    """Turn what a network says of one canvas into detections on the photo; a box may win in several classes.

    Args:
        boxes_xyxy: [N, 4] in canvas pixels.
        scores_matrix: [N, K] in 0-1.
        placement: where the photo lies on the canvas.
        selection: thresholds and limits.
        points_xyv: [N, P, 3] in canvas pixels, or None.
    Returns:
        Detections in the photo's pixels, clipped to it, best first; boxes wholly outside it are gone.
    """
    rows, labels = np.nonzero(scores_matrix >= selection.conf)  # NaN is no score
    scores = scores_matrix[rows, labels]
    best = _best(scores, selection.max_candidates)
    best = best[np.isfinite(boxes_xyxy[rows[best]]).all(axis=1)]
    rows, labels, scores = rows[best], labels[best], scores[best]
    kept = nms(boxes_xyxy[rows], scores, None if selection.class_agnostic else labels, selection.iou)
    on_photo_xyxy = placement.to_image(boxes_xyxy[rows[kept]])
    has_area = (on_photo_xyxy[:, 2] > on_photo_xyxy[:, 0]) & (on_photo_xyxy[:, 3] > on_photo_xyxy[:, 1])
    chosen = np.flatnonzero(has_area)[: selection.max_det]
    kept = kept[chosen]
    points = None if points_xyv is None else placement.points_to_image(points_xyv[rows[kept]])
    return Detections(placement.image_hw, on_photo_xyxy[chosen], labels[kept], scores[kept], points)


def _best(scores: Float32, limit: int) -> NDArray[np.intp]:
    """Indices of the `limit` highest scores, in their order of appearance; among equals the earlier ones."""
    if len(scores) <= limit:
        return np.arange(len(scores))
    border = np.partition(scores, -limit)[-limit]
    above, level = np.flatnonzero(scores > border), np.flatnonzero(scores == border)
    return np.sort(np.concatenate([above, level[: limit - len(above)]]))
