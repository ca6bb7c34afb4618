"""Pictures for people who would rather look: what the network is fed, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import iou_matrix
from detkit.data.dataset import Sample
from detkit.detections import Detections
from detkit.draw import class_color, draw
from detkit.images import place, read_image, write_image
from detkit.opencv import load_cv2
from detkit.weights import ModelCard

Image = NDArray[np.uint8]
_COLUMNS = 4
SHEET_PHOTOS = 12
_ANCHOR_COLOR = (255, 255, 255)


def write_batch_sheet(
    path: Path,
    canvases: Image,
    truths: Sequence[Detections],
    class_names: Sequence[str],
    answering: Sequence[Detections] = (),
) -> None:
    """Write a batch as the network sees it, uint8 [B, S, S, 3], with its boxes; crowd boxes (not learnt) are dashed.

    Args:
        answering: per canvas, the anchors that answer for its boxes: their cells are drawn as dots, and for each box
            the anchor that fits best as a thin frame.
    """
    tiles = [draw(canvas, truth, class_names) for canvas, truth in zip(canvases, truths, strict=True)]
    for tile, truth, anchors in zip(tiles, truths, answering, strict=False):
        _draw_anchors(tile, truth, anchors)
    write_image(path, _sheet(tiles))


def _draw_anchors(picture: Image, truth: Detections, anchors: Detections) -> None:
    """The cells of all anchors and the frames of those that fit best, in place."""
    if not len(anchors) or not len(truth):
        return
    cv2 = load_cv2()
    corners = anchors.boxes_xyxy.round().astype(int)
    best = set(iou_matrix(truth.boxes_xyxy, anchors.boxes_xyxy).argmax(1).tolist())
    for row, ((x1, y1, x2, y2), label) in enumerate(zip(corners.tolist(), anchors.labels, strict=True)):
        if row in best:
            cv2.rectangle(picture, (x1, y1), (x2, y2), _ANCHOR_COLOR, 1)
        cv2.circle(picture, ((x1 + x2) // 2, (y1 + y2) // 2), 2, _ANCHOR_COLOR, -1)
        cv2.circle(picture, ((x1 + x2) // 2, (y1 + y2) // 2), 1, class_color(int(label)), -1)


def write_val_sheet(
    path: Path, samples: Sequence[Sample], found: Sequence[Detections], card: ModelCard, side_px: int
) -> None:
    """Write some photos of the val split with what the model finds on them."""
    tiles = []
    for sample, detections in zip(samples, found, strict=True):
        picture = draw(read_image(sample.image_path), detections, card.class_names)
        tiles.append(place(picture, (side_px, side_px), "letterbox")[0])
    if tiles:
        write_image(path, _sheet(tiles))


def _sheet(tiles: Sequence[Image]) -> Image:
    """Equal tiles in rows of four; the last row is filled with grey."""
    blank = np.full_like(tiles[0], 114)
    padded = [*tiles, *[blank] * (-len(tiles) % _COLUMNS)]
    rows = [np.hstack(padded[i : i + _COLUMNS]) for i in range(0, len(padded), _COLUMNS)]
    return np.vstack(rows)
