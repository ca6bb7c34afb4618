"""`Detections`: validated once, never None when empty, indexed by rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from detkit.detections import Detections


def three() -> Detections:
    return Detections(
        size_hw=(30, 60),
        boxes_xyxy=[[0, 0, 10, 10], [1, 2, 3, 4], [5, 5, 50, 20]],
        labels=[0, 1, 0],
        scores=[0.5, 0.25, 1],
        points_xyv=np.arange(18).reshape(3, 2, 3),
        track_ids=[7, 8, 9],
        crowd=[False, True, False],
    )


@pytest.mark.parametrize("scored", [True, False])
def test_empty(scored):
    none = Detections.empty((30, 60), scored=scored)
    assert len(none) == 0
    assert none.boxes_xyxy.shape == (0, 4)
    assert (none.scores is not None) == scored
    assert none == none[:0] == none[[]] == none[np.zeros(0, bool)]


def test_empty_lists_become_empty_columns():
    none = Detections((30, 60), [], [], [], crowd=[])
    assert none.boxes_xyxy.shape == (0, 4)
    assert (none.labels.shape, none.scores.shape, none.crowd.shape) == ((0,), (0,), (0,))
    assert len(three()[[]]) == 0
    assert three()[[]].points_xyv.shape == (0, 2, 3)


def test_columns_get_their_types():
    d = three()
    assert d.size_hw == (30, 60)
    assert d.boxes_xyxy.dtype == d.scores.dtype == d.points_xyv.dtype == np.float32
    assert d.labels.dtype == d.track_ids.dtype == np.int64
    assert d.crowd.dtype == np.bool_


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (1, [1]),
        (np.int64(2), [2]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (np.array([True, False, True]), [0, 2]),
        (np.array([1, 1]), [1, 1]),
    ],
)
def test_indexing_takes_the_same_rows_of_every_column(index, rows):
    whole, part = three(), three()[index]
    assert part.size_hw == whole.size_hw
    for field in dataclasses.fields(Detections)[1:]:
        np.testing.assert_array_equal(getattr(part, field.name), getattr(whole, field.name)[rows])


def test_indexing_leaves_absent_columns_absent():
    truth = Detections((30, 60), [[0, 0, 1, 1]], [0])
    assert truth[0].scores is None
    assert truth[[True]].points_xyv is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"boxes_xyxy": np.zeros((3, 5))},
        {"boxes_xyxy": np.zeros((2, 4))},
        {"labels": [0, 1]},
        {"labels": [[0], [1], [0]]},
        {"scores": [0.5]},
        {"points_xyv": np.zeros((3, 2, 2))},
        {"points_xyv": np.zeros((3, 6))},
        {"track_ids": [1, 2, 3, 4]},
        {"crowd": [True]},
    ],
)
def test_a_column_that_does_not_fit_is_refused_by_name(wrong):
    (name,) = wrong
    columns = {field.name: getattr(three(), field.name) for field in dataclasses.fields(Detections)}
    with pytest.raises(ValueError, match="expected") as caught:
        Detections(**{**columns, **wrong})
    assert name in str(caught.value) or name == "boxes_xyxy"


def test_equality_compares_every_column():
    assert three() == three()
    assert three() != three()[:2]
    for change in ({"scores": None}, {"labels": [0, 0, 0]}, {"size_hw": (60, 30)}, {"crowd": [True, True, True]}):
        assert dataclasses.replace(three(), **change) != three()
    assert three() != "three"


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        three().labels = np.zeros(3)
