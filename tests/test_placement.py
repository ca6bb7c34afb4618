"""Placing images on a canvas: where the pixels land, and that boxes and points come back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from test_images import HEIGHT, WIDTH, assert_close, quarters

from detkit.images import letterbox, place, stretch


def test_letterbox_pads_the_short_side():
    canvas, placement = letterbox(quarters(), (120, 120), pad_value=7)  # scale 2: 80 x 120, 20 rows above and below
    assert canvas.shape == (120, 120, 3)
    assert placement.scale_xy == (2, 2)
    assert placement.offset_xy == (0, 20)
    assert (canvas[:20] == 7).all()
    assert (canvas[100:] == 7).all()
    assert_close(canvas[20:100], np.kron(quarters(), np.ones((2, 2, 1), np.uint8)))
    assert placement.to_canvas([[0, 0, 60, 40], [3, 5, 7, 11]]).tolist() == [[0, 20, 120, 100], [6, 30, 14, 42]]
    assert placement.to_image([[6, 30, 14, 42]]).tolist() == [[3, 5, 7, 11]]
    assert placement.to_image([[-50, 0, 500, 500]]).tolist() == [[0, 0, 60, 40]]


def test_letterbox_of_a_tall_image_pads_left_and_right():
    canvas, placement = letterbox(quarters().transpose(1, 0, 2), (60, 100))
    assert placement.offset_xy == (30, 0)
    assert_close(canvas[:, 30:70], quarters().transpose(1, 0, 2))
    assert (canvas[:, :30] == 114).all()
    assert (canvas[:, 70:] == 114).all()


def test_a_letterbox_in_the_corner_pads_right_and_below():
    photo = quarters()
    for canvas_hw in ((120, 120), (60, 200)):
        corner, at = place(photo, canvas_hw, "letterbox-corner", 7)
        centred, middle = place(photo, canvas_hw, "letterbox", 7)
        left, top = (int(offset) for offset in middle.offset_xy)
        assert max(left, top) > 0
        assert at.offset_xy == (0, 0)
        assert at.scale_xy == middle.scale_xy
        assert (np.roll(corner, (top, left), (0, 1)) == centred).all()
        assert (corner[-1, -1] == 7).all()


def test_stretch_fills_the_canvas():
    canvas, placement = stretch(quarters(), (20, 120))
    assert canvas.shape == (20, 120, 3)
    assert placement.scale_xy == (2, 0.5)
    assert_close(canvas, np.repeat(quarters()[::2], 2, axis=1))
    assert placement.to_canvas([[30, 20, 60, 40]]).tolist() == [[60, 10, 120, 20]]


@pytest.mark.parametrize("fit", ["letterbox", "letterbox-corner", "stretch"])
@pytest.mark.parametrize("canvas_hw", [(64, 96), (416, 416), (33, 7), (1, 1)])
def test_boxes_and_points_come_back_from_the_canvas(fit, canvas_hw):
    image = quarters()
    canvas, placement = place(image, canvas_hw, fit)
    assert canvas.shape == (*canvas_hw, 3)
    assert placement.canvas_hw == canvas_hw
    assert placement.image_hw == (HEIGHT, WIDTH)
    boxes_xyxy = np.array([[0, 0, WIDTH, HEIGHT], [3.5, 4.25, 10, 39]], np.float32)
    on_canvas = placement.to_canvas(boxes_xyxy)
    assert on_canvas.dtype == np.float32
    assert on_canvas.min() >= 0
    assert (on_canvas[:, 2:] <= np.array(canvas_hw[::-1]) + 1e-3).all()
    np.testing.assert_allclose(placement.to_image(on_canvas), boxes_xyxy, atol=1e-3)
    points_xyv = np.array([[[3, 4, 2], [70, -5, 0]]], np.float32)
    np.testing.assert_allclose(placement.points_to_image(placement.points_to_canvas(points_xyv)), points_xyv, atol=1e-3)
    np.testing.assert_allclose(placement.points_to_canvas(points_xyv)[0, :, :2], placement.to_canvas(
        np.concatenate([points_xyv[0, :, :2]] * 2, axis=1))[:, :2], rtol=1e-5)  # fmt: skip
    assert placement.to_image(np.zeros((0, 4))).shape == placement.to_canvas([]).shape == (0, 4)
    np.testing.assert_array_equal(image, quarters())


def test_a_bright_square_lands_where_its_box_does():
    image = np.zeros((50, 70, 3), np.uint8)
    image[10:30, 40:60] = 255
    for fit in ("letterbox", "letterbox-corner", "stretch"):
        canvas, placement = place(image, (200, 140), fit, pad_value=0)
        rows, columns = np.nonzero(canvas[:, :, 0] > 127)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(placement.to_canvas([[40, 10, 60, 30]])[0], found, atol=1)


def test_shrinking_averages():
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 254).astype(np.uint8)
    canvas, _ = stretch(np.dstack([board] * 3), (8, 8))
    assert (np.abs(canvas.astype(int) - 127) <= 1).all()


def test_the_canvas_is_never_the_image_itself():
    image = quarters()
    for fit in ("letterbox", "letterbox-corner", "stretch"):
        canvas, _ = place(image, (HEIGHT, WIDTH), fit)
        np.testing.assert_array_equal(canvas, image)
        assert not np.shares_memory(canvas, image)
    with pytest.raises(ValueError, match="crop"):
        place(image, (10, 10), "crop")


@pytest.mark.parametrize("image_hw", [(720, 1280), (719, 1281), (1080, 1920), (3072, 4096), (900, 300)])
def test_a_photo_that_shrinks_much_keeps_its_places(image_hw: tuple[int, int]) -> None:
    """Whole blocks are averaged first where they fit: a ramp stays the ramp it was, not a hundredth of it moved."""
    height, width = image_hw
    ramp = np.linspace(0, 255, width, dtype=np.float64)[None, :, None] * np.ones((height, 1, 3))
    canvas, at = letterbox(ramp.round().astype(np.uint8), (416, 416))
    left, top = (round(offset) for offset in at.offset_xy)
    shown = canvas[top : 416 - top if top else 416, left : 416 - left if left else 416, 0].astype(float)
    centres_px = (np.arange(shown.shape[1]) + 0.5) / at.scale_xy[0] - 0.5  # on the photo
    expected = centres_px * 255 / (width - 1)
    inner = slice(2, -2)
    np.testing.assert_allclose(shown[5, inner], expected[inner], atol=1.3)  # three roundings, each by up to a half
    assert abs((shown.mean(axis=0) - expected)[inner].mean()) < 0.3


def test_whole_blocks_first_looks_like_averaging_over_areas() -> None:
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 256, (720, 1280, 3)).astype(np.float32), (0, 0), 4)
    photo = np.clip((photo - photo.mean()) * 12 + 128, 0, 255).astype(np.uint8)
    canvas, _ = stretch(photo, (234, 416))
    areas = cv2.resize(photo, (416, 234), interpolation=cv2.INTER_AREA)
    assert np.abs(canvas.astype(int) - areas).mean() < 2.5
    assert np.abs(cv2.resize(photo, (416, 234)).astype(int) - areas).mean() > 0.5  # the photo has detail to lose
