"""NMS: hand-made cases, a plain loop as oracle, and torchvision's keep-lists on random and tied boxes."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from detkit import boxes
from detkit.nms import nms, soft_nms
from detkit.nms_operator import model_bytes


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def oracle(boxes_xyxy, scores, labels, iou_threshold):
    """The definition, one pair at a time, with float32 rounding."""
    b, kept = np.asarray(boxes_xyxy, np.float32), []
    areas = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    for i in sorted(range(len(b)), key=lambda row: -scores[row]):
        for j in kept:
            if labels[i] != labels[j]:
                continue
            width = max(np.float32(0), min(b[i, 2], b[j, 2]) - max(b[i, 0], b[j, 0]))
            height = max(np.float32(0), min(b[i, 3], b[j, 3]) - max(b[i, 1], b[j, 1]))
            union = areas[i] + areas[j] - width * height
            if union > 0 and float(width * height / union) > iou_threshold:
                break
        else:
            kept.append(i)
    return kept


def random_case(rng: np.random.Generator, count: int, classes: int, style: int):
    """Boxes in clusters or scattered; styles 1 to 3 round coordinates and scores so that ties abound."""
    corner_xy, size_wh = rng.uniform(0, 560, (count, 2)), rng.uniform(8, 160, (count, 2))
    boxes_xyxy = np.concatenate([corner_xy, corner_xy + size_wh], axis=1)
    labels, scores = rng.integers(0, classes, count), rng.random(count)
    if count and rng.random() < 0.5:
        owner = rng.integers(0, max(count // 15, 1), count)
        boxes_xyxy, labels = boxes_xyxy[owner] + rng.normal(0, 5, (count, 4)), labels[owner]
    if style == 1:
        boxes_xyxy = np.round(boxes_xyxy / 8) * 8
    if style == 2:
        boxes_xyxy, scores = np.round(boxes_xyxy / 20) * 20, np.round(scores * 4) / 4
    if style == 3:
        scores = np.round(scores * 20) / 20
    return boxes_xyxy.astype(np.float32), scores.astype(np.float32), labels


def test_no_boxes():
    for none in (np.zeros((0, 4), np.float32), []):
        kept = nms(none, [], [])
        assert kept.shape == (0,)
        assert kept.dtype == np.int64
        assert nms(none, []).shape == (0,)
        kept, scores = soft_nms(none, [], [])
        assert kept.shape == scores.shape == (0,)
        assert (kept.dtype, scores.dtype) == (np.int64, np.float32)


def test_one_box():
    assert nms([[0, 0, 10, 10]], [0.5], [3]).tolist() == [0]


def test_the_better_of_two_overlapping_boxes_stays():
    pair = [[0, 0, 10, 10], [1, 0, 11, 10]]  # IoU 9 / 11
    assert nms(pair, [0.5, 0.9]).tolist() == [1]
    assert nms(pair, [0.5, 0.9], [0, 0]).tolist() == [1]
    assert nms(pair, [0.5, 0.9], [0, 1]).tolist() == [1, 0]
    assert nms(pair, [0.5, 0.9], iou_threshold=0.82).tolist() == [1, 0]


def test_a_suppressed_box_suppresses_nothing():
    chain = [[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]]  # neighbours 7 / 13, ends 4 / 16
    assert nms(chain, [0.9, 0.8, 0.7], iou_threshold=0.5).tolist() == [0, 2]


def test_an_overlap_equal_to_the_threshold_stays():
    half = [[0, 0, 2, 1], [0, 0, 1, 1]]
    assert nms(half, [0.9, 0.8], iou_threshold=0.5).tolist() == [0, 1]
    assert nms(half, [0.9, 0.8], iou_threshold=0.4999999).tolist() == [0]
    three_fifths = [[0, 0, 5, 1], [0, 0, 3, 1]]  # in float32 3 / 5 is a little more than 0.6, as for torchvision
    assert nms(three_fifths, [0.9, 0.8], iou_threshold=0.6).tolist() == [0]


def test_equal_scores_keep_the_earlier_box():
    assert nms([[0, 0, 10, 10]] * 3 + [[50, 50, 60, 60]], [0.5] * 4).tolist() == [0, 3]


def test_boxes_without_area_neither_warn_nor_suppress():
    assert nms([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]], [0.9, 0.8, 0.7], [0, 0, 0]).tolist() == [0, 1, 2]
    assert nms([[0, 0, 3e38, 3e38], [0, 0, 1, 1]], [0.9, 0.8], [0, 1]).tolist() == [0, 1]


def test_a_box_that_ends_before_it_begins_suppresses_nothing():
    square, swapped = [0, 0, 10, 10], ([10, 0, 0, 10], [0, 10, 10, 0], [10, 10, 0, 0])
    for other in swapped:
        for both in ([square, other], [other, square], [other, other]):
            assert nms(both, [0.9, 0.8], None, 0.0).tolist() == [0, 1]
            assert nms(both, [0.9, 0.8], [2, 2], 0.0).tolist() == [0, 1]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("column", range(4))
def test_a_number_beyond_all_bounds_stays_alone(odd, column):
    boxes_xyxy = np.array([[0, 0, 10, 10]] * 3, np.float32)
    boxes_xyxy[1, column] = odd
    assert 1 in nms(boxes_xyxy, [0.7, 0.8, 0.9], None, 0.5)
    assert nms(boxes_xyxy, [0.7, 0.8, 0.9], None, 0.5)[0] == 2
    assert 0 not in nms(boxes_xyxy, [0.7, 0.8, 0.9], None, 0.5)


def test_thresholds_at_and_beyond_the_ends():
    twice = [[0, 0, 10, 10], [0, 0, 10, 10], [9, 9, 19, 19], [10, 10, 20, 20]]
    for threshold, kept in ((0.0, [0, 3]), (1.0, [0, 1, 2, 3]), (1.5, [0, 1, 2, 3]), (np.inf, [0, 1, 2, 3])):
        assert nms(twice, [0.9, 0.8, 0.6, 0.7], None, threshold).tolist() == sorted(kept, key=[0, 1, 3, 2].index)
    for wrong in (-0.1, np.nan):
        with pytest.raises(ValueError, match="iou_threshold"):
            nms(twice, [0.9] * 4, None, wrong)


def test_equal_scores_come_by_ascending_index():
    apart = np.arange(1500, dtype=np.float32)[:, None] * 20 + np.array([0, 0, 10, 10], np.float32)
    for count in (600, 1500):
        for labels in (None, np.zeros(count, int), np.arange(count) % 90):
            assert nms(apart[:count], np.full(count, 0.5), labels).tolist() == list(range(count))


def test_two_classes_never_meet_even_below_zero():
    # moving classes apart by the largest coordinate, as torchvision does, would lay the second box on the first
    assert nms([[0, 0, 10, 10], [-11, -11, -1, -1]], [0.9, 0.8], [0, 1], 0.5).tolist() == [0, 1]


def test_wrong_shapes_are_refused():
    for wrong in (
        (np.zeros((2, 5)), [0.1, 0.2], None),
        (np.zeros((2, 4)), [0.1], None),
        (np.zeros((2, 4)), [0.1, 0.2], [1]),
        (np.zeros((2, 4)), [[0.1], [0.2]], None),
    ):
        with pytest.raises(ValueError, match="expected"):
            nms(*wrong)


@pytest.mark.parametrize("count", [2, 5, 40, 300])
def test_the_plain_loop_agrees(count):
    rng = np.random.default_rng(count)
    for case in range(12):
        boxes_xyxy, scores, labels = random_case(rng, count, (1, 3)[case % 2], case % 4)
        boxes_xyxy = np.round(boxes_xyxy)  # so that moving classes apart rounds nothing
        threshold = (0.3, 0.5, 0.6)[case % 3]
        assert nms(boxes_xyxy, scores, labels, threshold).tolist() == oracle(boxes_xyxy, scores, labels, threshold)
        alone = np.zeros_like(labels)
        assert nms(boxes_xyxy, scores, None, threshold).tolist() == oracle(boxes_xyxy, scores, alone, threshold)


@pytest.mark.parametrize(("count", "classes"), [(90, 85), (700, 300), (1100, 5), (1100, 1000)])
def test_the_plain_loop_agrees_on_many_classes(count, classes):
    rng = np.random.default_rng(count + classes)
    boxes_xyxy, scores, _ = random_case(rng, count, 1, 3)
    boxes_xyxy, labels = np.round(boxes_xyxy), rng.integers(0, classes, count)
    labels[: count // 2] = labels[0]  # one large class among small ones
    expected = oracle(boxes_xyxy, scores, labels, 0.3)
    assert nms(boxes_xyxy, scores, labels, 0.3).tolist() == expected
    if count > 1000:  # below that the label moves the boxes, which would round them
        for renamed in (labels - 700, labels + (1 << 40), labels // 2 - labels % 2 * (1 << 16)):
            assert nms(boxes_xyxy, scores, renamed, 0.3).tolist() == expected


@pytest.mark.parametrize("style", range(4))
def test_torchvision_keeps_the_same(style):
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(style)
    for _ in range(250):
        count, classes = int(rng.choice([1, 2, 7, 60, 300, 1000, 1001, 1600])), int(rng.choice([1, 2, 6, 80]))
        boxes_xyxy, scores, labels = random_case(rng, count, classes, style)
        threshold = float(rng.choice([0.0, 0.2, 0.45, 0.5, 0.6, 0.7, 1.0]))
        tensors = torch.from_numpy(boxes_xyxy), torch.from_numpy(scores)
        expected = ops.batched_nms(*tensors, torch.from_numpy(labels), threshold).numpy()
        if count > 1000:  # there torchvision's last sort is not stable: put equal scores in order
            expected = expected[np.lexsort((expected, -scores[expected]))]
        np.testing.assert_array_equal(nms(boxes_xyxy, scores, labels, threshold), expected)
        if count <= 300:
            np.testing.assert_array_equal(
                nms(boxes_xyxy, scores, None, threshold), ops.nms(*tensors, threshold).numpy()
            )


def test_torchvision_keeps_the_same_of_odd_boxes():
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(8)
    for case in range(60):
        boxes_xyxy, scores, _ = random_case(rng, 400, 5, case % 4)
        boxes_xyxy = boxes_xyxy[:, rng.permutation(4)] - 200  # some end before they begin, some lie below zero
        boxes_xyxy[rng.integers(0, 400, 20), rng.integers(0, 4, 20)] = np.inf if case % 3 else np.nan
        expected = ops.nms(torch.from_numpy(boxes_xyxy), torch.from_numpy(scores), 0.4).numpy()
        np.testing.assert_array_equal(nms(boxes_xyxy, scores, None, 0.4), expected)


def test_the_operator_is_a_valid_model():
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(model_bytes(), full_check=True)
    (node,) = onnx.load_from_string(model_bytes()).graph.node
    assert node.op_type == "NonMaxSuppression"


def test_threads_share_the_operator():
    cases = [random_case(np.random.default_rng(seed), 300, 5, 0) for seed in range(40)]
    alone = [nms(*case).tolist() for case in cases]
    with ThreadPoolExecutor(4) as pool:
        assert [kept.tolist() for kept in pool.map(lambda case: nms(*case), cases)] == alone


def test_arguments_are_not_changed():
    boxes_xyxy, scores, labels = random_case(np.random.default_rng(0), 300, 5, 0)
    before = boxes_xyxy.copy(), scores.copy(), labels.copy()
    nms(boxes_xyxy, scores, labels)
    soft_nms(boxes_xyxy, scores, labels)
    for now, then in zip((boxes_xyxy, scores, labels), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_soft_nms_by_hand():
    triple = [[0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]]  # IoU of the first two 0.5
    kept, scores = soft_nms(triple, [0.9, 0.8, 0.6], method="linear", iou_threshold=0.3)
    assert kept.tolist() == [0, 2, 1]
    np.testing.assert_allclose(scores, [0.9, 0.6, 0.8 * 0.5], rtol=1e-6)
    kept, scores = soft_nms(triple, [0.9, 0.8, 0.6], sigma=0.5)
    assert kept.tolist() == [0, 2, 1]
    np.testing.assert_allclose(scores, [0.9, 0.6, 0.8 * np.exp(-0.5)], rtol=1e-6)
    kept, scores = soft_nms(triple, [0.9, 0.8, 0.6], [0, 1, 0])
    assert kept.tolist() == [0, 1, 2]
    np.testing.assert_allclose(scores, [0.9, 0.8, 0.6], rtol=1e-6)
    assert soft_nms(triple, [0.9, 0.8, 0.6], score_threshold=0.55)[0].tolist() == [0, 2]
    assert soft_nms(triple, [0.9, 0.8, 0.6], method="linear", iou_threshold=0.5)[0].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="cosine"):
        soft_nms(triple, [0.9, 0.8, 0.6], method="cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["gaussian", "linear"])
def test_soft_nms_agrees_with_a_plain_loop(method):
    boxes_xyxy, scores, labels = random_case(np.random.default_rng(3), 80, 3, 0)
    iou = boxes.iou_matrix(boxes_xyxy, boxes_xyxy)
    current, todo, expected = scores.astype(np.float64), set(range(80)), {}
    while todo:
        best = max(todo, key=lambda row: current[row])
        todo.remove(best)
        expected[best] = current[best]
        for row in todo:
            if labels[row] == labels[best] and (method == "gaussian" or iou[best, row] > 0.3):
                current[row] *= np.exp(-(iou[best, row] ** 2) / 0.5) if method == "gaussian" else 1 - iou[best, row]
    kept, new_scores = soft_nms(boxes_xyxy, scores, labels, method=method, score_threshold=1e-9)
    wanted = [row for row in expected if expected[row] >= 1e-9]
    assert sorted(kept.tolist()) == sorted(wanted)
    np.testing.assert_allclose(new_scores, [expected[row] for row in kept], rtol=1e-4)
    assert (np.diff(new_scores) <= 0).all()
