"""Training canvases for localizers: a photo of one object or none, moved, zoomed, mirrored and recoloured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.images import letterbox
from detkit.train.augment import PAD_VALUE, AugmentSettings, Photo, place_alone, vary
from detkit.train.crops import Photos

Image = NDArray[np.uint8]
Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels

_TRIES = 5
_LEAST_SHARE = 0.2  # a window beside the object is at least so wide and high, as a share of the photo's longer side
_LONGEST = 2.0  # and at most so many times as long as wide


@dataclass(frozen=True, slots=True)
class LocalizeCanvasSettings:
    """How a photo of one object or none becomes a training canvas; a change is switched off by 0 (or by an equal pair).

    empty: least share of the canvases that show no object. Where fewer photos have none, windows beside the objects of
    others make up for them.
    zoom: a photo's size on the canvas, as a factor of the size that just fits. stretch: largest change of its aspect
    ratio, as a factor - 1. min_visible: share of the object that stays in the picture. flip: share mirrored left to
    right. hue_deg, saturation, brightness, contrast: largest change of colour.
    """

    empty: float = 0.15
    zoom: tuple[float, float] = (0.8, 1.6)
    stretch: float = 0.3
    min_visible: float = 0.5
    flip: float = 0.5
    hue_deg: float = 8.0
    saturation: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.zoom[0] <= self.zoom[1] <= 100:
            raise ValueError(
                f"localize_canvas.zoom is {list(self.zoom)}; expected two factors above 0, the smaller first"
            )
        if not 0 <= self.empty < 1:
            raise ValueError(f"localize_canvas.empty is {self.empty}; expected 0 to 1, below 1")
        limits = {"stretch": 10, "min_visible": 1, "flip": 1, "hue_deg": 180}
        limits |= {"saturation": 1, "brightness": 1, "contrast": 1}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"localize_canvas.{name} is {getattr(self, name)}; expected 0 to {most}")


class LocalizeCanvases:
    """Canvases of one object or none.

    Args:
        photos: with one box or none each.
        settings: how they are varied.
    """

    def __init__(self, photos: Photos, settings: LocalizeCanvasSettings) -> None:
        self.photos = photos
        s = settings
        self._vary = AugmentSettings(
            zoom=s.zoom,
            stretch=s.stretch,
            min_visible=s.min_visible,
            flip=s.flip,
            hue_deg=s.hue_deg,
            saturation=s.saturation,
            brightness=s.brightness,
            contrast=s.contrast,
        )
        truths = [sample.truth for sample in photos.dataset]
        self._roomy = [i for i, truth in enumerate(truths) if len(truth) and windows_beside(truth)]
        self._cut_share = cut_share(truths, settings.empty) if self._roomy else 0.0

    def __len__(self) -> int:
        """Photos."""
        return len(self.photos)

    def make(self, index: int, side_px: int, rng: np.random.Generator, *, closed: bool) -> Photo:
        """One canvas uint8 [S, S, 3] and its box, or none, in canvas pixels.

        Args:
            index: which photo; a window beside an object may be another's. rng: the only source of chance.
            closed: no difference here, photos are never mixed.
        """
        photo = self.photos[index]
        if len(photo[1]) and rng.random() < self._cut_share:
            photo = self._window(rng)
        image, truth = vary(self._placed(photo, side_px, rng), rng, self._vary)
        return image, Detections(truth.size_hw, truth.boxes_xyxy, truth.labels)

    def _window(self, rng: np.random.Generator) -> Photo:
        """A part of a photo that holds no part of its object."""
        image, truth = self.photos[self._roomy[rng.integers(len(self._roomy))]]
        strips = windows_beside(truth)
        if not strips:  # rounding: the photo is smaller in the cache
            return image, truth
        x1, y1, x2, y2 = _shortened(strips[rng.integers(len(strips))], rng)
        return image[y1:y2, x1:x2], Detections.empty((y2 - y1, x2 - x1), scored=False)

    def _placed(self, photo: Photo, side_px: int, rng: np.random.Generator) -> Photo:
        """A photo at random size and place, with enough of its object in the picture."""
        for _ in range(_TRIES):
            canvas, truth = place_alone(photo, side_px, rng, self._vary)
            if len(truth) == len(photo[1]) and not (truth.crowd is not None and truth.crowd.any()):
                return canvas, truth
        canvas, at = letterbox(photo[0], (side_px, side_px), PAD_VALUE)
        return canvas, Detections((side_px, side_px), at.to_canvas(photo[1].boxes_xyxy), photo[1].labels)


def cut_share(truths: Sequence[Detections], empty: float) -> float:
    """The share of the photos with an object to be replaced by a window without, so that `empty` of all have none."""
    have_none = sum(len(truth) == 0 for truth in truths) / len(truths)
    return max(0.0, (empty - have_none) / (1 - have_none)) if have_none < 1 else 0.0


def windows_beside(truth: Detections) -> list[Window]:
    """The strips left of, right of, above and below the one box of a photo that are wide enough to be a picture."""
    height, width = truth.size_hw
    x1, y1, x2, y2 = truth.boxes_xyxy[0].tolist()
    strips = (
        (0, 0, math.floor(x1), height),
        (math.ceil(x2), 0, width, height),
        (0, 0, width, math.floor(y1)),
        (0, math.ceil(y2), width, height),
    )
    least = _LEAST_SHARE * max(height, width)
    return [strip for strip in strips if min(strip[2] - strip[0], strip[3] - strip[1]) >= least]


def _shortened(strip: Window, rng: np.random.Generator) -> Window:
    """A part of a strip, at a random place, at most twice as long as wide."""
    x1, y1, x2, y2 = strip
    longest = int(_LONGEST * min(x2 - x1, y2 - y1))
    if x2 - x1 > longest:
        x1 += int(rng.integers(x2 - x1 - longest + 1))
        return x1, y1, x1 + longest, y2
    if y2 - y1 > longest:
        y1 += int(rng.integers(y2 - y1 - longest + 1))
        return x1, y1, x2, y1 + longest
    return strip
