"""Anchors: shape IoU, k-means, best possible recall, and the two collisions a grid must lose."""

from __future__ import annotations

import numpy as np
import pytest

from detkit.models.anchors import (
    anchor_fit,
    count_collisions,
    kmeans_anchors,
    shape_iou_matrix,
    shape_ratio_matrix,
)


def test_shape_iou_by_hand() -> None:
    a, b = np.array([[10.0, 20.0]]), np.array([[10.0, 20.0], [20.0, 10.0], [5.0, 10.0]])
    assert shape_iou_matrix(a, b) == pytest.approx(np.array([[1.0, 100 / 300, 50 / 200]]))


def test_shape_iou_of_empty_shapes_is_zero_not_nan() -> None:
    assert shape_iou_matrix(np.zeros((1, 2)), np.zeros((1, 2))).tolist() == [[0.0]]
    assert shape_iou_matrix(np.zeros((0, 2)), np.ones((3, 2))).shape == (0, 3)


def test_shape_ratio_is_the_worst_side_in_either_direction() -> None:
    ratio = shape_ratio_matrix(np.array([[10.0, 30.0]]), np.array([[20.0, 30.0], [10.0, 10.0], [5.0, 90.0]]))
    assert ratio == pytest.approx(np.array([[2.0, 3.0, 3.0]]))


def test_kmeans_finds_three_clear_groups() -> None:
    rng = np.random.default_rng(1)
    centres = np.array([[10.0, 10.0], [50.0, 100.0], [200.0, 80.0]])
    sizes = np.concatenate([c * rng.uniform(0.95, 1.05, (40, 2)) for c in centres])
    assert kmeans_anchors(sizes, 3) == pytest.approx(centres, rel=0.05)


def test_kmeans_beats_a_fixed_ladder_and_is_repeatable() -> None:
    sizes = np.exp(np.random.default_rng(2).normal([3.5, 4.0], 0.7, (500, 2)))
    found = kmeans_anchors(sizes, 9)
    ladder = np.repeat(np.geomspace(10, 300, 9)[:, None], 2, axis=1)
    assert np.array_equal(found, kmeans_anchors(sizes, 9))
    assert (np.diff(found.prod(1)) >= 0).all()
    assert anchor_fit(sizes, found, 4.0).mean_iou > anchor_fit(sizes, ladder, 4.0).mean_iou + 0.02


@pytest.mark.parametrize("sizes", [np.zeros((0, 2)), np.array([[20.0, 30.0]]), np.full((50, 2), 16.0)])
def test_kmeans_with_fewer_shapes_than_anchors(sizes: np.ndarray) -> None:
    anchors = kmeans_anchors(sizes, 9)
    assert anchors.shape == (9, 2)
    assert np.isfinite(anchors).all()
    assert (anchors > 0).all()


def test_anchor_fit_by_hand() -> None:
    anchors = np.array([[10.0, 10.0], [30.0, 30.0]])
    fit = anchor_fit(np.array([[10.0, 10.0], [20.0, 20.0], [500.0, 10.0]]), anchors, 4.0)
    assert fit.best_possible_recall == pytest.approx(2 / 3)  # 500 is 16 times 30
    assert fit.anchors_per_target == pytest.approx((2 + 2 + 0) / 3)
    assert fit.mean_iou == pytest.approx((1 + 400 / 900 + 300 / (5000 + 900 - 300)) / 3)
    assert anchor_fit(np.zeros((0, 2)), anchors, 4.0).best_possible_recall == 0


def test_collisions_by_hand() -> None:
    anchors = [np.array([[10.0, 10.0], [10.0, 30.0]])]  # one level, two anchors, stride 16
    same_cell = [[4.0, 4, 10, 10], [6, 6, 10, 30], [8, 8, 30, 10]]  # three objects, two anchors
    other = [[20.0, 4, 10, 10], [30, 4, 11, 11]]  # one cell, one shape
    found = count_collisions([np.array(same_cell), np.array(other), np.zeros((0, 4))], [16], anchors)
    assert found.objects == 5
    assert (found.crowded_cells, found.objects_lost_to_crowding) == (1, 1)
    # the 30x10 box fits both anchors alike (IoU 1/3 each): it goes to the first, where a 10x10 box sits already
    assert (found.same_shape_cells, found.objects_lost_to_same_shape) == (2, 2)


def test_objects_in_one_cell_of_different_shape_do_not_collide() -> None:
    anchors = [np.array([[10.0, 10.0], [10.0, 30.0]])]
    found = count_collisions([np.array([[4.0, 4, 10, 10], [6, 6, 10, 30]])], [16], anchors)
    assert found.objects_lost_to_crowding == found.objects_lost_to_same_shape == 0
