"""Box geometry: hand-computed values, torchvision's results, and properties that hold for any box."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detkit import boxes

CONVERSIONS = [
    ("xyxy_to_xywh", "xywh_to_xyxy"),
    ("xyxy_to_cxcywh", "cxcywh_to_xyxy"),
    ("xywh_to_cxcywh", "cxcywh_to_xywh"),
]
KINDS = ("iou", "giou", "diou", "ciou")
finite = st.floats(-(2.0**126), 2.0**126, width=32)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def random_boxes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner_xy, size_wh = rng.uniform(0, 100, (count, 2)), rng.uniform(1, 80, (count, 2))
    return np.concatenate([corner_xy, corner_xy + size_wh], axis=1)


@pytest.mark.parametrize("name", [name for pair in CONVERSIONS for name in pair])
def test_converting_no_boxes_gives_no_boxes(name):
    assert getattr(boxes, name)(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert getattr(boxes, name)([]).shape == (0, 4)


def test_everything_else_accepts_no_boxes():
    none, some = np.zeros((0, 4)), random_boxes(3)
    assert boxes.area(none).shape == (0,)
    assert boxes.clip(none, (10, 20)).shape == (0, 4)
    assert boxes.scale(none, (2, 3)).shape == (0, 4)
    assert boxes.shift(none, (2, 3)).shape == (0, 4)
    assert boxes.iou_matrix(none, some).shape == (0, 3)
    assert boxes.iou_matrix(some, none).shape == (3, 0)
    assert boxes.ioa_matrix(none, none).shape == (0, 0)
    for kind in KINDS:
        assert boxes.iou_pairs(none, none, kind).shape == (0,)


def test_conversions_of_one_box():
    xyxy, xywh, cxcywh = [[10, 20, 40, 30]], [[10, 20, 30, 10]], [[25, 25, 30, 10]]
    assert boxes.xyxy_to_xywh(xyxy).tolist() == xywh
    assert boxes.xywh_to_xyxy(xywh).tolist() == xyxy
    assert boxes.xyxy_to_cxcywh(xyxy).tolist() == cxcywh
    assert boxes.cxcywh_to_xyxy(cxcywh).tolist() == xyxy
    assert boxes.xywh_to_cxcywh(xywh).tolist() == cxcywh
    assert boxes.cxcywh_to_xywh(cxcywh).tolist() == xywh


@pytest.mark.parametrize(("there", "back"), CONVERSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conversions_come_back_and_keep_the_float_type(there, back, dtype):
    given_boxes = random_boxes(50).astype(dtype)
    before = given_boxes.copy()
    result = getattr(boxes, back)(getattr(boxes, there)(given_boxes))
    assert result.dtype == dtype
    np.testing.assert_allclose(result, given_boxes, rtol=1e-5)
    np.testing.assert_array_equal(given_boxes, before)


def test_integers_are_not_rounded():
    assert boxes.xyxy_to_cxcywh(np.array([[0, 0, 3, 5]])).tolist() == [[1.5, 2.5, 3, 5]]


def test_wrong_shape_is_refused():
    for wrong in (np.zeros(4), np.zeros((2, 5)), np.zeros((1, 2, 4))):
        with pytest.raises(ValueError, match="expected"):
            boxes.area(wrong)


def test_clip_scale_shift_on_a_non_square_image():
    box_xyxy = [[-5, -6, 30, 40], [50, 50, 60, 60]]
    assert boxes.clip(box_xyxy, (10, 20)).tolist() == [[0, 0, 20, 10], [20, 10, 20, 10]]
    assert boxes.scale([[1, 2, 3, 4]], (10, 100)).tolist() == [[10, 200, 30, 400]]
    assert boxes.shift([[1, 2, 3, 4]], (10, 100)).tolist() == [[11, 102, 13, 104]]


def test_area_of_flat_and_inverted_boxes_is_zero():
    assert boxes.area([[0, 0, 4, 5], [0, 0, 0, 5], [4, 5, 0, 0]]).tolist() == [20, 0, 0]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 10, 10], [5, 0, 15, 10], 1 / 3),
        ([0, 0, 10, 10], [0, 0, 10, 10], 1),
        ([0, 0, 10, 10], [2, 2, 4, 7], 0.1),  # nested
        ([0, 0, 10, 10], [10, 0, 20, 10], 0),  # touching
        ([0, 0, 10, 10], [30, 30, 40, 40], 0),
        ([0, 0, 10, 10], [5, 5, 5, 9], 0),  # zero area inside
        ([5, 5, 5, 5], [5, 5, 5, 5], 0),  # both without area
        ([10, 10, 0, 0], [0, 0, 10, 10], 0),  # inverted
    ],
)
def test_iou_by_hand(a, b, expected):
    assert boxes.iou_matrix([a], [b])[0, 0] == pytest.approx(expected)
    assert boxes.iou_pairs([a], [b])[0] == pytest.approx(expected)


def test_iou_matrix_puts_a_in_rows():
    result = boxes.iou_matrix([[0, 0, 10, 10], [100, 100, 110, 110]], [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 5, 5]])
    np.testing.assert_allclose(result, [[1, 0.5, 0.25], [0, 0, 0]])


def test_ioa_divides_by_the_first_box():
    detection, crowd = [[0, 0, 10, 10]], [[5, 0, 100, 100]]
    assert boxes.ioa_matrix(detection, crowd)[0, 0] == pytest.approx(0.5)
    assert boxes.ioa_matrix(crowd, detection)[0, 0] == pytest.approx(50 / 9500)
    assert boxes.ioa_matrix([[3, 3, 3, 3]], crowd)[0, 0] == 0


def test_giou_diou_ciou_by_hand():
    a, b = [[0, 0, 2, 2]], [[4, 0, 6, 4]]  # hull 6 x 4, union 12, centres (1, 1) and (5, 2)
    assert boxes.iou_pairs(a, b, "giou")[0] == pytest.approx(-(24 - 12) / 24)
    assert boxes.iou_pairs(a, b, "diou")[0] == pytest.approx(-(16 + 1) / (36 + 16))
    v = 4 / np.pi**2 * (np.arctan(2 / 2) - np.arctan(2 / 4)) ** 2
    assert boxes.iou_pairs(a, b, "ciou")[0] == pytest.approx(-17 / 52 - v * v / (1 + v))


def test_pairs_refuse_unequal_numbers_and_unknown_kinds():
    with pytest.raises(ValueError, match="3 and 2"):
        boxes.iou_pairs(random_boxes(3), random_boxes(2))
    with pytest.raises(ValueError, match="siou"):
        boxes.iou_pairs(random_boxes(2), random_boxes(2), "siou")  # type: ignore[arg-type]


def test_parity_with_torchvision():
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    a, b = random_boxes(60, 1), random_boxes(40, 2)
    references = {"iou": ops.box_iou, "giou": ops.generalized_box_iou, "diou": ops.distance_box_iou}
    for kind, reference in {**references, "ciou": ops.complete_box_iou}.items():
        expected = reference(torch.from_numpy(a), torch.from_numpy(b)).numpy()
        row, column = np.indices(expected.shape).reshape(2, -1)
        ours = boxes.iou_pairs(a[row], b[column], kind).reshape(expected.shape)
        np.testing.assert_allclose(ours, expected, atol=1e-7, err_msg=kind)
    np.testing.assert_allclose(boxes.iou_matrix(a, b), ops.box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy())


@example(np.full((3, 4), 5, np.float32), np.full((3, 4), 3.60288e16, np.float32))  # rounding took DIoU below -1
@settings(max_examples=150, deadline=None)
@given(arrays(np.float32, (3, 4), elements=finite), arrays(np.float32, (3, 4), elements=finite))
def test_any_boxes_have_symmetric_overlaps_within_bounds(a, b):
    matrix = boxes.iou_matrix(a, b)
    np.testing.assert_array_equal(matrix, boxes.iou_matrix(b, a).T)
    assert ((matrix >= 0) & (matrix <= 1)).all()
    assert ((boxes.ioa_matrix(a, b) >= 0) & (boxes.ioa_matrix(a, b) <= 1)).all()
    for kind, lowest in zip(KINDS, (0, -1, -1, -2), strict=True):
        pairs = boxes.iou_pairs(a, b, kind)
        np.testing.assert_allclose(pairs, boxes.iou_pairs(b, a, kind), atol=1e-12)
        assert np.isfinite(pairs).all()
        assert (pairs <= 1).all()
        assert (pairs >= lowest).all()


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, (4, 4), elements=st.floats(-1e300, 1e300)))
def test_huge_numbers_overflow_nowhere(array):
    assert np.isfinite(boxes.iou_matrix(array, array)).all()
    for kind in KINDS:
        assert np.isfinite(boxes.iou_pairs(array, array[::-1], kind)).all()


def test_huge_float32_boxes_still_compare():
    a, b = np.array([[0, 0, 3e38, 3e38]], np.float32), np.array([[0, 0, 1.5e38, 3e38]], np.float32)
    assert boxes.iou_matrix(a, b)[0, 0] == pytest.approx(0.5)
    assert boxes.iou_matrix([[0, 0, np.inf, np.nan]], a)[0, 0] == 0
