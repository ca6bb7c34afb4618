"""Augmentation of one photo: how it lies on the canvas, and its colours.

A photo is cropped, resized and mirrored, so boxes stay tight; only rotation and shear loosen them. However much is
switched on, each photo is resampled once (and averaged first where it shrinks to less than half).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit import boxes
from detkit.detections import Detections
from detkit.opencv import load_cv2

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
Photo = tuple[Image, Detections]  # uint8 RGB [H, W, 3] and its truth
Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels

PAD_VALUE = 114
_LUMA_RGB = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_CROP_TRIES = 30
_CROP_OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9)  # SSD's thresholds


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """How much the photos are varied; every part is switched off by 0 (or by an equal pair).

    mosaic: share of canvases made of four photos (Bochkovskiy 2020). mixup: share blended half and half with another
    canvas (Zhang 2018). copy_paste: share onto which objects of other photos are pasted. close_mosaic: last share of
    the run without these three. iou_crop: share of the single photos cropped as SSD does (Liu 2016), which then fill
    the canvas. zoom: a photo's size on the canvas, as a factor of the size that just fits. stretch: largest change of
    its aspect ratio, as a factor - 1. rotation_deg, shear_deg: largest angles; they loosen the boxes, which become
    the hulls of the turned ones. flip: share mirrored left to right. hue_deg, saturation, brightness, contrast:
    largest change of colour. min_visible: a cut box stays while this share of it is in the picture.
    """

    mosaic: float = 0.6
    mixup: float = 0.0
    copy_paste: float = 0.0
    close_mosaic: float = 0.15
    iou_crop: float = 0.0
    zoom: tuple[float, float] = (0.7, 1.6)
    stretch: float = 0.15
    rotation_deg: float = 0.0
    shear_deg: float = 0.0
    flip: float = 0.5
    hue_deg: float = 8.0
    saturation: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.25
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.zoom[0] <= self.zoom[1] <= 100:
            raise ValueError(f"augment.zoom is {list(self.zoom)}; expected two factors above 0, the smaller first")
        highest = dict.fromkeys(("mosaic", "mixup", "copy_paste", "close_mosaic", "iou_crop", "flip"), 1.0)
        highest |= dict.fromkeys(("saturation", "brightness", "contrast", "min_visible"), 1.0)
        highest |= {"stretch": 10.0, "rotation_deg": 180.0, "shear_deg": 60.0, "hue_deg": 180.0}
        for name, high in highest.items():
            if not 0 <= (value := getattr(self, name)) <= high:
                raise ValueError(f"augment.{name} is {value}; expected 0 to {high:g}")


class Patch(NamedTuple):
    """A photo as it lies on a canvas: the window it fills, the pixels there, and its boxes on the canvas."""

    window_xyxy: Window
    pixels: Image
    truth: Detections


def place_alone(photo: Photo, side_px: int, rng: np.random.Generator, settings: AugmentSettings) -> Photo:
    """A square canvas of one photo, cropped or zoomed at random, grey where it does not reach."""
    fit = False
    if settings.iou_crop and rng.random() < settings.iou_crop:
        cropped = crop_by_overlap(photo, rng, settings.min_visible)
        photo, fit = cropped or photo, cropped is not None
    (x1, y1, x2, y2), pixels, truth = place(photo, side_px, (0, 0, side_px, side_px), rng, settings, fit=fit)
    canvas = np.full((side_px, side_px, 3), PAD_VALUE, np.uint8)
    canvas[y1:y2, x1:x2] = pixels
    return canvas, truth


def place(
    photo: Photo,
    side_px: int,
    tile_xyxy: Window,
    rng: np.random.Generator,
    settings: AugmentSettings,
    *,
    fit: bool = False,
) -> Patch:
    """Lay a photo into a tile of a canvas, at random size and place.

    Args:
        photo: boxes may reach beyond its border, where it was cropped.
        side_px: side of the canvas.
        tile_xyxy: what of the canvas the photo may fill.
        rng: the only source of chance.
        fit: leave the zoom out.
    """
    image, truth = photo
    height, width = image.shape[:2]
    chances = rng.random(4).tolist()
    scale_xy = _draw_scale(chances[:2], max(width, height), side_px, tile_xyxy, settings, fit)
    if settings.rotation_deg or settings.shear_deg:
        linear = _turn(rng, settings) * scale_xy
        return _place_turned(photo, side_px, tile_xyxy, linear, np.array(chances[2:]), settings.min_visible)
    x1, x2, left, right = _span(width, scale_xy[0], tile_xyxy[0], tile_xyxy[2], chances[2])
    y1, y2, top, bottom = _span(height, scale_xy[1], tile_xyxy[1], tile_xyxy[3], chances[3])
    pixels = resize(image[top:bottom, left:right], (x2 - x1, y2 - y1))
    # the map of what was really cut and resized, so rounding to whole pixels moves no box off its object
    step_x, step_y = (x2 - x1) / (right - left), (y2 - y1) / (bottom - top)
    on_canvas = truth.boxes_xyxy * np.array([step_x, step_y, step_x, step_y])
    on_canvas += np.array([x1 - left * step_x, y1 - top * step_y] * 2)
    window, size_hw = (x1, y1, x2, y2), (side_px, side_px)
    return Patch(window, pixels, visible(replace_boxes(truth, on_canvas, size_hw), window, settings.min_visible))


def _draw_scale(
    chances: list[float], longer_px: int, side_px: int, tile_xyxy: Window, settings: AugmentSettings, fit: bool
) -> tuple[float, float]:
    """Canvas pixels per photo pixel, along x and y."""
    low, high = settings.zoom
    scale = side_px / longer_px * (1.0 if fit else low * (high / low) ** chances[0])
    tile_area = (tile_xyxy[2] - tile_xyxy[0]) * (tile_xyxy[3] - tile_xyxy[1])
    if tile_area < side_px**2:  # a mosaic tile is smaller: keep about as much of the photo in it
        scale *= 1.4 * math.sqrt(tile_area) / side_px
    aspect = (1 + settings.stretch) ** (chances[1] - 0.5)
    return scale * aspect, scale / aspect


def _span(length: int, scale: float, low: int, high: int, chance: float) -> tuple[int, int, int, int]:
    """Along one axis: the whole pixels of the tile that a photo fills, and those of the photo that fill them.

    A photo longer than the tile is cropped, a shorter one has room around it; `chance` says where.
    """
    offset = low + (high - low - length * scale) * chance
    first = min(round(max(offset, low)), high - 1)
    last = max(round(min(offset + length * scale, high)), first + 1)
    source_first = min(max(round((first - offset) / scale), 0), length - 1)
    source_last = min(max(round((last - offset) / scale), source_first + 1), length)
    shrinks = (source_last - source_first) // (last - first)
    if shrinks >= 2:  # an even number of pixels is halved several times as fast
        source_last -= (source_last - source_first) % (2 if shrinks < 4 else 4)
    return first, last, source_first, source_last


def resize(image: Image, size_wh: tuple[int, int]) -> Image:
    """The image edge to edge in another size: bilinear, averaged first where it shrinks to less than half."""
    cv2, (width, height) = load_cv2(), size_wh
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR), np.uint8)


def _turn(rng: np.random.Generator, settings: AugmentSettings) -> Floats:
    """A random rotation after a random shear along x, [2, 2]."""
    angle, shear = np.deg2rad(rng.uniform(-1, 1, 2) * (settings.rotation_deg, settings.shear_deg))
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, math.tan(shear)], [0, 1]])


def _place_turned(
    photo: Photo, side_px: int, tile_xyxy: Window, linear: Floats, chances: Floats, min_visible: float
) -> Patch:
    """Lay a photo into a tile by a linear map [2, 2] and a shift that `chances` [2] choose."""
    cv2, (image, truth) = load_cv2(), photo
    height, width = image.shape[:2]
    tile_low, tile_high = np.array(tile_xyxy[:2]), np.array(tile_xyxy[2:])
    photo_xyxy = np.array([[0, 0, width, height]], np.float64)
    hull = _hulls(photo_xyxy, linear)[0]
    offset = tile_low + (tile_high - tile_low - hull[2:] + hull[:2]) * chances - hull[:2]
    low = np.minimum(np.maximum(hull[:2] + offset, tile_low).round().astype(int), tile_high - 1)
    high = np.maximum(np.minimum(hull[2:] + offset, tile_high).round().astype(int), low + 1)
    while min(image.shape[:2]) > 1 and abs(np.linalg.det(linear)) * width * height < image[..., 0].size / 4:
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    # pixel centres: output u + 0.5 lies at input inverse @ (u + 0.5 - offset)
    inverse = np.linalg.inv(linear * (width / image.shape[1], height / image.shape[0]))
    matrix = np.column_stack([inverse, inverse @ (low + 0.5 - offset) - 0.5])
    flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (PAD_VALUE,) * 3
    size_wh = (int(high[0] - low[0]), int(high[1] - low[1]))
    pixels = cv2.warpAffine(image, matrix, size_wh, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=border)
    window = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    inside = boxes.clip(truth.boxes_xyxy.astype(np.float64), (height, width))  # of a cropped photo's, what it shows
    turned = replace_boxes(truth, _hulls(inside, linear) + np.tile(offset, 2), (side_px, side_px))
    whole_px = boxes.area(_hulls(truth.boxes_xyxy, linear))
    shown = np.flatnonzero(boxes.area(inside))
    return Patch(window, pixels, visible(turned[shown], window, min_visible, whole_px[shown]))


def _hulls(boxes_xyxy: NDArray[np.floating], linear: Floats) -> Floats:
    """The upright boxes around boxes that a linear map [2, 2] has turned, [N, 4]."""
    corners = boxes_xyxy[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] @ linear.T  # [N, 4, 2]
    return np.concatenate([corners.min(1), corners.max(1)], 1)


def crop_by_overlap(photo: Photo, rng: np.random.Generator, min_visible: float) -> Photo | None:
    """A random crop whose IoU with a box reaches a threshold drawn from 0.1 to 0.9. Liu 2016 (SSD), section 2.2.

    Its sides are 0.3 to 1 of the photo's. Where no crop of a few reaches the threshold, another is drawn.

    Args:
        min_visible: share of that box to be seen in the crop.
    Returns:
        The crop, a view, and the boxes, which may reach beyond it; None where the photo has no object to keep.
    """
    image, truth = photo
    size_wh, corner = rng.uniform(0.3, 1, (_CROP_TRIES, 2)), rng.random((_CROP_TRIES, 2))
    photo_wh = np.array([image.shape[1], image.shape[0]])
    low = np.floor((1 - size_wh) * corner * photo_wh)
    high = np.minimum(low + np.maximum(np.rint(size_wh * photo_wh), 1), photo_wh)
    aspect = size_wh[:, 0] / size_wh[:, 1]
    crops = np.concatenate([low, high], 1)[(aspect > 0.5) & (aspect < 2)]
    own = truth.boxes_xyxy if truth.crowd is None else truth.boxes_xyxy[~truth.crowd]
    shown = boxes.ioa_matrix(own, crops) >= min_visible
    overlaps = (boxes.iou_matrix(own, crops) * shown).max(0, initial=0)  # [crops]
    for threshold in rng.permutation(_CROP_OVERLAPS):
        fitting = np.flatnonzero(overlaps >= threshold)
        if len(fitting):
            break
    else:
        return None
    x1, y1, x2, y2 = (int(v) for v in crops[fitting[0]])
    moved = replace_boxes(truth, boxes.shift(truth.boxes_xyxy, (-x1, -y1)), (y2 - y1, x2 - x1))
    return image[y1:y2, x1:x2], moved


def visible(truth: Detections, window_xyxy: Window, min_visible: float, whole_px: Floats | None = None) -> Detections:
    """Boxes cut to a window; those of which too little is left become crowd, so that nothing is learnt there.

    `whole_px` are the areas to compare with, where they are not those of the boxes.
    """
    low, high = np.array(window_xyxy[:2] * 2, np.float32), np.array(window_xyxy[2:] * 2, np.float32)
    whole_xyxy = truth.boxes_xyxy
    clipped = np.clip(whole_xyxy, low, high)
    sides = clipped[:, 2:] - clipped[:, :2]
    if whole_px is None:
        whole_px = (whole_xyxy[:, 2:] - whole_xyxy[:, :2]).prod(1)
    crowd = (sides.prod(1) < min_visible * whole_px) | (sides < 3).any(1)
    if truth.crowd is not None:
        crowd |= truth.crowd
    kept = (sides > 1).all(1)
    return Detections(truth.size_hw, clipped[kept], truth.labels[kept], crowd=crowd[kept])


def replace_boxes(truth: Detections, boxes_xyxy: NDArray[np.floating], size_hw: tuple[int, int]) -> Detections:
    """The same objects with other boxes, on another canvas."""
    return Detections(size_hw, boxes_xyxy.astype(np.float32), truth.labels, crowd=truth.crowd)


def vary(canvas: Photo, rng: np.random.Generator, settings: AugmentSettings) -> Photo:
    """A finished canvas mirrored at random, and its colours changed."""
    if rng.random() < settings.flip:
        canvas = flip_left_right(*canvas)
    return jitter_colours(canvas[0], rng, settings), canvas[1]


def flip_left_right(image: Image, truth: Detections) -> Photo:
    """The mirrored image and its boxes."""
    flipped = truth.boxes_xyxy[:, [2, 1, 0, 3]]
    flipped[:, [0, 2]] = image.shape[1] - flipped[:, [0, 2]]
    return np.asarray(load_cv2().flip(image, 1), np.uint8), replace(truth, boxes_xyxy=flipped)


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
