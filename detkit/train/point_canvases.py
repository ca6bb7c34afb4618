"""Training canvases for detectors of points: whole photos, moved, scaled, mirrored and recoloured, points and all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.infer.crops import Matrix, cut, move_points, to_canvas_matrix
from detkit.train.augment import AugmentSettings, jitter_colours
from detkit.train.crops import Image, Photos

_LEAST_VISIBLE = 0.2  # share of a box's area that must lie on the canvas


class PointCanvases:
    """One canvas for each photo, never mixed with others: `mosaic`, `mixup` and `copy_paste` know no points.

    Args:
        photos: what they are made of. settings: of which zoom, flip and the colours are used.
        flip_pairs: indices of the points that change places in a mirror. pad_value: grey beside the photo.
    """

    def __init__(
        self, photos: Photos, settings: AugmentSettings, flip_pairs: Sequence[tuple[int, int]], pad_value: int = 114
    ) -> None:
        self.photos, self.settings, self.pad_value = photos, settings, pad_value
        self._mirrored = np.arange(len(photos.dataset.point_names))
        for a, b in flip_pairs:
            self._mirrored[[a, b]] = b, a

    def __len__(self) -> int:
        """Photos in the data set."""
        return len(self.photos)

    def make(self, index: int, side_px: int, rng: np.random.Generator, *, closed: bool) -> tuple[Image, Detections]:
        """One canvas uint8 [S, S, 3] and its boxes with points in canvas pixels; see `CanvasMaker.make`."""
        image, truth = self.photos[index]
        matrix, mirrored = self._matrix(truth.size_hw, side_px, rng)
        moved = _moved(truth, matrix, side_px)
        if mirrored and moved.points_xyv is not None:
            moved = Detections(
                moved.size_hw,
                moved.boxes_xyxy,
                moved.labels,
                points_xyv=moved.points_xyv[:, self._mirrored],
                crowd=moved.crowd,
            )
        return jitter_colours(cut(image, matrix, side_px, self.pad_value), rng, self.settings), moved

    def _matrix(self, image_hw: tuple[int, int], side_px: int, rng: np.random.Generator) -> tuple[Matrix, bool]:
        """A random square window about the photo, as the map from photo to canvas, and whether it is mirrored."""
        height, width = image_hw
        side = max(height, width) / rng.uniform(*self.settings.zoom)
        room_xy = np.abs(side - np.array([width, height])) / 2
        centre_xy = np.array([width, height]) / 2 + rng.uniform(-1, 1, 2) * room_xy
        mirrored = bool(rng.random() < self.settings.flip)
        return to_canvas_matrix((*centre_xy, side), side_px, mirrored=mirrored), mirrored


def _moved(truth: Detections, matrix: Matrix, side_px: int) -> Detections:
    """The objects on the canvas: boxes cut at its border, without those of which little is left; points beyond it go.

    Args:
        truth: on the photo. matrix: photo to canvas, without a turn.
    """
    corners = np.concatenate([truth.boxes_xyxy.reshape(-1, 2, 2), np.zeros((len(truth), 2, 1))], axis=2)
    ends = move_points(corners, matrix[None])[..., :2]  # [N, 2, 2]
    whole = np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1).reshape(-1, 4)
    shown = np.clip(whole, 0, side_px)
    kept = _area(shown) >= np.maximum(_LEAST_VISIBLE * _area(whole), 1.0)
    points = None
    if truth.points_xyv is not None:
        points = move_points(truth.points_xyv, matrix[None])
        points[..., 2] *= ((points[..., :2] >= 0) & (points[..., :2] <= side_px)).all(-1)
        points = points[kept]
    crowd = None if truth.crowd is None else truth.crowd[kept]
    return Detections((side_px, side_px), shown[kept], truth.labels[kept], points_xyv=points, crowd=crowd)


def _area(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1]))
