"""VOC's AP: worked out by hand, and equal to a plain reading of its rules on random cases."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from test_evaluate_coco import dataset_of, found, random_case, truth

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.evaluate.voc import VocResult, all_point_ap, eleven_point_ap, evaluate_voc

SQUARE, AWAY = (0, 0, 100, 100), (200, 200, 300, 300)


def test_hit_false_alarm_hit_and_a_miss() -> None:
    """Precision 1 up to recall 1/3 (recalls 0 to 0.3), 2/3 up to recall 2/3 (0.4 to 0.6), then nothing."""
    dataset = dataset_of([truth(SQUARE)] * 3)
    result = evaluate_voc(dataset, [found((*SQUARE, 0, 0.9)), found((*AWAY, 0, 0.8)), found((*SQUARE, 0, 0.7))])
    assert result.mAP == pytest.approx((1 + 2 / 3) / 3)
    assert result.mAP11 == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    row = result.per_class[0]
    assert (row.AP, row.AP11, row.truths, row.detections) == (result.mAP, result.mAP11, 3, 3)


def test_recall_of_three_tenths_reaches_the_point_at_0_3() -> None:
    """In floating point 3 * 0.1 lies above 0.3; the rule is about numbers, not about their rounding."""
    hits = np.array([True] * 3)
    assert eleven_point_ap(hits, 10) == pytest.approx(4 / 11)
    assert all_point_ap(hits, 10) == pytest.approx(0.3)
    assert [eleven_point_ap(np.array([True] * k), 10) for k in range(11)] == pytest.approx(
        [(k + 1) / 11 if k else 0 for k in range(11)]
    )


def test_a_second_detection_of_one_object_is_wrong_though_another_is_free() -> None:
    """Both overlap the first box most; by COCO's rule the second would take the other box."""
    dataset = dataset_of([truth((0, 0, 100, 100), (0, 40, 100, 140))])
    predictions = [found((0, 0, 100, 100, 0, 0.9), (0, 15, 100, 115, 0, 0.8))]
    assert evaluate_voc(dataset, predictions).mAP == pytest.approx(0.5)


def test_difficult_boxes_count_neither_way() -> None:
    dataset = dataset_of([truth(SQUARE, AWAY, crowd=[False, True])])
    on_difficult = [(*AWAY, 0, 0.9), (*AWAY, 0, 0.8)]
    result = evaluate_voc(dataset, [found(*on_difficult, (*SQUARE, 0, 0.7))])
    assert (result.mAP, result.mAP11, result.difficult, result.per_class[0].truths) == (1, 1, 1, 1)
    elsewhere = found(*on_difficult, (0, 200, 9, 209, 0, 0.75), (*SQUARE, 0, 0.7))
    assert evaluate_voc(dataset, [elsewhere]).mAP == 0.5


def test_an_overlap_of_exactly_the_threshold_counts() -> None:
    dataset = dataset_of([truth((0, 0, 100, 100))])
    half = [found((0, 0, 100, 50, 0, 0.9))]
    assert evaluate_voc(dataset, half).mAP == 1
    assert evaluate_voc(dataset, half, iou=0.51).mAP == 0


def test_nothing_to_find_and_nothing_found() -> None:
    nothing = evaluate_voc(dataset_of([]), [])
    assert (nothing.mAP, nothing.mAP11, nothing.per_class[0].truths) == (-1, -1, 0)
    assert evaluate_voc(dataset_of([truth()]), [found((*SQUARE, 0, 0.5))]).mAP == -1
    missed = evaluate_voc(dataset_of([truth(SQUARE)], classes=2), [found()])
    assert ([c.AP for c in missed.per_class], missed.mAP, missed.mAP11) == ([0, -1], 0, 0)


def plain_reading(dataset: Dataset, predictions: list[Detections], label: int) -> tuple[float, float]:
    """One class by the rules as the challenge states them, one detection after the other, in exact arithmetic."""
    order = sorted(range(len(dataset)), key=lambda k: dataset.samples[k].image_id)
    queue = [(p.scores[row], k, row) for k in order for p in [predictions[k]] for row in range(len(p))]
    queue = [(s, k, row) for s, k, row in queue if predictions[k].labels[row] == label]
    queue.sort(key=lambda entry: -entry[0])
    taken: set[tuple[int, int]] = set()
    outcomes = []
    for _, k, row in queue:
        labelled = dataset.samples[k].truth
        crowd = np.zeros(len(labelled), bool) if labelled.crowd is None else labelled.crowd
        best, which = 0.0, -1
        for j in range(len(labelled)):
            overlap = iou(predictions[k].boxes_xyxy[row].tolist(), labelled.boxes_xyxy[j].tolist())
            if labelled.labels[j] == label and overlap > best:
                best, which = overlap, j
        if best >= 0.5 and crowd[which]:
            continue
        outcomes.append(best >= 0.5 and (k, which) not in taken)
        taken |= {(k, which)} if best >= 0.5 else set()
    count = sum(
        int(((s.truth.labels == label) & (True if s.truth.crowd is None else ~s.truth.crowd)).sum()) for s in dataset
    )
    if not count:
        return -1, -1
    rights = [sum(outcomes[: n + 1]) for n in range(len(outcomes))]
    points = [(Fraction(right, count), Fraction(right, n + 1)) for n, right in enumerate(rights)]

    def best_from(recall: Fraction) -> Fraction:
        return max((precision for reached, precision in points if reached >= recall), default=Fraction(0))

    eleven = sum(best_from(Fraction(tenth, 10)) for tenth in range(11)) / 11
    steps = sorted({Fraction(0), *(recall for recall, _ in points)})
    area = sum((b - a) * best_from(b) for a, b in pairwise(steps))
    return float(area), float(eleven)


def iou(a: list[float], b: list[float]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / both if both else 0.0


def test_equal_to_a_plain_reading_of_the_rules() -> None:
    some = 0
    for seed in range(120):
        dataset, predictions, _ = random_case(seed)
        result = evaluate_voc(dataset, predictions)
        for label, row in enumerate(result.per_class):
            want = plain_reading(dataset, predictions, label)
            assert (row.AP, row.AP11) == pytest.approx(want, abs=1e-9), (seed, label)
            some += 0 < row.AP < 1
    assert some > 40


def test_it_says_its_rules_and_is_plain_json() -> None:
    result = evaluate_voc(dataset_of([truth(SQUARE)]), [found((*SQUARE, 0, 0.9))], iou=0.6)
    assert isinstance(result, VocResult)
    assert result.figures() == {"mAP": 1, "mAP11": 1}
    assert "is 0.6 or more" in result.rules()[0]
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["per_class"][0]["AP11"] == 1
    assert plain["rules"] == result.rules()


def test_wrong_calls() -> None:
    with pytest.raises(UsageError, match="no such IoU threshold; found 0"):
        evaluate_voc(dataset_of([]), [], iou=0)
    with pytest.raises(DataError, match="expected 1 images"):
        evaluate_voc(dataset_of([truth()]), [])
