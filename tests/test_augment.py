"""Augmentation: boxes stay on what they label, whatever is done to the photo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from detkit.detections import Detections
from detkit.train.augment import AugmentSettings, augment, flip_left_right, jitter_colours

CALM = AugmentSettings(hue_deg=0, saturation=0, brightness=0, contrast=0)
STILL = replace(CALM, zoom=(1.0, 1.0), stretch=0, flip=0)


def _photo(size_hw: tuple[int, int], boxes: list[tuple[int, int, int, int]]) -> tuple[np.ndarray, Detections]:
    """Black, with a white rectangle where each box is."""
    image = np.zeros((*size_hw, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return image, Detections(size_hw, np.array(boxes, np.float32).reshape(-1, 4), np.zeros(len(boxes), np.int64))


def _white_box(canvas: np.ndarray) -> list[float]:
    rows, columns = np.nonzero(canvas[..., 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("size_hw", [(60, 100), (300, 170)])
def test_a_box_stays_on_its_object(seed: int, size_hw: tuple[int, int]) -> None:
    photo = _photo(size_hw, [(size_hw[1] // 3, size_hw[0] // 4, size_hw[1] // 3 + 30, size_hw[0] // 4 + 24)])
    canvas, truth = augment([photo], 128, np.random.default_rng(seed), replace(CALM, zoom=(0.4, 2.5)))
    assert canvas.shape == (128, 128, 3)
    if len(truth) == 1:
        assert truth.boxes_xyxy[0] == pytest.approx(_white_box(canvas), abs=1.6)
    else:
        assert (canvas[..., 0] > 200).sum() <= 128  # at most a sliver is left


@pytest.mark.parametrize("seed", range(30))
def test_mosaic_keeps_each_box_on_its_own_photo(seed: int) -> None:
    photos = [_photo((90, 120), [(40, 30, 80, 60)]) for _ in range(4)]
    only = seed % 4
    for index in range(4):
        if index != only:
            photos[index] = _photo((90, 120), [])
    canvas, truth = augment(photos, 160, np.random.default_rng(seed), CALM)
    if len(truth) == 1:
        assert truth.boxes_xyxy[0] == pytest.approx(_white_box(canvas), abs=1.6)
    assert len(truth) <= 1


def test_still_settings_letterbox_the_photo() -> None:
    photo = _photo((50, 100), [(20, 10, 60, 40)])
    canvas, truth = augment([photo], 200, np.random.default_rng(0), STILL)
    x1, y1, x2, y2 = truth.boxes_xyxy[0]
    assert (x1, x2) == pytest.approx((40, 120))
    assert y2 - y1 == pytest.approx(60)
    assert (canvas[0, 0] == 114).all() or (canvas[-1, 0] == 114).all()


def test_no_boxes_and_labels_and_crowds_come_through() -> None:
    canvas, truth = augment([_photo((64, 64), [])], 64, np.random.default_rng(0), STILL)
    assert canvas.shape == (64, 64, 3)
    assert len(truth) == 0
    image, boxes = _photo((64, 64), [(0, 0, 20, 20), (30, 30, 60, 60)])
    marked = Detections((64, 64), boxes.boxes_xyxy, np.array([3, 1]), crowd=np.array([True, False]))
    _, truth = augment([(image, marked)], 64, np.random.default_rng(0), STILL)
    assert truth.labels.tolist() == [3, 1]
    assert truth.crowd is not None
    assert truth.crowd.tolist() == [True, False]


def test_what_is_hardly_visible_teaches_nothing() -> None:
    photo = _photo((100, 100), [(0, 0, 100, 10)])
    seen = set()
    for seed in range(60):
        _, truth = augment([photo], 100, np.random.default_rng(seed), replace(STILL, zoom=(2.0, 2.0), min_visible=0.5))
        seen |= {bool(c) for c in truth.crowd}
    assert seen == {True}  # at zoom 2 at most half of the bar's width is in the picture


def test_flip_twice_is_nothing_and_once_is_mirrored() -> None:
    image, truth = _photo((40, 100), [(10, 5, 30, 25)])
    mirrored, flipped = flip_left_right(image, truth)
    assert flipped.boxes_xyxy.tolist() == [[70, 5, 90, 25]]
    assert _white_box(mirrored) == [70, 5, 90, 25]
    again, back = flip_left_right(mirrored, flipped)
    assert np.array_equal(again, image)
    assert back.boxes_xyxy.tolist() == truth.boxes_xyxy.tolist()


def test_colours_off_is_the_identity_and_grey_stays_grey() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(jitter_colours(noise, np.random.default_rng(1), CALM), noise)
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    turned = jitter_colours(grey, np.random.default_rng(1), replace(CALM, hue_deg=40, saturation=0.8))
    assert np.abs(turned.astype(int) - grey).max() <= 1
    changed = jitter_colours(noise, np.random.default_rng(1), AugmentSettings())
    assert np.abs(changed.astype(int) - noise).mean() > 2


def test_the_arguments_are_left_alone() -> None:
    photo = _photo((64, 80), [(5, 5, 40, 40)])
    before = photo[0].copy(), photo[1].boxes_xyxy.copy()
    augment([photo] * 4, 96, np.random.default_rng(3), AugmentSettings())
    assert np.array_equal(photo[0], before[0])
    assert np.array_equal(photo[1].boxes_xyxy, before[1])
