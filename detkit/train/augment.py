"""Augmentation: one labelled photo, or four as a mosaic, onto a training canvas.

Everything geometric here is a crop, a resize and a flip, so boxes stay tight and each photo is resampled once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.opencv import load_cv2

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
_PAD_VALUE = 114
_LUMA_RGB = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """How much the photos are varied; every part is switched off by 0 (or by an equal pair).

    mosaic: share of canvases made of four photos (Bochkovskiy 2020). close_mosaic: last share of the run without it.
    zoom: a photo's size on the canvas, as a factor of the size that just fits. stretch: largest change of its
    aspect ratio, as a factor - 1. flip: share mirrored left to right. hue_deg, saturation, brightness, contrast:
    largest change of colour. min_visible: a cut box stays while this share of it is in the picture.
    """

    mosaic: float = 0.6
    close_mosaic: float = 0.15
    zoom: tuple[float, float] = (0.7, 1.6)
    stretch: float = 0.15
    flip: float = 0.5
    hue_deg: float = 8.0
    saturation: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.25
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.zoom[0] <= self.zoom[1] <= 100:
            raise ValueError(f"augment.zoom is {list(self.zoom)}; expected two factors above 0, the smaller first")
        if not 0 <= self.stretch <= 10:
            raise ValueError(f"augment.stretch is {self.stretch}; expected 0 to 10")


def augment(
    photos: Sequence[tuple[Image, Detections]], canvas_side: int, rng: np.random.Generator, settings: AugmentSettings
) -> tuple[Image, Detections]:
    """One training canvas from one photo, or a mosaic from four.

    Args:
        photos: (uint8 RGB [H, W, 3], its truth), one or four of them.
        canvas_side: side of the square canvas in pixels.
        rng: the only source of chance.
    Returns:
        (uint8 [S, S, 3], the boxes still visible on it).
    """
    canvas = np.full((canvas_side, canvas_side, 3), _PAD_VALUE, np.uint8)
    parts = [
        _paste(canvas, image, truth, tile_xyxy, rng, settings)
        for (image, truth), tile_xyxy in zip(photos, _tiles(len(photos), canvas_side, rng), strict=True)
    ]
    truth = _concatenate(parts, canvas.shape[:2])
    if rng.random() < settings.flip:
        canvas, truth = flip_left_right(canvas, truth)
    return jitter_colours(canvas, rng, settings), truth


def _tiles(count: int, side: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """The whole canvas, or four tiles that meet at a random point of its middle half."""
    if count == 1:
        return [(0, 0, side, side)]
    x, y = (int(v) for v in rng.uniform(0.3 * side, 0.7 * side, 2))
    return [(0, 0, x, y), (x, 0, side, y), (0, y, x, side), (x, y, side, side)]


def _paste(
    canvas: Image,
    image: Image,
    truth: Detections,
    tile_xyxy: tuple[int, int, int, int],
    rng: np.random.Generator,
    settings: AugmentSettings,
) -> Detections:
    """Draw a randomly zoomed photo into a tile of the canvas, in place, and return its boxes on the canvas."""
    tile_xy = np.array(tile_xyxy[:2], np.float64)
    tile_wh = np.array(tile_xyxy[2:], np.float64) - tile_xy
    photo_wh = np.array([image.shape[1], image.shape[0]], np.float64)
    zoom = np.exp(rng.uniform(*np.log(settings.zoom)))
    aspect = np.exp(rng.uniform(-1, 1) * np.log1p(settings.stretch) / 2)
    scale_xy = zoom * len(canvas) / photo_wh.max() * np.array([aspect, 1 / aspect])
    if (tile_wh < len(canvas)).any():  # a mosaic tile is smaller: keep about as much of the photo in it
        scale_xy = scale_xy * np.sqrt(tile_wh.prod()) / len(canvas) * 1.4
    slack_wh = tile_wh - photo_wh * scale_xy  # above 0: room around the photo; below: it is cropped
    offset_xy = tile_xy + slack_wh * rng.random(2)
    low = np.maximum(offset_xy, tile_xy).round().astype(int)
    high = np.minimum(offset_xy + photo_wh * scale_xy, tile_xy + tile_wh).round().astype(int)
    if (high - low < 1).any():
        return Detections.empty((len(canvas), len(canvas)), scored=False)
    (x1, y1), (x2, y2) = low, high
    canvas[y1:y2, x1:x2] = _resample(image, (low - offset_xy) / scale_xy, scale_xy, (x2 - x1, y2 - y1))
    boxes = truth.boxes_xyxy * np.tile(scale_xy, 2) + np.tile(offset_xy, 2)
    return _visible(truth, boxes, (x1, y1, x2, y2), (len(canvas), len(canvas)), settings.min_visible)


def _resample(
    image: Image, corner_xy: NDArray[np.float64], scale_xy: NDArray[np.float64], size_wh: tuple[int, int]
) -> Image:
    """The part of a photo that starts at `corner_xy`, scaled, `size_wh` pixels large; averaged where it shrinks."""
    cv2 = load_cv2()
    if scale_xy.min() < 0.6:  # far smaller: average first, or thin things turn to noise
        factor = float(max(scale_xy.min(), 1e-3))
        size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
        shrunk_xy = np.array(size) / np.array([image.shape[1], image.shape[0]])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        corner_xy, scale_xy = corner_xy * shrunk_xy, scale_xy / shrunk_xy
    step_x, step_y = 1 / scale_xy
    # pixel centres: output u + 0.5 lies at input corner + (u + 0.5) * step
    matrix = np.array(
        [[step_x, 0, corner_xy[0] + step_x / 2 - 0.5], [0, step_y, corner_xy[1] + step_y / 2 - 0.5]], np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, size_wh, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _visible(
    truth: Detections,
    boxes_xyxy: Floats,
    window_xyxy: tuple[int, int, int, int],
    size_hw: tuple[int, int],
    min_visible: float,
) -> Detections:
    """Boxes clipped to a window; those of which too little is left become crowd, so that nothing is learnt there."""
    x1, y1, x2, y2 = window_xyxy
    clipped = np.clip(boxes_xyxy, [x1, y1, x1, y1], [x2, y2, x2, y2])
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)
    share = sides.prod(1) / np.maximum(whole, 1e-9)
    crowd = np.zeros(len(truth), bool) if truth.crowd is None else truth.crowd
    hardly = (share < min_visible) | (sides < 3).any(1)
    kept = (sides > 1).all(1)
    return Detections(size_hw, clipped[kept].astype(np.float32), truth.labels[kept], crowd=(crowd | hardly)[kept])


def _concatenate(parts: Sequence[Detections], size_hw: tuple[int, int]) -> Detections:
    crowd = [np.zeros(len(p), bool) if p.crowd is None else p.crowd for p in parts]
    return Detections(
        size_hw,
        np.concatenate([p.boxes_xyxy for p in parts]),
        np.concatenate([p.labels for p in parts]),
        crowd=np.concatenate(crowd),
    )


def flip_left_right(image: Image, truth: Detections) -> tuple[Image, Detections]:
    """The mirrored image and its boxes."""
    width = image.shape[1]
    x1, y1, x2, y2 = truth.boxes_xyxy.T
    boxes = np.stack([width - x2, y1, width - x1, y2], 1)
    return image[:, ::-1], Detections(truth.size_hw, boxes, truth.labels, crowd=truth.crowd)


def jitter_colours(image: Image, rng: np.random.Generator, settings: AugmentSettings) -> Image:
    """Change hue, saturation, brightness and contrast at random: one linear map of RGB, saturating at 0 and 255."""
    draw = rng.uniform(-1, 1, 4)
    angle = np.deg2rad(settings.hue_deg * draw[0])
    saturation = 1 + settings.saturation * draw[1]
    gain = (1 + settings.brightness * draw[2]) * (1 + settings.contrast * draw[3])
    pivot = 128 * -settings.contrast * draw[3]  # contrast turns about mid-grey
    grey = np.outer(np.ones(3), _LUMA_RGB)
    # rotation about the grey axis (Rodrigues), then a blend with the grey image
    axis = np.full(3, 3**-0.5)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    hue = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    matrix = gain * (saturation * np.eye(3) + (1 - saturation) * grey) @ hue
    mapped = load_cv2().transform(np.ascontiguousarray(image), np.column_stack([matrix, np.full(3, pivot)]))
    return np.asarray(mapped, np.uint8)
