"""Where labelled boxes lie once their photos are fitted to a model's square canvas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import xyxy_to_cxcywh
from detkit.data.dataset import Dataset


def boxes_on_canvas(dataset: Dataset, size_px: int) -> list[NDArray[np.float64]]:
    """The boxes of each photo on a letterbox canvas; crowd boxes, which no model is trained on, are left out.

    Args:
        dataset: the labelled photos; their pixels are not read.
        size_px: side of the canvas.
    Returns:
        Per photo float64 [N, 4], cxcywh in canvas pixels.
    """
    placed = []
    for sample in dataset:
        truth = sample.truth
        kept_xyxy = truth.boxes_xyxy if truth.crowd is None else truth.boxes_xyxy[~truth.crowd]
        sides_px = np.array(truth.size_hw[::-1], np.float64)
        scale = size_px / sides_px.max()
        margin_xy = (size_px - sides_px * scale) / 2
        on_canvas_xyxy = kept_xyxy.astype(np.float64) * scale + np.tile(margin_xy, 2)
        placed.append(np.asarray(xyxy_to_cxcywh(on_canvas_xyxy), np.float64))
    return placed
