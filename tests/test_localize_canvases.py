"""Training canvases for localizers: the box stays on its object, what is cut off is not in it, empty means empty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.train.localize_canvases import (
    LocalizeCanvases,
    LocalizeCanvasSettings,
    cut_share,
    windows_beside,
)

DULL = LocalizeCanvasSettings(empty=0, hue_deg=0, saturation=0, brightness=0, contrast=0)
STILL = replace(DULL, zoom=(1, 1), stretch=0, flip=0)
RED = (255, 0, 0)


class Memory:
    """Photos of one red box, or none, on blue."""

    def __init__(self, *photos: tuple[tuple[int, int], tuple[int, ...] | None]) -> None:
        self.photos = [self._photo(size_hw, box) for size_hw, box in photos]
        samples = [Sample(f"{k}.png", Path(f"{k}.png"), truth, k) for k, (_, truth) in enumerate(self.photos, start=1)]
        self.dataset = Dataset("red", ("red", "other"), tuple(samples), Path("red"), "coco", "train", (1, 2))

    @staticmethod
    def _photo(size_hw: tuple[int, int], box: tuple[int, ...] | None) -> tuple[np.ndarray, Detections]:
        image = np.full((*size_hw, 3), (0, 0, 255), np.uint8)
        if box is None:
            return image, Detections.empty(size_hw, scored=False)
        x1, y1, x2, y2 = box
        image[y1:y2, x1:x2] = RED
        return image, Detections(size_hw, [box], [1])

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Detections]:
        return self.photos[index]


def make(photos: Memory, how: LocalizeCanvasSettings, seed: int = 0, index: int = 0) -> tuple[np.ndarray, Detections]:
    return LocalizeCanvases(photos, how).make(index, 96, np.random.default_rng(seed), closed=False)


def red_box(canvas: np.ndarray) -> np.ndarray:
    """Where more than half of a pixel is red."""
    ys, xs = np.nonzero(canvas[..., 0] > canvas[..., 2])
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def test_without_change_it_is_the_letterbox() -> None:
    canvas, truth = make(Memory(((60, 120), (30, 12, 75, 42))), STILL)
    assert canvas.shape == (96, 96, 3)
    # 0.8 times as large; where the photo lies on the canvas is drawn
    wide, high = truth.boxes_xyxy[0, 2:] - truth.boxes_xyxy[0, :2]
    assert (wide, high) == pytest.approx((36, 24))
    np.testing.assert_allclose(red_box(canvas), truth.boxes_xyxy[0], atol=1)
    assert truth.labels.tolist() == [1]
    assert truth.crowd is None


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([(0, 0, 40, 30), (70, 35, 119, 69), (5, 5, 115, 65), (50, 30, 58, 38)]))
def test_the_box_is_what_is_seen_of_the_object(seed: int, box: tuple[int, ...]) -> None:
    how = replace(DULL, zoom=(0.5, 3), stretch=0.5, flip=0.5)
    canvas, truth = make(Memory(((70, 120), box)), how, seed)
    assert len(truth) == 1
    np.testing.assert_allclose(red_box(canvas), truth.boxes_xyxy[0], atol=1.6)
    assert (truth.boxes_xyxy >= 0).all()
    assert (truth.boxes_xyxy <= 96).all()


def test_enough_of_the_object_stays() -> None:
    """At four times the size the canvas shows a quarter of the photo; the object is in it all the same."""
    photos, how = Memory(((100, 100), (10, 10, 30, 30))), replace(DULL, zoom=(4, 4), min_visible=0.5)
    for seed in range(20):
        truth = make(photos, how, seed)[1]
        whole = (20 * 0.96 * 4) ** 2
        letterboxed = (20 * 0.96) ** 2  # where no try of a few shows enough of it
        area = float((truth.boxes_xyxy[0, 2:] - truth.boxes_xyxy[0, :2]).prod())
        assert area >= 0.45 * whole or area == pytest.approx(letterboxed, rel=0.05)


def test_a_mirrored_photo_has_a_mirrored_box() -> None:
    photos = Memory(((96, 96), (10, 20, 30, 50)))
    assert make(photos, replace(STILL, flip=1))[1].boxes_xyxy[0].tolist() == [66, 20, 86, 50]
    assert make(photos, STILL)[1].boxes_xyxy[0].tolist() == [10, 20, 30, 50]


def test_an_empty_photo_stays_empty() -> None:
    canvas, truth = make(Memory(((50, 80), None)), LocalizeCanvasSettings())
    assert canvas.shape == (96, 96, 3)
    assert len(truth) == 0
    assert truth.scores is None


def test_windows_beside_an_object_by_hand() -> None:
    truth = Detections((100, 200), [[50.2, 30, 120.7, 45]], [0])
    # left, right and below; above there are 30 px of the 200, less than a fifth
    assert windows_beside(truth) == [(0, 0, 50, 100), (121, 0, 200, 100), (0, 45, 200, 100)]
    assert windows_beside(Detections((100, 200), [[20, 20, 180, 90]], [0])) == []


def test_the_share_of_windows_fills_up_what_empty_photos_lack() -> None:
    has, none = Detections((9, 9), [[0, 0, 1, 1]], [0]), Detections.empty((9, 9), scored=False)
    assert cut_share([has] * 10, 0.2) == pytest.approx(0.2)
    assert cut_share([has] * 9 + [none], 0.28) == pytest.approx(0.2)  # 0.1 and a fifth of the other 0.9
    assert cut_share([has] * 5 + [none] * 5, 0.2) == 0
    assert cut_share([none], 0.2) == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_a_window_beside_an_object_holds_no_part_of_it(seed: int) -> None:
    photos = Memory(((120, 160), (50, 40, 90, 80)), ((60, 60), (2, 2, 58, 58)))
    canvases = LocalizeCanvases(photos, replace(DULL, empty=0.9))
    rng = np.random.default_rng(seed)
    made = [canvases.make(index, 64, rng, closed=False) for index in (0, 1) for _ in range(10)]
    assert sum(len(truth) == 0 for _, truth in made) >= 10
    for canvas, truth in made:
        assert (canvas[..., 0] > canvas[..., 2]).any() == (len(truth) == 1)


def test_photos_without_room_beside_the_object_are_left_whole() -> None:
    photos = Memory(((60, 60), (2, 2, 58, 58)))
    assert all(len(make(photos, replace(DULL, empty=0.9), seed)[1]) == 1 for seed in range(10))


def test_the_generator_alone_decides() -> None:
    photos = Memory(((120, 160), (50, 40, 90, 80)))
    (a, one), (b, two) = make(photos, LocalizeCanvasSettings(), 7), make(photos, LocalizeCanvasSettings(), 7)
    np.testing.assert_array_equal(a, b)
    assert one == two


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"empty": 1.0}, "empty is 1.0; expected 0 to 1, below 1"),
        ({"zoom": (2.0, 1.0)}, "the smaller first"),
        ({"min_visible": 1.5}, "min_visible is 1.5; expected 0 to 1"),
        ({"flip": -0.1}, "flip is -0.1"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LocalizeCanvasSettings(**changes)
