"""Canvases of several photos: mosaic, copy-paste and mixup."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detkit import boxes
from detkit.detections import Detections
from detkit.opencv import load_cv2
from detkit.train.augment import PAD_VALUE, AugmentSettings, Image, Photo, Window, place, replace_boxes, resize, visible

_COVERED = 0.3  # the most of a box that pasted objects may hide
_PLACES = 10  # tried for each object to paste
_SOFT_EDGE = 0.12  # width of the edge around a pasted object, as a share of its mean side
_SMALLEST_PX = 8  # side of an object worth pasting
_LARGEST = 0.6  # longest side of one, as a share of the canvas


def mosaic(photos: Sequence[Photo], side_px: int, rng: np.random.Generator, settings: AugmentSettings) -> Photo:
    """A square canvas of four photos around a random point of its middle. Bochkovskiy 2020, section 3.4."""
    x, y = (int(v) for v in rng.uniform(0.3 * side_px, 0.7 * side_px, 2))
    tiles = [(0, 0, x, y), (x, 0, side_px, y), (0, y, x, side_px), (x, y, side_px, side_px)]
    canvas = np.full((side_px, side_px, 3), PAD_VALUE, np.uint8)
    parts = []
    for photo, tile_xyxy in zip(photos, tiles, strict=True):
        (x1, y1, x2, y2), pixels, truth = place(photo, side_px, tile_xyxy, rng, settings)
        canvas[y1:y2, x1:x2] = pixels
        parts.append(truth)
    return canvas, concatenate(parts)


def mixup(canvas: Photo, other: Photo) -> Photo:
    """Two canvases of equal size blended half and half, with the boxes of both. Zhang 2018; Ge 2021 (YOLOX)."""
    image = load_cv2().addWeighted(canvas[0], 0.5, other[0], 0.5, 0)
    return np.asarray(image, np.uint8), concatenate([canvas[1], other[1]])


def copy_paste(canvas: Photo, sources: Sequence[Photo], rng: np.random.Generator, settings: AugmentSettings) -> Photo:
    """Paste one object of each source onto a canvas, with a soft edge, where boxes stay 70 % uncovered.

    What else the source shows there comes along with its boxes. After Ghiasi 2021, with boxes for want of masks.

    Args:
        canvas: a finished canvas.
        sources: photos; one without an object of a fitting size is left out.
        rng: the only source of chance.
    """
    image, truth = canvas[0].copy(), canvas[1]
    covered = np.zeros(len(truth))
    for photo in sources:
        cutting = _cut_object(photo, len(image), rng, settings)
        if cutting is None:
            continue
        pixels, weight, pasted = cutting
        window = _free_window(truth, covered, pixels.shape[:2], rng)
        if window is None:
            continue
        x1, y1, x2, y2 = window
        covered = covered + boxes.ioa_matrix(truth.boxes_xyxy, np.array([window]))[:, 0]
        blend = load_cv2().blendLinear(pixels, np.ascontiguousarray(image[y1:y2, x1:x2]), weight, 1 - weight)
        image[y1:y2, x1:x2] = blend
        moved = replace_boxes(pasted, boxes.shift(pasted.boxes_xyxy, (x1, y1)), truth.size_hw)
        truth, covered = concatenate([truth, moved]), np.concatenate([covered, np.zeros(len(moved))])
    return image, truth


def _cut_object(
    photo: Photo, side_px: int, rng: np.random.Generator, settings: AugmentSettings
) -> tuple[Image, np.ndarray, Detections] | None:
    """A random object of a photo at a random zoom: pixels, how opaque each is (float32 [h, w]), and its boxes."""
    image, truth = photo
    sides_px = truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]
    low, high = settings.zoom
    scale = side_px / max(image.shape[:2]) * low * (high / low) ** rng.random()
    fits = (sides_px.min(1, initial=np.inf) * min(scale, 1) >= _SMALLEST_PX) & (
        sides_px.max(1, initial=0) * scale <= _LARGEST * side_px
    )
    if truth.crowd is not None:
        fits &= ~truth.crowd
    rows = np.flatnonzero(fits)
    if not len(rows):
        return None
    box = truth.boxes_xyxy[rows[rng.integers(len(rows))]].astype(np.float64)
    edge_px = _SOFT_EDGE * (box[2:] - box[:2]).mean()
    x1, y1 = np.maximum(np.floor(box[:2] - edge_px), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(box[2:] + edge_px), (image.shape[1], image.shape[0])).astype(int)
    width, height = max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))
    step_x, step_y = width / (x2 - x1), height / (y2 - y1)
    moved = boxes.scale(boxes.shift(truth.boxes_xyxy, (-x1, -y1)), (step_x, step_y))
    shown = visible(replace_boxes(truth, moved, (height, width)), (0, 0, width, height), settings.min_visible)
    opaque_x = _ramp(width, (box[0] - x1) * step_x, (box[2] - x1) * step_x, edge_px * step_x)
    opaque_y = _ramp(height, (box[1] - y1) * step_y, (box[3] - y1) * step_y, edge_px * step_y)
    return resize(image[y1:y2, x1:x2], (width, height)), np.outer(opaque_y, opaque_x), shown


def _ramp(length: int, first: float, last: float, edge: float) -> np.ndarray:
    """Float32 [length]: 1 between `first` and `last`, falling to 0 over `edge` pixels on both sides."""
    centres = np.arange(length) + 0.5
    outside = np.maximum(np.maximum(first - centres, centres - last), 0)
    return np.clip(1 - outside / max(edge, 1e-6), 0, 1).astype(np.float32)


def _free_window(
    truth: Detections, covered: np.ndarray, size_hw: tuple[int, int], rng: np.random.Generator
) -> Window | None:
    """A random window of a size in which no box is covered by more than its share, or None."""
    room_hw = np.array(truth.size_hw) - size_hw
    if (room_hw < 0).any():
        return None
    corners_yx = np.floor(rng.random((_PLACES, 2)) * (room_hw + 1))  # [places, 2]
    windows = np.concatenate([corners_yx[:, ::-1], corners_yx[:, ::-1] + size_hw[::-1]], 1)
    hidden = covered[:, None] + boxes.ioa_matrix(truth.boxes_xyxy, windows)  # [N, places]
    free = np.flatnonzero((hidden <= _COVERED).all(0))
    if not len(free):
        return None
    x1, y1, x2, y2 = (int(v) for v in windows[free[0]])
    return x1, y1, x2, y2


def concatenate(parts: Sequence[Detections]) -> Detections:
    """The boxes of several truths on the same canvas."""
    crowd = [np.zeros(len(p), bool) if p.crowd is None else p.crowd for p in parts]
    return Detections(
        parts[0].size_hw,
        np.concatenate([p.boxes_xyxy for p in parts]),
        np.concatenate([p.labels for p in parts]),
        crowd=np.concatenate(crowd),
    )
