"""Decoding a JPEG at a fraction of its size: the canvas looks as from the whole photo, and no box moves."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from test_images import encode, quarters, turned, with_exif

from detkit.errors import DataError
from detkit.images import decode_image, decode_reduced, letterbox, place

CANVAS = (64, 64)


def scene(height: int, width: int) -> np.ndarray:
    """Slopes and a texture, and in each corner a rectangle with sharp edges: bright, red, green, black."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([60 + 90 * x / width, 60 + 90 * y / height, 110 + 40 * np.sin(x / 31) * np.cos(y / 23)], 2)
    h, w = height // 5, width // 6
    image[h // 2 : h, w // 3 : w] = 255
    image[h // 3 : h, -w:-7] = (220, 20, 20)
    image[-h:-9, w // 2 : w] = (20, 200, 30)
    image[-h:-5, -w:-3] = 0
    return image.astype(np.uint8)


def both_canvases(data: bytes, canvas_hw: tuple[int, int], fit: str) -> tuple[np.ndarray, np.ndarray]:
    """The canvas from the whole photo and the one from the reduced, which must lie in the same place."""
    whole = decode_image(data, "a")
    reduced, full_hw = decode_reduced(data, "a", canvas_hw, fit)
    assert full_hw == whole.shape[:2]
    assert reduced.shape[0] < whole.shape[0]
    expected, expected_placement = place(whole, canvas_hw, fit)
    canvas, placement = place(reduced, canvas_hw, fit, image_hw=full_hw)
    assert placement == expected_placement
    return expected, canvas


def assert_alike(expected: np.ndarray, canvas: np.ndarray) -> None:
    assert np.abs(expected.astype(int) - canvas).mean() < 1
    for channel in range(3):
        images = [np.float64(image[:, :, channel]) for image in (expected, canvas)]
        shift, _ = cv2.phaseCorrelate(*images)
        assert np.abs(shift).max() < 0.1


@pytest.mark.parametrize(
    ("image_hw", "canvas_hw", "reduced_hw"),
    [
        ((3000, 4000), (416, 416), (750, 1000)),  # shown on 312 x 416: 1/4 has 2.4 times that, 1/8 only 1.2 times
        ((3000, 4000), (234, 234), (375, 500)),
        ((832, 832), (416, 416), (416 * 2, 832)),  # 1/2 would be 416: just what is shown
        ((1664, 1664), (416, 416), (832, 832)),  # just twice
        ((1663, 1663), (416, 416), (1663, 1663)),
        ((200, 4000), (416, 416), (50, 1000)),
        ((100, 100), (416, 416), (100, 100)),
    ],
)
def test_the_largest_reduction_with_twice_the_pixels_shown(image_hw, canvas_hw, reduced_hw):
    data = encode(np.zeros((*image_hw, 3), np.uint8), ".jpg")
    reduced, full_hw = decode_reduced(data, "a", canvas_hw)
    assert (reduced.shape[:2], full_hw) == (reduced_hw, image_hw)


def test_stretching_asks_for_twice_the_canvas_in_both_directions():
    data = encode(np.zeros((512, 4096, 3), np.uint8), ".jpg")
    assert decode_reduced(data, "a", (128, 128), "letterbox")[0].shape == (64, 512, 3)
    assert decode_reduced(data, "a", (128, 128), "stretch")[0].shape == (256, 2048, 3)


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("image_hw", [(1200, 1600), (1049, 1033), (523, 1201), (1201, 273)])
def test_the_canvas_is_the_one_of_the_whole_photo(image_hw, fit):
    """Sides that 8 divides, and sides that leave 1 to 3 pixels over."""
    assert_alike(*both_canvases(encode(scene(*image_hw), ".jpg"), CANVAS, fit))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_that_lies_on_its_side_or_is_mirrored(orientation):
    data = with_exif(encode(scene(523, 1201), ".jpg"), orientation, "<")
    expected, canvas = both_canvases(data, CANVAS, "letterbox")
    assert_alike(expected, canvas)
    assert_alike(place(turned(scene(523, 1201), orientation), CANVAS, "letterbox")[0], canvas)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_does_not_move_though_the_reduction_divides_no_side(orientation):
    """Of 1033 pixels an eighth is 130 with 7 pixels of padding: taken for photo, they move what is far by 0.4 px."""
    image = np.zeros((1033, 1033, 3), np.uint8)
    image[890:1010, 880:1000] = 255
    data = with_exif(encode(image, ".jpg"), orientation, "<")
    reduced, full_hw = decode_reduced(data, "a", CANVAS)
    assert reduced.shape == (130, 130, 3)
    canvas, placement = letterbox(reduced, CANVAS, image_hw=full_hw)
    rows, columns = np.nonzero(turned(image, orientation)[:, :, 0])
    truth_xyxy = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    weights = canvas[:, :, 0].astype(float)
    centres = np.arange(64) + 0.5
    found_xy = (weights.sum(0) @ centres / weights.sum(), weights.sum(1) @ centres / weights.sum())
    (box,) = placement.to_canvas(truth_xyxy)
    np.testing.assert_allclose(found_xy, [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], atol=0.05)
    np.testing.assert_allclose(placement.to_image([box]), truth_xyxy, atol=1e-3)


def test_grey_and_cmyk():
    grey = scene(800, 1001)[:, :, 1]
    expected, canvas = both_canvases(encode(grey, ".jpg"), CANVAS, "letterbox")
    assert_alike(expected, canvas)
    assert (canvas[:, :, 0] == canvas[:, :, 2]).all()
    image_module = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image_module.fromarray(scene(800, 1001)).convert("CMYK").save(buffer, "JPEG", quality=95)
    assert_alike(*both_canvases(buffer.getvalue(), CANVAS, "letterbox"))


def test_progressive():
    done, data = cv2.imencode(".jpg", scene(523, 1201)[:, :, ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    assert_alike(*both_canvases(data.tobytes(), CANVAS, "letterbox"))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tiff", ".ppm", ".gif"])
def test_other_kinds_are_decoded_whole(suffix):
    data = encode(quarters(), suffix)
    image, full_hw = decode_reduced(data, "a", (4, 4))
    np.testing.assert_array_equal(image, decode_image(data, "a"))
    assert full_hw == image.shape[:2]


def test_what_is_wrong_with_a_file_is_said_as_ever():
    data = encode(scene(523, 1201), ".jpg")
    for broken, said in ((data[:-40], "truncated JPEG"), (b"", "is empty"), (b"hello", "is not an image")):
        with pytest.raises(DataError, match=said) as caught:
            decode_reduced(broken, "b.jpg", CANVAS)
        assert str(caught.value).startswith("b.jpg: ")
