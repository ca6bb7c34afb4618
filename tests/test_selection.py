"""From a network's arrays to detections: classes, thresholds, suppression, limits, and back to the photo."""

from __future__ import annotations

import numpy as np
import pytest

from detkit.errors import UsageError
from detkit.images import Placement, place
from detkit.infer.selection import Selection, class_labels, select
from detkit.nms import soft_nms

SAME = Placement((100, 100), (100, 100), (1.0, 1.0), (0.0, 0.0))
ALL = Selection(conf=0.1, iou=0.5)
BOXES = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)  # the first two overlap: IoU 9 / 11


def scores(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_nothing_found_is_empty_detections() -> None:
    for matrix, boxes in ((np.zeros((3, 2), np.float32), BOXES), (np.zeros((0, 2), np.float32), BOXES[:0])):
        found = select(boxes, matrix, Placement((64, 64), (30, 50), (1.0, 1.0), (0.0, 0.0)), ALL)
        assert len(found) == 0
        assert found.size_hw == (30, 50)
        assert found.scores is not None


def test_scores_at_the_threshold_stay_and_below_it_go() -> None:
    found = select(BOXES, scores([0, 0], [0.25, 0], [0, 0.2499]), SAME, Selection(conf=0.25, iou=0.5))
    assert found.scores.tolist() == [0.25]


def test_a_box_may_win_in_two_classes_and_the_best_comes_first() -> None:
    found = select(BOXES[2:], scores([0.3, 0.8]), SAME, ALL)
    assert found.labels.tolist() == [1, 0]
    np.testing.assert_allclose(found.scores, [0.8, 0.3])
    np.testing.assert_array_equal(found.boxes_xyxy, BOXES[[2, 2]])


def test_overlap_counts_within_a_class_or_across_all() -> None:
    matrix = scores([0.9, 0], [0, 0.8], [0.7, 0])
    assert len(select(BOXES, matrix, SAME, ALL)) == 3
    agnostic = select(BOXES, matrix, SAME, Selection(0.1, 0.5, nms="agnostic"))
    np.testing.assert_array_equal(agnostic.boxes_xyxy, BOXES[[0, 2]])
    assert len(select(BOXES, scores([0.9, 0], [0.8, 0], [0.7, 0]), SAME, ALL)) == 2
    assert len(select(BOXES, scores([0.9, 0], [0.8, 0], [0.7, 0]), SAME, Selection(0.1, 0.95))) == 3


def test_limits_keep_the_best() -> None:
    matrix = scores([0.5, 0], [0, 0.6], [0.7, 0])
    assert select(BOXES, matrix, SAME, Selection(0.1, 0.5, max_det=2)).scores.tolist() == pytest.approx([0.7, 0.6])
    found = select(BOXES, matrix, SAME, Selection(0.1, 0.5, max_candidates=1))
    assert found.scores.tolist() == pytest.approx([0.7])


def test_among_equal_scores_the_candidate_limit_keeps_the_earlier() -> None:
    boxes = np.array([[x, 0, x + 5, 5] for x in range(0, 100, 10)], np.float32)
    matrix = np.full((10, 1), 0.5, np.float32)
    matrix[7] = 0.9
    found = select(boxes, matrix, SAME, Selection(0.1, 0.5, max_candidates=3))
    assert found.boxes_xyxy[:, 0].tolist() == [70, 0, 10]


def test_boxes_go_back_to_the_photo_and_padding_holds_none() -> None:
    """A 40 x 20 photo on a 64 x 64 canvas: scale 1.6, 16 px of padding above and below."""
    _, placement = place(np.zeros((20, 40, 3), np.uint8), (64, 64), "letterbox")
    boxes = np.array([[0, 16, 32, 32], [0, 0, 64, 15], [-50, 0, 640, 640]], np.float32)
    limit = Selection(0.1, 0.5, max_det=2)
    found = select(boxes, scores([0.5], [0.9], [0.7]), placement, limit)
    assert found.size_hw == (20, 40)
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 40, 20], [0, 0, 20, 10]], atol=1e-4)


def test_what_is_not_finite_is_no_detection() -> None:
    boxes = BOXES.copy()
    boxes[0, 2] = np.inf
    found = select(boxes, scores([0.9], [np.nan], [0.8]), SAME, ALL)
    assert found.scores.tolist() == pytest.approx([0.8])


def test_points_follow_their_boxes() -> None:
    points = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    placement = Placement((64, 64), (100, 100), (2.0, 2.0), (4.0, 0.0))
    found = select(BOXES, scores([0.1], [0.2], [0.9]), placement, Selection(0.5, 0.5), points)
    np.testing.assert_allclose(found.points_xyv, [[[4, 6.5, 14], [5.5, 8, 17]]])


# ---- soft suppression --------------------------------------------------------------------------------------------


def test_soft_suppression_shrinks_the_score_of_what_overlaps() -> None:
    """IoU 9 / 11, so the second box keeps 2 / 11 of its score; the third overlaps nothing."""
    matrix = scores([0.9, 0], [0.8, 0], [0.3, 0])
    found = select(BOXES, matrix, SAME, Selection(0.1, 0.5, nms="soft"))
    np.testing.assert_allclose(found.scores, [0.9, 0.3, 0.8 * 2 / 11], rtol=1e-5)
    np.testing.assert_array_equal(found.boxes_xyxy, BOXES[[0, 2, 1]])
    assert len(select(BOXES, matrix, SAME, Selection(0.2, 0.5, nms="soft"))) == 2
    above = select(BOXES, matrix, SAME, Selection(0.2, 0.9, nms="soft"))  # the overlap is below `iou`
    np.testing.assert_allclose(above.scores, [0.9, 0.8, 0.3])


def test_soft_suppression_is_soft_nms_and_keeps_points_with_their_boxes() -> None:
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 40, (30, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (30, 2))], 1).astype(np.float32)
    matrix, points = rng.uniform(0, 1, (30, 1)).astype(np.float32), np.arange(90, dtype=np.float32).reshape(30, 1, 3)
    found = select(boxes, matrix, SAME, Selection(0.3, 0.4, nms="soft"), points)
    kept, expected = soft_nms(boxes, matrix[:, 0], method="linear", iou_threshold=0.4, score_threshold=0.3)
    np.testing.assert_array_equal(found.boxes_xyxy, boxes[kept])
    np.testing.assert_array_equal(found.scores, expected)
    np.testing.assert_array_equal(found.points_xyv, points[kept])


def test_soft_suppression_respects_the_threshold_of_each_class() -> None:
    soft = Selection(0.1, 0.5, nms="soft", class_conf=(0.1, 0.2))
    for label, kept in ((0, 2), (1, 1)):  # the second box falls to 0.145
        matrix = np.zeros((2, 2), np.float32)
        matrix[:, label] = 0.9, 0.8
        assert len(select(BOXES[:2], matrix, SAME, soft)) == kept
    assert len(select(BOXES[:0], np.zeros((0, 2), np.float32), SAME, soft)) == 0


# ---- classes -----------------------------------------------------------------------------------------------------


def test_other_classes_are_neither_shown_nor_suppress() -> None:
    matrix = scores([0.9, 0], [0, 0.8], [0.7, 0])
    found = select(BOXES, matrix, SAME, Selection(0.1, 0.5, nms="agnostic", classes=(1,)))
    assert found.labels.tolist() == [1]
    np.testing.assert_array_equal(found.boxes_xyxy, BOXES[[1]])  # label 0 would have suppressed it
    found = select(BOXES, matrix, SAME, Selection(0.1, 0.5, classes=(1,), max_candidates=1))
    assert found.labels.tolist() == [1]  # and the better boxes of label 0 took no candidate's place
    assert select(BOXES, matrix, SAME, Selection(0.1, 0.5, classes=(0, 1))) == select(BOXES, matrix, SAME, ALL)


def test_each_class_may_have_its_threshold() -> None:
    matrix = scores([0.4, 0], [0, 0.4], [0.5, 0.3])
    found = select(BOXES, matrix, SAME, Selection(0.99, 0.5, class_conf=(0.45, 0.3)))
    assert found.labels.tolist() == [0, 1, 1]
    np.testing.assert_allclose(found.scores, [0.5, 0.4, 0.3])
    found = select(BOXES, matrix, SAME, Selection(0.99, 0.5, class_conf=(0.45, 0.3), classes=(0,)))
    assert found.labels.tolist() == [0]


@pytest.mark.parametrize("conf", [0.1, 0.3, 0.7, 0.9])
def test_a_score_as_large_as_a_threshold_passes_however_it_is_rounded(conf: float) -> None:
    matrix = scores([conf], [conf - 1e-6])
    for selection in (Selection(conf, 0.5), Selection(0.5, 0.5, class_conf=(conf,))):
        assert len(select(BOXES[[0, 2]], matrix, SAME, selection)) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"class_conf": (0.5, 0.5, 0.5)}, "3 thresholds; expected 2"),
        ({"class_conf": ()}, "0 thresholds; expected 2"),
        ({"classes": (0, 2)}, "label 2; expected below 2"),
    ],
)
def test_settings_of_another_model_are_refused(wrong: dict[str, tuple], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        select(BOXES, scores([1, 0], [0, 0], [0, 0]), SAME, Selection(0.1, 0.5, **wrong))


@pytest.mark.parametrize(
    "wrong",
    [{"class_conf": (0.5, 1.5)}, {"class_conf": (float("nan"),)}, {"classes": ()}, {"classes": (-1,)}, {"nms": "hard"}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Selection(0.1, 0.5, **wrong)


def test_names_become_labels() -> None:
    names = ("person", "car", "traffic light", "salt, pepper")
    assert class_labels("car,person", names) == (0, 1)
    assert class_labels(" car , car,", names) == (1,)
    assert class_labels(["traffic light", "person,car"], names) == (0, 1, 2)
    assert class_labels("salt, pepper", names) == (3,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("person,cars", r"no class 'cars'; did you mean 'car'\?; expected person, car, bus"),
        ("Person", r"no class 'Person'; did you mean 'person'\?"),
        ("giraffe", r"no class 'giraffe'; expected person, car, bus"),
        ("", "no class is named"),
        (" , ", "no class is named"),
        ([], "no class is named"),
    ],
)
def test_a_name_the_model_does_not_know_is_refused(text: str | list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        class_labels(text, ("person", "car", "bus"))


def test_a_long_list_of_classes_is_cut_short() -> None:
    with pytest.raises(UsageError, match="class 11 and 68 more"):
        class_labels("x", [f"class {k}" for k in range(80)])
