"""Errors of points, by hand: normalisers, failure rates, the curve, each point, and the mean shape's error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.evaluate.landmarks import (
    BOX,
    EYES,
    evaluate_landmarks,
    lay_shape,
    mean_shape,
    points_results,
    shape_of_card,
)
from detkit.weights import ModelCard

NAMES = ("left_eye", "right_eye", "nose")


def dataset(*photos: list[tuple[list[float], list[list[float]]]], names: tuple[str, ...] = NAMES) -> Dataset:
    """Photos 100x200, each a list of (box, points)."""
    samples = []
    for number, boxes in enumerate(photos, start=1):
        points = np.array([p for _, p in boxes], np.float32).reshape(len(boxes), len(names), 3)
        truth = Detections((100, 200), np.array([b for b, _ in boxes]).reshape(-1, 4), [0] * len(boxes), None, points)
        samples.append(Sample(f"{number}.png", Path(f"{number}.png"), truth, number))
    return Dataset("faces", ("face",), tuple(samples), Path("faces"), "coco", "val", (5,), names)


def predicted(data: Dataset, *shifts: object) -> list[Detections]:
    """The truth with its points moved: for each photo an array that broadcasts to [N, P, 2]."""
    found = []
    for sample, shift in zip(data, shifts, strict=True):
        points = sample.truth.points_xyv.copy()
        points[..., :2] += np.asarray(shift, np.float32)
        points[..., 2] = 0.5
        found.append(replace(sample.truth, points_xyv=points, scores=np.zeros(len(points))))
    return found


FACE = ([10.0, 10, 60, 60], [[20.0, 20, 2], [40, 20, 1], [30, 30, 2]])  # eyes 20 px apart
WIDE = ([100.0, 10, 180, 90], [[110.0, 20, 2], [150, 20, 2], [0, 0, 0]])  # eyes 40 px apart, no nose


def test_errors_by_hand() -> None:
    data = dataset([FACE], [], [WIDE])
    shifts = [[[1, 0], [0, 2], [3, 4]]], np.zeros((0, 3, 2)), [[[0, 4], [0, 0], [50, 50]]]
    result = evaluate_landmarks(data, predicted(data, *shifts))
    # first: (1 + 2 + 5) / 3 / 20; second: (4 + 0) / 2 / 40, its nose not labelled
    assert result.NME == pytest.approx((8 / 60 + 0.05) / 2)
    assert result.normaliser == EYES
    assert (result.FR08, result.FR10) == (0.5, 0.5)
    assert result.AUC == pytest.approx((0 + 0.5) / 2)
    assert (result.boxes, result.points, result.left_out) == (2, 5, 0)
    each = {point.name: (round(point.error, 6), point.count) for point in result.per_point}
    assert each == {"left_eye": (0.075, 2), "right_eye": (0.05, 2), "nose": (0.25, 1)}
    curve = dict(result.curve)
    assert (curve[0.0], curve[0.045], curve[0.05], curve[0.13], curve[0.135], curve[0.2]) == (0, 0, 0.5, 0.5, 1, 1)
    assert result.baseline_NME == result.ratio == -1
    assert 0.05 <= result.interval[0] < result.NME < result.interval[1] <= 8 / 60
    assert list(result.figures()) == ["NME", "FR08", "FR10", "AUC", "baseline_NME", "ratio"]
    assert set(result.to_dict()) > set(result.figures())


def test_failure_rates_at_their_limits() -> None:
    data = dataset([FACE], [FACE], [FACE], [FACE])
    shifts = [[[error * 20, 0]] * 3 for error in (0.078, 0.082, 0.098, 0.102)]  # eyes are 20 px apart
    result = evaluate_landmarks(data, predicted(data, *shifts))
    assert (result.FR08, result.FR10) == (0.75, 0.25)
    assert [box.name for box in result.worst] == ["4.png", "3.png", "2.png", "1.png"]


def test_a_perfect_prediction_has_no_error() -> None:
    data = dataset([FACE, WIDE])
    result = evaluate_landmarks(data, predicted(data, 0), mean_shape(data))
    assert (result.NME, result.FR08, result.FR10, result.AUC) == (0, 0, 0, 1)
    assert result.ratio == -1  # nothing to divide by
    assert result.curve[0] == (0, 1)


def test_without_eyes_the_box_is_the_measure() -> None:
    data = dataset([([10.0, 10, 50, 100], [[20.0, 20, 2], [40, 20, 2], [30, 30, 2]])], names=("a", "b", "c"))
    result = evaluate_landmarks(data, predicted(data, [[[6, 0], [0, 0], [0, 0]]]))
    assert result.normaliser == BOX
    assert result.NME == pytest.approx(6 / 3 / 60)  # the square root of 40 x 90


def test_a_box_without_both_eyes_is_left_out_and_counted() -> None:
    blind = ([10.0, 10, 60, 60], [[20.0, 20, 0], [40, 20, 2], [30, 30, 2]])
    data = dataset([FACE, blind])
    result = evaluate_landmarks(data, predicted(data, [[[1, 0], [1, 0], [1, 0]], [[9, 9], [9, 9], [9, 9]]]))
    assert (result.NME, result.boxes, result.left_out) == (pytest.approx(1 / 20), 1, 1)
    alone = dataset([blind])
    result = evaluate_landmarks(alone, predicted(alone, 0), mean_shape(alone))
    assert set(result.figures().values()) == {-1}
    assert (result.boxes, result.left_out) == (0, 1)


def test_crowds_and_boxes_without_points_are_not_measured() -> None:
    data = dataset([FACE, ([0.0, 0, 50, 50], [[0, 0, 0]] * 3), WIDE])
    (sample,) = data
    data = replace(data, samples=(replace(sample, truth=replace(sample.truth, crowd=[False, False, True])),))
    assert evaluate_landmarks(data, predicted(data, [2, 0])).boxes == 1


def test_the_mean_shape_and_what_it_scores() -> None:
    train = dataset([FACE], [WIDE])
    shape = mean_shape(train)
    # in their boxes: eyes at (0.2, 0.2) and (0.125, 0.125), (0.6, 0.2) and (0.625, 0.125); one nose at (0.4, 0.4)
    np.testing.assert_allclose(shape, [[0.1625, 0.1625], [0.6125, 0.1625], [0.4, 0.4]], atol=1e-6)
    np.testing.assert_allclose(lay_shape(shape, np.array([[10.0, 10, 60, 60]]))[0, 2], [30, 30], atol=1e-5)
    val = dataset([FACE])
    result = evaluate_landmarks(val, predicted(val, [1, 0]), shape)
    eye, other = np.hypot(0.0375, 0.0375) * 50, np.hypot(0.0125, 0.0375) * 50
    assert result.baseline_NME == pytest.approx((eye + other) / 3 / 20, rel=1e-4)
    assert result.ratio == pytest.approx(result.baseline_NME / 0.05)
    curve = dict(result.baseline_curve)
    assert (curve[0.0], curve[0.075], curve[0.08]) == (0, 0, 1)  # its error is 0.0772


def test_a_box_with_a_point_the_mean_shape_lacks_has_no_part_in_it() -> None:
    plain = ([10.0, 10, 50, 100], [[20.0, 20, 2], [40, 20, 2], [30, 30, 0]])
    nose = ([10.0, 10, 50, 100], [[20.0, 20, 0], [40, 20, 0], [30, 30, 2]])
    data = dataset([plain, nose], names=("a", "b", "c"))
    shape = mean_shape(dataset([plain], names=("a", "b", "c")))
    result = evaluate_landmarks(data, predicted(data, [[[0, 0]] * 3, [[0, 6]] * 3]), shape)
    assert (result.boxes, result.baseline_NME) == (2, pytest.approx(0, abs=1e-7))
    assert [(box.name, box.row, round(box.error, 6)) for box in result.worst] == [("1.png", 1, 0.1), ("1.png", 0, 0)]


def test_the_cards_mean_shape() -> None:
    card = ModelCard("landmarks", {}, ("face",), (96, 96), point_names=("a", "b"))
    assert shape_of_card(card) is None
    known = replace(card, training={"mean_shape": [[0.5, 0.25], [None, None]]})
    np.testing.assert_array_equal(shape_of_card(known), [[0.5, 0.25], [np.nan, np.nan]])
    for odd in ([[1, 2]], "shape", [[1, 2], [3]], [["a", 1], [2, 3]], {"a": 1}):
        assert shape_of_card(replace(card, training={"mean_shape": odd})) is None


def test_results_in_cocos_format() -> None:
    data = dataset([FACE])
    (row,) = points_results(data, predicted(data, 1))
    assert row == {
        "image_id": 1,
        "category_id": 5,
        "bbox": [10, 10, 50, 50],
        "keypoints": [21, 21, 0.5, 41, 21, 0.5, 31, 31, 0.5],
        "score": 0.5,
    }


def test_what_does_not_fit_is_refused() -> None:
    data = dataset([FACE])
    good = predicted(data, 0)
    with pytest.raises(DataError, match="expected 1 photos"):
        evaluate_landmarks(data, [])
    for points in (None, np.zeros((1, 2, 3)), np.full((1, 3, 3), np.nan)):
        with pytest.raises(DataError, match=r"1\.png: predicted points do not fit"):
            evaluate_landmarks(data, [replace(good[0], points_xyv=points)])
    empty = dataset([])
    with pytest.raises(DataError, match="no box has a labelled point"):
        evaluate_landmarks(empty, predicted(empty, np.zeros((0, 3, 2))))
