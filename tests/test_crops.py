"""Crops of boxes: the window's geometry by hand, its pixels, and training crops whose points stay on what they mark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.infer.crops import cut, inverse, move_points, to_canvas_matrix, windows_cxcys

pytest.importorskip("torch")
from detkit.train.crops import BoxCrops, CropSettings, card_fields, listed_shape

STILL = CropSettings(0.25, shift=0, scale=0, rotation_deg=0, flip=0, hue_deg=0, saturation=0, brightness=0, contrast=0)


def test_windows_by_hand() -> None:
    boxes = [[10, 20, 30, 60], [0, 0, 8, 4]]
    np.testing.assert_allclose(windows_cxcys(boxes, 0.25), [[20, 40, 60], [4, 2, 12]])
    np.testing.assert_allclose(windows_cxcys(boxes, 0), [[20, 40, 40], [4, 2, 8]])
    assert windows_cxcys(np.zeros((0, 4)), 0.25).shape == (0, 3)


def moved(matrix: np.ndarray, *xy: float) -> list[float]:
    return move_points([[*xy, 2]], matrix)[0].tolist()


def test_the_map_by_hand() -> None:
    plain = to_canvas_matrix((20, 40, 60), 30)  # the window goes from (-10, 10) to (50, 70), at half its size
    assert moved(plain, 20, 40) == [15, 15, 2]
    assert moved(plain, -10, 70) == [0, 30, 2]
    mirrored = to_canvas_matrix((20, 40, 60), 30, mirrored=True)
    assert moved(mirrored, -10, 70) == [30, 30, 2]
    turned = to_canvas_matrix((20, 40, 60), 30, rotation_deg=90)  # clockwise: what was right is now below
    assert moved(turned, 40, 40) == pytest.approx([15, 25, 2])


@given(st.tuples(*[st.floats(-500, 500)] * 2, st.floats(1, 500)), st.floats(-180, 180), st.booleans())
def test_there_and_back(window: tuple[float, float, float], angle: float, mirrored: bool) -> None:
    matrix = to_canvas_matrix(window, 96, rotation_deg=angle, mirrored=mirrored)
    points = np.float32([[[3, 4, 1], [-50, 80.5, 0.5]]])
    back = move_points(move_points(points, matrix[None]), inverse(matrix[None]))
    np.testing.assert_allclose(back, points, atol=0.02)


def test_a_window_that_fits_the_pixels_is_a_plain_crop() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    canvas = cut(photo, to_canvas_matrix((26, 20, 32), 32), 32, 114)
    np.testing.assert_array_equal(canvas, photo[4:36, 10:42])
    beyond = cut(photo, to_canvas_matrix((50, 40, 32), 32), 32, 114)
    np.testing.assert_array_equal(beyond[:16, :16], photo[24:, 34:])
    assert (beyond[17:] == 114).all()


@pytest.mark.parametrize("side", [200.0, 37.0, 1200.0])
@pytest.mark.parametrize("angle", [0.0, 20.0])
def test_pixels_and_points_move_together(side: float, angle: float) -> None:
    """A disc lands where its centre does, whether the window is enlarged or averaged down."""
    photo = np.zeros((1300, 1400, 3), np.uint8)
    centre, radius = np.array([700.3, 500.7]), side / 8
    y, x = np.mgrid[:1300, :1400] + 0.5
    soft = np.clip(radius - np.hypot(x - centre[0], y - centre[1]) + 0.5, 0, 1)
    photo[:] = (255 * soft).round()[..., None]
    matrix = to_canvas_matrix((690, 510, side), 64, rotation_deg=angle)
    canvas = cut(photo, matrix, 64, 0)[..., 0].astype(np.float64)
    rows, columns = np.mgrid[:64, :64] + 0.5
    found = np.array([(canvas * columns).sum(), (canvas * rows).sum()]) / canvas.sum()
    np.testing.assert_allclose(found, moved(matrix, *centre)[:2], atol=0.12)


class Photos:
    """One photo, 60x80, with a red and a blue square whose centres are labelled."""

    def __init__(self, points: object = ((20, 30, 2), (50, 34, 1), (0, 0, 0))) -> None:
        self.image = np.zeros((60, 80, 3), np.uint8)
        self.image[27:33, 17:23] = 255, 0, 0
        self.image[31:37, 47:53] = 0, 0, 255
        truth = Detections(
            (60, 80),
            np.float32([[0, 0, 9, 9], [10, 15, 60, 45]]),
            [0, 0],
            points_xyv=np.float32([np.zeros((3, 3)), points]),
        )
        names = ("left_eye", "right_eye", "nose")
        sample = Sample("a.png", Path("a.png"), truth, 1)
        self.dataset = Dataset("two", ("face",), (sample,), Path("two"), "coco", "train", (1,), names, ((0, 1),))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, Detections]:
        return self.image, self.dataset.samples[index].truth


def test_a_crop_without_changes_is_the_window_that_is_used_later() -> None:
    photos = Photos()
    crops = BoxCrops(photos, STILL, ())
    assert len(crops) == 1  # the first box has no labelled point
    image, truth = crops.make(0, 96, np.random.default_rng(0), closed=False)
    matrix = to_canvas_matrix((35, 30, 75), 96)
    np.testing.assert_array_equal(image, cut(photos.image, matrix, 96, 114))
    assert truth.size_hw == (96, 96)
    np.testing.assert_allclose(truth.boxes_xyxy, [[16, 28.8, 80, 67.2]], atol=1e-4)
    np.testing.assert_allclose(truth.points_xyv[0, :2], [[28.8, 48, 2], [67.2, 53.12, 1]], atol=1e-4)
    assert truth.points_xyv[0, 2, 2] == 0


@pytest.mark.parametrize("seed", range(8))
def test_points_stay_on_their_squares_however_the_crop_is_varied(seed: int) -> None:
    settings = replace(STILL, shift=0.1, scale=0.2, rotation_deg=40, flip=0.5)
    crops = BoxCrops(Photos(((20, 30, 2), (50, 34, 2), (0, 0, 0))), settings, ((0, 1),))
    image, truth = crops.make(0, 96, np.random.default_rng(seed), closed=False)
    order = {True: (0, 2), False: (2, 0)}  # colour of the left eye, of the right eye
    flipped = image[tuple(truth.points_xyv[0, 0, 1::-1].astype(int))][2] > 128
    for point, channel in zip(truth.points_xyv[0, :2], order[not flipped], strict=True):
        assert point[2] == 2
        x, y = point[:2].astype(int)
        assert image[y, x, channel] > 200
        assert image[y, x].sum() == image[y, x, channel]


def test_half_of_the_crops_are_mirrored_and_a_mirror_swaps_the_pairs() -> None:
    crops = BoxCrops(Photos(((20, 30, 2), (50, 34, 2), (0, 0, 0))), replace(STILL, flip=0.5), ((0, 1),))
    made = [crops.make(0, 96, np.random.default_rng(seed), closed=False)[1] for seed in range(40)]
    first = np.array([truth.points_xyv[0, 0, :2] for truth in made])
    np.testing.assert_allclose(np.unique(first.round(3), axis=0), [[28.8, 48], [28.8, 53.12]], atol=1e-3)
    assert 10 < (first[:, 1] > 50).sum() < 30


def test_points_that_leave_the_canvas_are_not_learnt() -> None:
    crops = BoxCrops(Photos(((20, 30, 2), (50, 34, 2), (75, 34, 2))), STILL, ())
    truth = crops.make(0, 96, np.random.default_rng(0), closed=True)[1]
    assert truth.points_xyv[0, :, 2].tolist() == [2, 2, 0]


def test_one_seed_one_crop() -> None:
    crops = BoxCrops(Photos(), CropSettings(), ((0, 1),))
    (a, first), (b, second) = (crops.make(0, 64, np.random.default_rng(3), closed=False) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert first == second
    assert (crops.make(0, 64, np.random.default_rng(4), closed=False)[0] != a).any()


def test_data_without_points_and_bad_settings_are_refused() -> None:
    photos = Photos(np.zeros((3, 3)))
    with pytest.raises(DataError, match="no box has a labelled point"):
        BoxCrops(photos, STILL, ())
    with pytest.raises(ValueError, match=r"crop\.flip is 1\.5; expected 0 to 1"):
        CropSettings(flip=1.5)
    with pytest.raises(ValueError, match=r"crop\.margin"):
        CropSettings(margin=-0.1)


def test_what_the_card_says_of_points() -> None:
    dataset = Photos().dataset
    fields = card_fields(dataset, STILL)
    assert fields["point_names"] == ("left_eye", "right_eye", "nose")
    assert fields["flip_pairs"] == ()  # this run mirrors nothing
    assert card_fields(dataset, CropSettings(margin=0.1))["flip_pairs"] == ((0, 1),)
    assert card_fields(replace(dataset, point_pairs=((1, 2),)), CropSettings())["flip_pairs"] == ((1, 2),)
    assert card_fields(replace(dataset, point_pairs=()), CropSettings())["flip_pairs"] == ()
    assert card_fields(dataset, CropSettings(margin=0.1))["crop_margin"] == 0.1
    one_sided = replace(dataset, point_names=("left_eye", "eye", "nose"))
    assert card_fields(one_sided, STILL)["flip_pairs"] == ()
    with pytest.raises(DataError, match="no counterpart"):
        card_fields(one_sided, CropSettings())
    # the box is (10, 15) to (60, 45): 50 wide, 30 high
    assert listed_shape(dataset) == [[0.2, 0.5], [0.8, 0.63333], [None, None]]
