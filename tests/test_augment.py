"""Augmentation: boxes stay on what they label, whatever is done to the photo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from detkit import boxes
from detkit.detections import Detections
from detkit.train.augment import (
    PAD_VALUE,
    AugmentSettings,
    Photo,
    _place_turned,
    crop_by_overlap,
    flip_left_right,
    jitter_colours,
    place_alone,
    resize,
    vary,
)

CALM = AugmentSettings(hue_deg=0, saturation=0, brightness=0, contrast=0)
STILL = replace(CALM, zoom=(1.0, 1.0), stretch=0, flip=0)
SIZES_HW = [(60, 100), (300, 170)]


def _photo(size_hw: tuple[int, int], boxes: list[tuple[int, int, int, int]]) -> Photo:
    """Black, with a red rectangle where each box is: red less green is 255 on it and 0 elsewhere, padding too."""
    image = np.zeros((*size_hw, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2, 0] = 255
    return image, Detections(size_hw, np.array(boxes, np.float32).reshape(-1, 4), np.zeros(len(boxes), np.int64))


def _one_box(size_hw: tuple[int, int]) -> Photo:
    height, width = size_hw
    return _photo(size_hw, [(width // 3, height // 4, width // 3 + 30, height // 4 + 24)])


def _red(canvas: np.ndarray) -> np.ndarray:
    return canvas[..., 0].astype(int) - canvas[..., 1]


def _red_box(canvas: np.ndarray) -> list[float]:
    rows, columns = np.nonzero(_red(canvas) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def _alone(photo: Photo, side_px: int, seed: int, settings: AugmentSettings) -> Photo:
    rng = np.random.default_rng(seed)
    return vary(place_alone(photo, side_px, rng, settings), rng, settings)


UPRIGHT = {
    "zoom": replace(STILL, zoom=(0.4, 2.5)),
    "shrinking": replace(STILL, zoom=(0.3, 0.45)),
    "stretch": replace(STILL, stretch=0.5),
    "flip": replace(STILL, flip=1),
    "iou_crop": replace(STILL, iou_crop=1),
    "all": replace(CALM, zoom=(0.4, 2.5), stretch=0.5, iou_crop=0.5),
    "colours too": replace(AugmentSettings(iou_crop=0.5), hue_deg=4, saturation=0.2),
}


@pytest.mark.parametrize("size_hw", SIZES_HW)
@pytest.mark.parametrize("name", UPRIGHT)
def test_a_box_stays_on_its_object(name: str, size_hw: tuple[int, int]) -> None:
    found = 0
    for seed in range(40):
        canvas, truth = _alone(_one_box(size_hw), 128, seed, UPRIGHT[name])
        assert canvas.shape == (128, 128, 3)
        if len(truth) == 1:
            found += 1
            assert truth.boxes_xyxy[0] == pytest.approx(_red_box(canvas), abs=1.5)
        else:
            assert (_red(canvas) > 200).sum() <= 128  # at most a sliver is left
    assert found > 20


@pytest.mark.parametrize("size_hw", SIZES_HW)
@pytest.mark.parametrize("turn", [{"rotation_deg": 180.0}, {"shear_deg": 40.0}, {"rotation_deg": 20, "shear_deg": 10}])
@pytest.mark.parametrize("zoom", [(0.2, 0.4), (0.7, 1.6)])
def test_a_turned_box_is_the_hull_of_its_object(size_hw: tuple[int, int], turn: dict, zoom: tuple) -> None:
    found = 0
    for seed in range(30):
        settings = replace(CALM, zoom=zoom, **turn)
        canvas, truth = _alone(_one_box(size_hw), 160, seed, settings)
        red = np.argwhere(_red(canvas) > 127) + 0.5
        if len(truth):
            x1, y1, x2, y2 = truth.boxes_xyxy[0]
            assert (red >= [y1 - 1.5, x1 - 1.5]).all()
            assert (red <= [y2 + 1.5, x2 + 1.5]).all()
            if min(x1, y1) > 2 and max(x2, y2) < 158:  # not cut by the canvas: the hull is tight
                found += 1
                assert truth.boxes_xyxy[0] == pytest.approx(_red_box(canvas), abs=1.5)
    assert found > 10


def test_a_quarter_turn_is_exact() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 100, 3), dtype=np.uint8)
    truth = Detections((60, 100), np.array([[10.0, 20, 30, 50], [80, 0, 120, 30], [100, 0, 120, 30]]), np.arange(3))
    quarter = np.array([[0.0, -1], [1, 0]])  # x becomes y, y becomes -x
    patch = _place_turned((image, truth), 100, (0, 0, 100, 100), quarter, np.array([0.0, 0.0]), 0.25)
    assert patch.window_xyxy == (0, 0, 60, 100)
    assert np.array_equal(patch.pixels, np.rot90(image, -1))
    # the second was cropped at x = 100, the third shows nothing at all
    assert patch.truth.boxes_xyxy == pytest.approx(np.array([[10, 10, 40, 30], [30, 80, 60, 100]]), abs=1e-3)
    assert patch.truth.labels.tolist() == [0, 1]


def test_a_turned_photo_has_padding_around_it() -> None:
    image = np.full((80, 120, 3), 255, np.uint8)
    canvas, _ = _alone((image, Detections.empty((80, 120), scored=False)), 100, 5, replace(STILL, rotation_deg=45))
    assert set(np.unique(canvas[[0, 0, -1, -1], [0, -1, 0, -1]])) == {PAD_VALUE}
    assert (canvas == 255).all(2).mean() > 0.3


def test_still_settings_letterbox_the_photo() -> None:
    photo = _photo((50, 100), [(20, 10, 60, 40)])
    canvas, truth = _alone(photo, 200, 0, STILL)
    x1, y1, x2, y2 = truth.boxes_xyxy[0]
    assert (x1, x2) == pytest.approx((40, 120))
    assert y2 - y1 == pytest.approx(60)
    assert (canvas[0, 0] == PAD_VALUE).all() or (canvas[-1, 0] == PAD_VALUE).all()
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    same, _ = _alone((noise, Detections.empty((90, 90), scored=False)), 90, 0, STILL)
    assert np.array_equal(same, noise)


def test_resize_is_edge_to_edge_and_averages() -> None:
    fine = np.indices((64, 96)).sum(0)[..., None].repeat(3, 2) % 2 * 255  # a checkerboard of single pixels
    small = resize(fine.astype(np.uint8), (19, 13))
    assert small.shape == (13, 19, 3)
    assert np.abs(small.astype(int) - 127).max() <= 2
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (30, 200, 3))
    assert resize(ramp, (50, 10))[5, :, 0] == pytest.approx(np.arange(50) * 4 + 1.5, abs=1)


def test_no_boxes_and_labels_and_crowds_come_through() -> None:
    everything = replace(AugmentSettings(), rotation_deg=20, shear_deg=5, iou_crop=1)
    for settings in (STILL, UPRIGHT["all"], everything):
        canvas, truth = _alone(_photo((64, 40), []), 64, 0, settings)
        assert canvas.shape == (64, 64, 3)
        assert len(truth) == 0
    image, truth = _photo((64, 64), [(0, 0, 20, 20), (30, 30, 60, 60)])
    marked = replace(truth, labels=np.array([3, 1]), crowd=np.array([True, False]))
    for settings in (STILL, replace(STILL, flip=1), replace(STILL, rotation_deg=1), replace(STILL, zoom=(0.5, 0.5))):
        _, truth = _alone((image, marked), 64, 0, settings)
        assert truth.labels.tolist() == [3, 1]
        assert truth.crowd is not None
        assert truth.crowd.tolist() == [True, False]


def test_what_is_hardly_visible_teaches_nothing() -> None:
    photo = _photo((100, 100), [(0, 0, 100, 10)])
    for turn in ({}, {"rotation_deg": 1.0}):
        settings = replace(STILL, zoom=(2.0, 2.0), min_visible=0.55, **turn)
        seen = {bool(c) for seed in range(60) for c in _alone(photo, 100, seed, settings)[1].crowd}
        assert seen == {True}  # at zoom 2 at most half of the bar's width is in the picture


def test_a_crop_overlaps_a_box_and_keeps_boxes_in_place() -> None:
    photo = _photo((90, 160), [(20, 20, 120, 80), (100, 10, 150, 60)])
    sizes = set()
    for seed in range(60):
        cropped = crop_by_overlap(photo, np.random.default_rng(seed), 0.5)
        if cropped is None:
            continue
        image, truth = cropped
        sizes.add(image.shape)
        assert truth.size_hw == image.shape[:2]
        window = np.array([[0.0, 0, image.shape[1], image.shape[0]]])
        overlap, shown = boxes.iou_matrix(truth.boxes_xyxy, window), boxes.ioa_matrix(truth.boxes_xyxy, window)
        assert ((overlap >= 0.1) & (shown >= 0.5)).any()
        inside = np.clip(truth.boxes_xyxy, 0, window[0, [2, 3, 2, 3]])
        assert _red_box(image)[0] == inside[:, 0].min()
        assert _red_box(image)[3] == inside[:, 3].max()
    assert len(sizes) > 20


def test_no_crop_without_an_object_to_keep() -> None:
    assert crop_by_overlap(_photo((50, 70), []), np.random.default_rng(0), 0.5) is None
    image, truth = _photo((50, 70), [(0, 0, 70, 50)])
    crowd = replace(truth, crowd=np.array([True]))
    assert crop_by_overlap((image, crowd), np.random.default_rng(0), 0.5) is None


def test_flip_twice_is_nothing_and_once_is_mirrored() -> None:
    image, truth = _photo((40, 100), [(10, 5, 30, 25)])
    mirrored, flipped = flip_left_right(image, truth)
    assert flipped.boxes_xyxy.tolist() == [[70, 5, 90, 25]]
    assert _red_box(mirrored) == [70, 5, 90, 25]
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


@pytest.mark.parametrize("turn", [0.0, 10.0])
def test_the_arguments_are_left_alone(turn: float) -> None:
    photo = _photo((64, 80), [(5, 5, 40, 40)])
    before = photo[0].copy(), photo[1].boxes_xyxy.copy()
    for seed in range(10):
        _alone(photo, 96, seed, AugmentSettings(iou_crop=0.5, rotation_deg=turn, flip=1))
    assert np.array_equal(photo[0], before[0])
    assert np.array_equal(photo[1].boxes_xyxy, before[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mosaic", 1.5),
        ("mixup", -0.1),
        ("copy_paste", float("nan")),
        ("iou_crop", 2),
        ("rotation_deg", 181),
        ("shear_deg", 90),
        ("brightness", -1),
        ("zoom", (1.5, 0.5)),
        ("stretch", -0.5),
    ],
)
def test_settings_out_of_range_name_themselves(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"augment.{name} is"):
        AugmentSettings(**{name: value})


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 900), (700, 2), (3, 5)])
@pytest.mark.parametrize("turn", [0.0, 45.0])
def test_tiny_and_extreme_photos_do_not_break(size_hw: tuple[int, int], turn: float) -> None:
    photo = np.zeros((*size_hw, 3), np.uint8), Detections(size_hw, np.array([[0.0, 0, 1, 1]]), np.array([0]))
    for seed in range(20):
        canvas, _ = _alone(photo, 64, seed, AugmentSettings(iou_crop=0.5, rotation_deg=turn))
        assert canvas.shape == (64, 64, 3)
