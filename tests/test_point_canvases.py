"""Canvases of detectors of points: boxes and points move together, and sides change places in a mirror."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the train extra")

from detkit.detections import Detections
from detkit.train.augment import AugmentSettings
from detkit.train.point_canvases import PointCanvases

PLAIN = {"hue_deg": 0.0, "saturation": 0.0, "brightness": 0.0, "contrast": 0.0}
POINTS = [[[12.0, 14.0, 2.0], [24.0, 18.0, 1.0], [20.0, 10.0, 0.0]]]  # on a box of 10, 8, 30, 24


class Photos:
    """One photo of 60 x 40 px: a white box on black."""

    def __init__(self, truth: Detections) -> None:
        self.dataset: Any = SimpleNamespace(point_names=("left", "right", "tip"))
        self.truth = truth

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Any, Detections]:
        image = np.zeros((40, 60, 3), np.uint8)
        image[8:24, 10:30] = 255
        return image, self.truth


def truth(boxes: list[list[float]], points: list[Any]) -> Detections:
    return Detections(
        (40, 60),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.zeros(len(boxes), np.int64),
        points_xyv=np.array(points, np.float32).reshape(-1, 3, 3),
    )


def canvases(settings: AugmentSettings, own: Detections) -> PointCanvases:
    return PointCanvases(Photos(own), settings, [(0, 1)], 0)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_points_keep_their_place_in_the_box_and_sides_swap_in_a_mirror(flip: float, seed: int) -> None:
    maker = canvases(AugmentSettings(zoom=(0.7, 1.0), flip=flip, **PLAIN), truth([[10, 8, 30, 24]], POINTS))
    canvas, found = maker.make(0, 96, np.random.default_rng(seed), closed=False)
    assert canvas.shape == (96, 96, 3)
    assert found.size_hw == (96, 96)
    x1, y1, x2, y2 = found.boxes_xyxy[0]
    assert (x2 - x1) / (y2 - y1) == pytest.approx(20 / 16)
    assert found.points_xyv is not None
    place = (found.points_xyv[0, :, :2] - [x1, y1]) / [x2 - x1, y2 - y1]
    left, right, tip = [0.1, 6 / 16], [0.7, 10 / 16], [0.5, 2 / 16]
    if flip:
        left, right = [1 - right[0], right[1]], [1 - left[0], left[1]]
    np.testing.assert_allclose(place, [left, right, tip], atol=1e-4)
    assert found.points_xyv[0, :, 2].tolist() == ([1, 2, 0] if flip else [2, 1, 0])
    middle = canvas[round(float(y1 + y2) / 2), round(float(x1 + x2) / 2)]
    assert (middle == 255).all()  # the pixels went where the box did
    outside = canvas[max(0, int(y1) - 3), max(0, int(x1) - 3)]
    assert (outside == 0).all()


def test_what_leaves_the_canvas_is_gone() -> None:
    boxes = [[10, 8, 30, 24], [50, 30, 60, 40]]
    maker = canvases(AugmentSettings(zoom=(4, 4), flip=0, **PLAIN), truth(boxes, POINTS + [[[55, 35, 2]] * 3]))
    counts = set()
    for seed in range(40):
        _, found = maker.make(0, 64, np.random.default_rng(seed), closed=True)
        counts.add(len(found))
        assert found.boxes_xyxy.min(initial=0) >= 0
        assert found.boxes_xyxy.max(initial=0) <= 64
        assert found.points_xyv is not None
        beyond = ((found.points_xyv[..., :2] < 0) | (found.points_xyv[..., :2] > 64)).any(-1)
        assert (found.points_xyv[beyond][:, 2] == 0).all()
    assert counts >= {0, 1}


def test_a_photo_without_objects() -> None:
    _, found = canvases(AugmentSettings(), truth([], [])).make(0, 32, np.random.default_rng(0), closed=False)
    assert len(found) == 0
    assert found.points_xyv is not None
    assert found.points_xyv.shape == (0, 3, 3)
