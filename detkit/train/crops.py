"""Training crops for models of points: one labelled box a canvas, moved, turned, scaled, mirrored and recoloured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.data.keypoints import labelled_boxes, mirrored_pairs
from detkit.detections import Detections
from detkit.evaluate.landmarks import mean_shape
from detkit.infer.crops import Matrix, cut, move_points, to_canvas_matrix, windows_cxcys
from detkit.train.augment import AugmentSettings, jitter_colours

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CropSettings:
    """How a box becomes a training canvas; every change but `margin` is switched off by 0.

    margin: room on each side of the box, as a share of its longer side; the model card carries it on.
    shift: largest move of the window, as a share of its side. scale: largest change of its side, as a factor - 1.
    rotation_deg: largest turn. flip: share mirrored left to right.
    hue_deg, saturation, brightness, contrast: largest change of colour.
    """

    margin: float = 0.1
    shift: float = 0.08
    scale: float = 0.2
    rotation_deg: float = 20.0
    flip: float = 0.5
    hue_deg: float = 8.0
    saturation: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.25

    def __post_init__(self) -> None:
        limits = {"margin": 10, "shift": 1, "scale": 10, "rotation_deg": 180, "flip": 1}
        limits |= {"hue_deg": 180, "saturation": 1, "brightness": 1, "contrast": 1}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"crop.{name} is {getattr(self, name)}; expected 0 to {most}")


class Photos(Protocol):
    """Decoded photos with their labels, such as `loader.PhotoCache`."""

    dataset: Dataset

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image, Detections]: ...


class BoxCrops:
    """Canvases of one labelled box each, for every box with at least one labelled point; crowds are left out."""

    def __init__(
        self, photos: Photos, settings: CropSettings, flip_pairs: Sequence[tuple[int, int]], pad_value: int = 114
    ) -> None:
        """Find the boxes.

        Args:
            photos: the data set's photos. settings: how much the crops are varied.
            flip_pairs: indices of the points that change places in a mirror.
        Raises:
            DataError: no box has a labelled point.
        """
        self.photos, self.settings, self.pad_value = photos, settings, pad_value
        self.boxes = labelled_boxes(photos.dataset)
        self._mirrored = np.arange(len(photos.dataset.point_names))
        for a, b in flip_pairs:
            self._mirrored[[a, b]] = b, a
        s = settings
        self._colours = AugmentSettings(
            hue_deg=s.hue_deg, saturation=s.saturation, brightness=s.brightness, contrast=s.contrast
        )

    def __len__(self) -> int:
        """Boxes with points."""
        return len(self.boxes)

    def make(self, index: int, side_px: int, rng: np.random.Generator, *, closed: bool) -> tuple[Image, Detections]:
        """One canvas uint8 [S, S, 3] and its box with points in canvas pixels; the photo is resampled once.

        Args:
            index: which box. rng: the only source of chance.
            closed: no difference here, a crop is never mixed with others.
        """
        photo, row = self.boxes[index]
        image, truth = self.photos[photo]
        own = truth[row]
        assert own.points_xyv is not None
        matrix, mirrored = self._matrix(own, side_px, rng)
        points = move_points(own.points_xyv, matrix[None])
        if mirrored:
            points = points[:, self._mirrored]
        points[..., 2] *= ((points[..., :2] >= 0) & (points[..., :2] <= side_px)).all(-1)
        canvas = jitter_colours(cut(image, matrix, side_px, self.pad_value), rng, self._colours)
        return canvas, Detections((side_px, side_px), _hull(own.boxes_xyxy, matrix), own.labels, points_xyv=points)

    def _matrix(self, own: Detections, side_px: int, rng: np.random.Generator) -> tuple[Matrix, bool]:
        """A random window around the box, as the map from photo to canvas, and whether it is mirrored."""
        s, draw = self.settings, rng.uniform(-1, 1, 4)
        x, y, side = windows_cxcys(own.boxes_xyxy, s.margin)[0]
        window = x + s.shift * draw[0] * side, y + s.shift * draw[1] * side, side * (1 + s.scale) ** draw[2]
        mirrored = bool(rng.random() < s.flip)
        return to_canvas_matrix(window, side_px, rotation_deg=s.rotation_deg * draw[3], mirrored=mirrored), mirrored


def card_fields(dataset: Dataset, settings: CropSettings) -> dict[str, Any]:
    """What the card of a model of points says of them, as arguments of `ModelCard`.

    Raises:
        DataError: no labelled points, or photos to be mirrored and a point with a side that has no counterpart.
    """
    labelled_boxes(dataset)
    return {
        "point_names": dataset.point_names,
        "flip_pairs": mirrored_pairs(dataset) if settings.flip else (),
        "point_edges": dataset.point_edges,
        "crop_margin": settings.margin,
        "thresholds": {"conf": 0.0, "iou": 1.0},  # the one box of a photo always stays
    }


def listed_shape(dataset: Dataset) -> list[list[float | None]]:
    """The mean shape [P, 2] for a card's `training["mean_shape"]`; a point that is never labelled is null."""
    return [[None if np.isnan(v) else round(v, 5) for v in point] for point in mean_shape(dataset).tolist()]


def _hull(boxes_xyxy: NDArray[np.float32], matrix: Matrix) -> NDArray[np.float32]:
    """The boxes around one turned box [1, 4], in canvas pixels."""
    x1, y1, x2, y2 = boxes_xyxy[0]
    corners = move_points([[x1, y1, 0], [x2, y1, 0], [x1, y2, 0], [x2, y2, 0]], matrix)[:, :2]
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])[None]
