"""Training windows cut from labelled photos: on an object, beside one, anywhere, and where the network was wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import cxcywh_to_xyxy, iou_matrix
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.infer.crops import cut, to_canvas_matrix, windows_cxcys
from detkit.infer.pyramid import OVERHANG
from detkit.train.augment import AugmentSettings, jitter_colours
from detkit.train.crops import Photos

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

_LARGEST_BLUR = 2.0  # an object is not enlarged more than so to fill the window: it would teach blur
_TRIES = 40  # draws before the best window so far must do


@dataclass(frozen=True, slots=True)
class ExampleSettings:
    """Which windows a run learns from, and how they are varied.

    An object's own window is the square around its box with some room. What a window is depends on its IoU with these.
    margin: that room on each side, as a share of the box's longer side; the model card carries it on.
    positive_iou: from here on a window shows the object. negative_iou: below it, it shows background; what lies between
    is not learnt from.
    repeats: windows drawn on each object in an epoch. negatives: windows of background for each of them. near: share of
    these that lie on or around an object, too far off, too large or too small.
    mining_rounds: times in a run that the network slides over the training photos, evenly spread; what it takes for
    objects there are its hard negatives. mining_photos: at most so many photos each time. hard: share of the negatives
    drawn from them, once there are some.
    rotation_deg: largest turn. flip: share mirrored left to right.
    hue_deg, saturation, brightness, contrast: largest change of colour.
    """

    margin: float = 0.1
    positive_iou: float = 0.7
    negative_iou: float = 0.5
    repeats: int = 4
    negatives: int = 3
    near: float = 0.3
    mining_rounds: int = 2
    mining_photos: int = 500
    hard: float = 0.5
    rotation_deg: float = 8.0
    flip: float = 0.5
    hue_deg: float = 8.0
    saturation: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.25

    def __post_init__(self) -> None:
        limits = {"margin": 10, "near": 1, "hard": 1, "rotation_deg": 180, "flip": 1}
        limits |= {"hue_deg": 180, "saturation": 1, "brightness": 1, "contrast": 1, "mining_rounds": 20}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"examples.{name} is {getattr(self, name)}; expected 0 to {most}")
        for name in ("repeats", "negatives", "mining_photos"):
            if getattr(self, name) < 1:
                raise ValueError(f"examples.{name} is {getattr(self, name)}; expected at least 1")
        if not 0 < self.negative_iou <= self.positive_iou < 1:
            found = f"{self.negative_iou} and {self.positive_iou}"
            raise ValueError(f"examples.negative_iou and positive_iou are {found}; expected 0 < n <= p < 1")


class WindowCrops:
    """Canvases of one window each; their truth is the object's box, or nothing for background.

    Sample 2i is a window on object i, 2i + 1 one of background in photo i, and hard negative i is sample -1 - i.
    """

    def __init__(self, photos: Photos, settings: ExampleSettings, window_px: int, pad_value: int = 114) -> None:
        """Find the objects.

        Args:
            photos: the data set's photos, at their own size.
            window_px: side of the window.
        Raises:
            DataError: no object is large enough to learn from.
        """
        self.photos, self.settings, self.window_px, self.pad_value = photos, settings, window_px, pad_value
        self.objects = learnable_objects(photos.dataset, settings.margin, window_px)
        self.hard: Floats = np.zeros((0, 4))  # photo, centre x, centre y and side, of `mining_round` and those before
        self.mining_round: int | None = None  # not known yet
        s = settings
        self._colours = AugmentSettings(
            hue_deg=s.hue_deg, saturation=s.saturation, brightness=s.brightness, contrast=s.contrast
        )

    def __len__(self) -> int:
        """Windows of an epoch."""
        return len(self.objects) * self.settings.repeats * (1 + self.settings.negatives)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The samples of an epoch, drawn from the seed, the epoch and the hard negatives alone."""
        s, rng = self.settings, np.random.default_rng((seed, epoch))
        positives = np.repeat(np.arange(len(self.objects)), s.repeats)
        hard_count = round(len(positives) * s.negatives * s.hard) if len(self.hard) else 0
        hard = -1 - rng.integers(max(1, len(self.hard)), size=hard_count)
        photos = rng.integers(len(self.photos), size=len(positives) * s.negatives - hard_count)
        return np.asarray(rng.permutation(np.concatenate([2 * positives, 2 * photos + 1, hard])), np.int64)

    def make(self, index: int, side_px: int, rng: np.random.Generator, *, closed: bool) -> tuple[Image, Detections]:
        """One window uint8 [S, S, 3] and its truth; see the class for `index`. `closed` makes no difference."""
        if index < 0:
            photo, *window = self.hard[-1 - index]
            return self._canvas(int(photo), np.array(window), None, side_px, rng)
        if index % 2:
            return self._canvas(index // 2, self._background(index // 2, rng), None, side_px, rng)
        photo, row = self.objects[index // 2]
        truth = self.photos.dataset.samples[photo].truth[row]
        window = windows_cxcys(truth.boxes_xyxy, self.settings.margin)[0]
        return self._canvas(photo, self._on_object(window, rng), truth, side_px, rng)

    def _canvas(
        self, photo: int, window: Floats, truth: Detections | None, side_px: int, rng: np.random.Generator
    ) -> tuple[Image, Detections]:
        """A window's pixels, turned, mirrored and recoloured."""
        s = self.settings
        angle, mirrored = s.rotation_deg * rng.uniform(-1, 1), bool(rng.random() < s.flip)
        matrix = to_canvas_matrix(window, side_px, rotation_deg=angle, mirrored=mirrored)
        pixels = cut(self.photos[photo][0], matrix, side_px, self.pad_value)
        canvas = jitter_colours(pixels, rng, self._colours)
        if truth is None:
            return canvas, Detections.empty((side_px, side_px), scored=False)
        x1, y1, x2, y2 = truth.boxes_xyxy[0].astype(np.float64)
        centre = matrix[:, :2] @ [(x1 + x2) / 2, (y1 + y2) / 2] + matrix[:, 2]
        size = np.array([x2 - x1, y2 - y1]) * side_px / window[2]  # upright: the object turned, not its box
        boxes_xyxy = cxcywh_to_xyxy(np.concatenate([centre, size])[None])
        return canvas, Detections((side_px, side_px), boxes_xyxy, truth.labels)

    def _on_object(self, own: Floats, rng: np.random.Generator) -> Floats:
        """A window near an object's own that still shows it."""
        for _ in range(_TRIES):
            moved = _moved(own, rng, shift=0.25, scale=1.3)
            if _iou(moved[None], own[None])[0, 0] >= self.settings.positive_iou:
                return moved
        return own

    def _background(self, photo: int, rng: np.random.Generator) -> Floats:
        """A window of a photo that shows no object, or the least of one where that is hard to find."""
        truth = self.photos.dataset.samples[photo].truth
        own = windows_cxcys(truth.boxes_xyxy, self.settings.margin)
        near = len(own) > 0 and rng.random() < self.settings.near
        best, least = None, 2.0
        for _ in range(_TRIES):
            if near:
                drawn = _moved(own[rng.integers(len(own))], rng, shift=1.0, scale=4.0)
                drawn = _allowed(drawn, truth.size_hw, self.window_px)
            else:
                drawn = _anywhere(truth.size_hw, self.window_px, rng)
            overlap = overlap_with(drawn[None], truth, self.settings.margin)[0]
            if overlap < least:
                best, least = drawn, overlap
            if overlap < self.settings.negative_iou:
                break
        assert best is not None
        return best


def learnable_objects(dataset: Dataset, margin: float, window_px: int) -> list[tuple[int, int]]:
    """Photo and row of each box to learn from: no crowd, and not so small that the window would show a blur.

    Raises:
        DataError: there is none.
    """
    found = []
    for photo, sample in enumerate(dataset):
        windows = windows_cxcys(sample.truth.boxes_xyxy, margin)
        crowd = np.zeros(len(windows), np.bool_) if sample.truth.crowd is None else sample.truth.crowd
        rows = np.flatnonzero(~crowd & (windows[:, 2] * _LARGEST_BLUR >= window_px))
        found += [(photo, int(row)) for row in rows]
    if not found:
        least = f"one whose longer side has {window_px / _LARGEST_BLUR / (1 + 2 * margin):.0f} px or more"
        raise DataError("no labelled box is large enough for the window", file=dataset.source, expected=least)
    return found


def smallest_px(dataset: Dataset, margin: float, window_px: int) -> float:
    """Longer side, in pixels of the photos, above which 95 % of the objects to learn from lie."""
    objects = learnable_objects(dataset, margin, window_px)
    boxes = np.concatenate([dataset.samples[photo].truth.boxes_xyxy[row][None] for photo, row in objects])
    return round(float(np.quantile((boxes[:, 2:] - boxes[:, :2]).max(axis=1), 0.05)), 1)


def overlap_with(windows_cxcys_px: Floats, truth: Detections, margin: float) -> Floats:
    """The largest IoU of each window [N, 3] with the own window of an object of the photo; 1 within a crowd's box."""
    overlap = np.zeros(len(windows_cxcys_px))
    if len(truth):
        overlap = _iou(windows_cxcys_px, windows_cxcys(truth.boxes_xyxy, margin)).max(axis=1)
    if truth.crowd is not None and truth.crowd.any():
        x, y = windows_cxcys_px[:, 0, None], windows_cxcys_px[:, 1, None]
        x1, y1, x2, y2 = truth.boxes_xyxy[truth.crowd].T
        overlap[((x > x1) & (x < x2) & (y > y1) & (y < y2)).any(axis=1)] = 1.0
    return np.asarray(overlap)


def mean_shapes(dataset: Dataset, margin: float, window_px: int) -> tuple[tuple[float, float], ...]:
    """Per class the mean box as it lies in its own window, width and height in canvas pixels.

    A class without a box gets that of all.
    """
    shares = [np.zeros((0, 3))]
    for sample in dataset:
        boxes, own = sample.truth.boxes_xyxy, windows_cxcys(sample.truth.boxes_xyxy, margin)
        kept = np.ones(len(boxes), np.bool_) if sample.truth.crowd is None else ~sample.truth.crowd
        sizes = (boxes[:, 2:] - boxes[:, :2]) / own[:, 2:]
        shares.append(np.column_stack([sample.truth.labels, sizes])[kept])
    every = np.concatenate(shares)
    means = []
    for label in range(len(dataset.class_names)):
        own_rows = every[every[:, 0] == label]
        width, height = (own_rows if len(own_rows) else every)[:, 1:].mean(axis=0) * window_px
        means.append((round(float(width), 1), round(float(height), 1)))
    return tuple(means)


def _moved(window: Floats, rng: np.random.Generator, *, shift: float, scale: float) -> Floats:
    """A window moved by up to a share of its side, and scaled by up to a factor either way."""
    x, y, side = window
    draw = rng.uniform(-1, 1, 3)
    return np.array([x + shift * draw[0] * side, y + shift * draw[1] * side, side * scale ** draw[2]])


def _anywhere(size_hw: tuple[int, int], window_px: int, rng: np.random.Generator) -> Floats:
    """Any window the pyramid may look at, none smaller than on the photo itself."""
    height, width = size_hw
    largest = min(height, width) / (1 - 2 * OVERHANG)
    smallest = min(float(window_px), largest)
    side = smallest * (largest / smallest) ** rng.random()
    return _allowed(np.array([rng.uniform(0, width), rng.uniform(0, height), side]), size_hw, window_px)


def _allowed(window: Floats, size_hw: tuple[int, int], window_px: int) -> Floats:
    """The nearest window that is no blur, fits a level of the pyramid and leaves the photo by its overhang at most."""
    (x, y, side), (height, width) = window, size_hw
    largest = min(height, width) / (1 - 2 * OVERHANG)
    side = min(max(side, window_px / _LARGEST_BLUR), largest)
    room = side * (0.5 - OVERHANG)  # from the photo's border to the window's centre
    return np.array([np.clip(x, room, width - room), np.clip(y, room, height - room), side])


def _iou(a_cxcys: Floats, b_cxcys: Floats) -> Floats:
    """IoU of square windows [N, 3] and [M, 3]."""
    a, b = (cxcywh_to_xyxy(np.column_stack([windows, windows[:, 2]])) for windows in (a_cxcys, b_cxcys))
    return iou_matrix(a, b)
