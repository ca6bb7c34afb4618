"""Thresholds chosen on labelled photos: by hand, against trying every one, and no surer than the photos allow."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_evaluate_coco import dataset_of, found, random_case, truth
from test_matching import AWAY, BOX, many

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.evaluate.outcomes import FALSE_ALARM, crowds, outcomes
from detkit.evaluate.thresholds import ClassChoice, choose_thresholds, study_thresholds
from detkit.thresholds import Thresholds

FAR = (100, 100, 150, 150)


def scored(*rows: tuple[float, bool], truths: int) -> tuple[Dataset, list[Detections]]:
    """One photo for each truth or box: boxes of these scores, right or wrong; truths beyond them are missed."""
    count = max(truths, len(rows))
    hits = [hit for _, hit in rows] + [True] * (count - len(rows))
    spare = truths - sum(hit for _, hit in rows)
    photos, boxes = [], []
    for number in range(count):
        right, given = hits[number], number < len(rows)
        photos.append(truth(BOX) if given and right else truth())
        boxes.append(found((*(BOX if right else AWAY), 0, rows[number][0])) if given else found())
    for _ in range(spare):
        photos.append(truth(BOX))
        boxes.append(found())
    return dataset_of(photos), boxes


def only(dataset: Dataset, boxes: list[Detections], **settings: float) -> ClassChoice:
    [choice] = study_thresholds(dataset, boxes, draws=20, **settings)
    return choice


ROWS = ((0.9, True), (0.8, True), (0.6, False), (0.5, True), (0.3, False))


def test_worked_out_by_hand() -> None:
    """Four truths; F1 after each box: 2/5, 4/6, 4/7, 6/8, 6/9. Precision: 1, 1, 2/3, 3/4, 3/5."""
    choice = only(*scored(*ROWS, truths=4))
    assert choice.conf == pytest.approx(0.4)
    assert (choice.precision, choice.recall, choice.f1, choice.truths) == pytest.approx((0.75, 0.75, 0.75, 4))
    assert choice.reached
    for precision, conf, recall in ((0.95, 0.7, 0.5), (0.75, 0.4, 0.75), (0.6, 0.3, 0.75), (0.7, 0.4, 0.75)):
        choice = only(*scored(*ROWS, truths=4), precision=precision)
        assert (choice.conf, choice.recall, choice.reached) == (pytest.approx(conf), pytest.approx(recall), True)


def test_of_equal_f1_the_highest_confidence_and_after_the_last_box_its_own_score() -> None:
    """Two truths: one found at 0.9 (F1 2/3), then two false alarms, then the other (4/6)."""
    rows = ((0.9, True), (0.7, False), (0.6, False), (0.5, True))
    assert only(*scored(*rows, truths=2)).conf == pytest.approx(0.8)
    assert only(*scored((0.9, True), (0.5, True), truths=2)).conf == pytest.approx(0.5)


def test_boxes_of_one_score_stay_together() -> None:
    """A right box and a wrong one at 0.5 are both kept or both dropped."""
    rows = ((0.9, True), (0.5, True), (0.5, False), (0.2, False))
    choice = only(*scored(*rows, truths=2))
    assert (choice.conf, choice.precision) == (pytest.approx(0.35), pytest.approx(2 / 3))
    assert only(*scored(*rows, truths=2), precision=0.9).conf == pytest.approx(0.7)


def test_nineteen_of_twenty_are_a_precision_of_0_95() -> None:
    rows = tuple((0.9 - n / 100, n != 7) for n in range(20))
    choice = only(*scored(*rows, truths=25), precision=0.95)
    assert (choice.conf, choice.precision, choice.reached) == (pytest.approx(0.71), pytest.approx(0.95), True)


def test_a_precision_nobody_reaches_gives_the_nearest() -> None:
    rows = ((0.9, False), (0.8, True), (0.7, False), (0.6, True), (0.5, False))
    choice = only(*scored(*rows, truths=3), precision=0.9)
    assert (choice.conf, choice.precision, choice.reached) == (pytest.approx(0.55), pytest.approx(0.5), False)


def test_nothing_to_choose_by() -> None:
    wrong = found((*AWAY, 0, 0.9), (*AWAY, 1, 0.8))
    first, second, third = study_thresholds(dataset_of([truth(BOX)], classes=3), [wrong], draws=5)
    assert (first.conf, first.truths, first.recall, first.interval) == (None, 1, 0, (-1, -1))  # nothing right
    for choice in (second, third):  # no truths
        assert (choice.conf, choice.truths, choice.precision, choice.recall, choice.f1) == (None, 0, -1, -1, -1)
    for dataset, boxes in ((dataset_of([]), []), (dataset_of([truth(BOX)]), [found()])):
        assert only(dataset, boxes).conf is None


def test_boxes_on_crowds_count_neither_way() -> None:
    """The box at 0.8 lies on a crowd: had it counted as wrong, its like would have moved the threshold."""
    photo = truth(BOX, AWAY, crowd=[False, True])
    boxes = found((*BOX, 0, 0.6), (*AWAY, 0, 0.8), (*AWAY, 0, 0.7), (*FAR, 0, 0.2))
    choice = only(dataset_of([photo]), [boxes])
    assert (choice.conf, choice.precision, choice.recall, choice.truths) == (pytest.approx(0.4), 1, 1, 1)


def tried(dataset: Dataset, boxes: list[Detections], label: int, conf: float) -> tuple[int, int, int]:
    """Right boxes, boxes that count and truths of one class, when only boxes scored at least `conf` are handed in."""
    kept = [b[(b.scores >= conf) & (b.labels == label)] for b in boxes]
    owners = [outcome.owner for outcome in outcomes(dataset, kept)]
    truths = sum(int(((s.truth.labels == label) & ~crowds(s.truth)).sum()) for s in dataset)
    right = sum(int((owner >= 0).sum()) for owner in owners)
    return right, right + sum(int((owner == FALSE_ALARM).sum()) for owner in owners), truths


def test_no_other_threshold_is_better() -> None:
    seen = 0
    for seed in range(60):
        dataset, boxes, _ = random_case(seed)
        for label, choice in enumerate(study_thresholds(dataset, boxes, draws=2)):
            if choice.conf is None:
                continue
            right, judged, truths = tried(dataset, boxes, label, choice.conf)
            want = (right / judged, right / truths, 2 * right / (judged + truths))
            assert (choice.precision, choice.recall, choice.f1) == pytest.approx(want), seed
            assert choice.truths == truths
            for conf in np.unique(np.concatenate([b.scores for b in boxes])):
                other, counted, _ = tried(dataset, boxes, label, float(conf))
                assert 2 * other / (counted + truths) <= choice.f1 + 1e-12, (seed, label, conf)
            seen += 1
    assert seen > 30


def test_the_interval_holds_the_choice_and_narrows_with_more_photos() -> None:
    def width(images: int) -> float:
        choice = study_thresholds(*many(images), draws=200)[0]
        assert choice.interval.low <= choice.conf <= choice.interval.high
        assert choice.precision_interval.low < choice.precision < choice.precision_interval.high
        assert choice.recall_interval.low < choice.recall < choice.recall_interval.high
        return choice.recall_interval.high - choice.recall_interval.low

    assert width(1000) < 0.5 * width(60)
    assert study_thresholds(*many(40), draws=50, seed=1) == study_thresholds(*many(40), draws=50, seed=1)
    assert study_thresholds(*many(40), draws=50, seed=1) != study_thresholds(*many(40), draws=50, seed=2)


def test_eighteen_right_of_eighteen_are_not_certainty() -> None:
    """Wilson: 18 / (18 + 1.96 squared) = 0.824."""
    choice = only(*scored(*((0.9 - n / 100, True) for n in range(18)), truths=20))
    assert choice.precision == 1
    assert choice.precision_interval == pytest.approx((0.824, 1), abs=5e-4)


def test_blocks_of_draws_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = study_thresholds(*many(30), draws=50)
    monkeypatch.setattr("detkit.evaluate.thresholds._CELLS", 1)
    assert study_thresholds(*many(30), draws=50) == whole


def test_what_is_stored() -> None:
    dataset, boxes = scored(*ROWS, truths=4)
    stored = choose_thresholds(dataset, boxes, precision=0.75, draws=20, model="street.onnx")
    assert (stored.rule, stored.iou, stored.model, stored.data) == ("precision 0.75", 0.5, "street.onnx", "toy")
    assert stored.classes["class 0"].conf == pytest.approx(0.4)
    assert stored.for_classes(dataset.class_names, 0.25) == pytest.approx((0.4,))
    assert Thresholds.from_json(stored.to_json()) == stored
    nothing = choose_thresholds(dataset_of([truth()]), [found()], draws=2)
    assert nothing.rule == "F1"
    assert json.loads(nothing.to_json())["classes"]["class 0"] == dict.fromkeys(
        ("conf", "low", "high", "precision", "recall", "f1"), None
    ) | {"truths": 0}


@pytest.mark.parametrize(
    "settings",
    [{"precision": 0.0}, {"precision": 1.1}, {"iou": 0.0}, {"draws": 1}, {"seed": -1}, {"iou": float("nan")}],
)
def test_wrong_settings(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="no such thresholds"):
        study_thresholds(*many(3), **settings)
    with pytest.raises(DataError, match="found 0; expected 1 images"):
        study_thresholds(dataset_of([truth(BOX)]), [])
