"""Confusion matrix and error types: each worked out by hand, AP50 as `evaluate` has it, and 1 when all is mended."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from test_evaluate_coco import dataset_of, found, random_case, truth
from test_matching import AWAY, BOX

from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.evaluate.coco import evaluate
from detkit.evaluate.matching import match
from detkit.evaluate.mistakes import (
    ERROR_TYPES,
    ConfusionMatrix,
    ErrorTypes,
    _ap50,
    confusion_matrix,
    error_types,
    tell_apart,
)
from detkit.evaluate.overlaps import find_overlaps, owners, told_apart

ASIDE = (25, 0, 75, 50)  # overlaps BOX by a third
NOWHERE = (300, 0, 350, 50)


def confusion(truths: list[Detections], predictions: list[Detections], classes: int = 2, **how: Any) -> ConfusionMatrix:
    return confusion_matrix(find_overlaps(dataset_of(truths, classes), predictions), **({"conf": 0.3} | how))


def errors(truths: list[Detections], predictions: list[Detections], classes: int = 2, conf: float = 0.3) -> ErrorTypes:
    dataset = dataset_of(truths, classes)
    result = error_types(find_overlaps(dataset, predictions), conf=conf)
    assert result.AP50 == pytest.approx(evaluate(dataset, predictions).AP50, abs=1e-9)
    return result


def told(result: ErrorTypes) -> dict[str, tuple[int, float]]:
    """Types of which there is one, or that cost something."""
    every = (*result.types, *result.totals)
    return {e.kind: (e.count, round(e.cost, 9)) for e in every if e.count or e.cost}


def test_rows_are_truths_and_columns_predictions() -> None:
    truths = [truth(BOX, AWAY, labels=[0, 1]), truth(BOX), truth()]
    boxes = [found((*BOX, 1, 0.9), (*AWAY, 1, 0.5)), found((*BOX, 0, 0.2)), found((*BOX, 0, 0.4), (*AWAY, 1, 0.1))]
    result = confusion(truths, boxes)
    assert result.counts.tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0]]
    told = json.loads(json.dumps(result.to_dict()))
    assert told["labels"] == ["class 0", "class 1", "background"]
    assert told["counts"][0][1] == 1


def test_each_class_has_its_own_confidence() -> None:
    truths, boxes = [truth(BOX, AWAY, labels=[0, 1])], [found((*BOX, 0, 0.5), (*AWAY, 1, 0.5))]
    assert confusion(truths, boxes, conf=(0.4, 0.6)).counts.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    for conf in (1.2, (0.5, 0.5, 0.5), float("nan")):
        with pytest.raises(UsageError, match="confidence"):
            confusion(truths, boxes, conf=conf)


def test_an_object_is_taken_once_by_the_surest_box_and_its_twin_is_on_nothing() -> None:
    result = confusion([truth(BOX)], [found((*BOX, 0, 0.6), (*BOX, 1, 0.9))])
    assert result.counts.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_the_overlap_asked_for_counts() -> None:
    truths, boxes = [truth(BOX)], [found((*ASIDE, 0, 0.9))]
    assert confusion(truths, boxes).counts[0].tolist() == [0, 0, 1]
    assert confusion(truths, boxes, iou=0.3).counts[0].tolist() == [1, 0, 0]
    with pytest.raises(UsageError, match="overlap"):
        confusion(truths, boxes, iou=0)


def test_boxes_on_a_crowd_of_their_class_count_neither_way() -> None:
    crowd = truth((0, 0, 100, 100), crowd=[True])
    result = confusion([crowd], [found((*BOX, 0, 0.9), (10, 10, 60, 60, 0, 0.8), (*BOX, 1, 0.9))])
    assert result.counts.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert result.ignored == 2


def test_every_object_and_every_box_is_counted_once() -> None:
    for seed in range(60):
        dataset, predictions, max_det = random_case(seed)
        table = find_overlaps(dataset, predictions, max_det)
        result = confusion_matrix(table, conf=0.3)
        assert result.counts[:-1].sum() == table.counts.sum()
        assert result.counts[:, :-1].sum() + result.ignored == table.shown(0.3).sum()


def test_matching_is_cocos() -> None:
    for seed in range(60):
        dataset, predictions, max_det = random_case(seed)
        table, want = find_overlaps(dataset, predictions, max_det), match(dataset, predictions, max_det)
        for iou, row in ((0.5, 0), (0.75, 5)):
            hit, ignored = told_apart(table, owners(table, iou))
            assert hit.tolist() == want.hit[row].tolist()
            assert ignored.tolist() == want.ignored[row].tolist()


def test_classification() -> None:
    assert told(errors([truth(BOX)], [found((*BOX, 1, 0.9))])) == {
        "classification": (1, 1.0),
        "false positive": (1, 0.0),
        "false negative": (1, 1.0),
    }


def test_localization() -> None:
    assert told(errors([truth(BOX)], [found((*ASIDE, 0, 0.9))]))["localization"] == (1, 1.0)


def test_both() -> None:
    """Class 0: missed. Class 1: a false alarm before the hit, AP 1/2."""
    result = errors([truth(BOX, AWAY, labels=[0, 1])], [found((*ASIDE, 1, 0.9), (*AWAY, 1, 0.5))])
    assert result.AP50 == pytest.approx(0.25)
    assert told(result) == {
        "both": (1, 0.25),
        "missed": (1, 0.5),
        "false positive": (1, 0.25),
        "false negative": (1, 0.5),
    }


@pytest.mark.parametrize(("kind", "wrong"), [("duplicate", BOX), ("background", NOWHERE)])
def test_duplicate_and_background(kind: str, wrong: tuple[float, ...]) -> None:
    """Hit, false alarm, hit: precision 1 up to recall 1/2, then 2/3."""
    result = errors([truth(BOX, AWAY)], [found((*BOX, 0, 0.9), (*wrong, 0, 0.8), (*AWAY, 0, 0.2))])
    ap50 = (51 + 50 * 2 / 3) / 101
    assert result.AP50 == pytest.approx(ap50)
    assert told(result) == {kind: (1, round(1 - ap50, 9)), "false positive": (1, round(1 - ap50, 9))}
    assert [e.shown for e in result.totals] == [1, 1]  # AWAY is found, but not by a box at 0.3


def test_missed() -> None:
    result = errors([truth(BOX, AWAY)], [found((*BOX, 0, 0.9))])
    assert told(result) == {"missed": (1, round(50 / 101, 9)), "false negative": (1, round(50 / 101, 9))}


def test_the_best_box_of_an_object_is_mended_and_the_others_go() -> None:
    """Two boxes of the wrong class on one object; and one on an object that is found anyway."""
    rows = [found((*BOX, 1, 0.9), (*BOX, 1, 0.8)), found((*BOX, 1, 0.95), (*BOX, 0, 0.5))]
    result = errors([truth(BOX), truth(BOX)], rows)
    assert told(result)["classification"] == (3, round(1 - 51 / 101, 9))


def test_near_its_own_class_goes_before_another_class() -> None:
    result = errors([truth(BOX, ASIDE, labels=[0, 1])], [found((*ASIDE, 0, 0.9))])
    assert told(result)["localization"][0] == 1
    assert "classification" not in told(result)


def test_mending_everything_gives_one_and_ap50_is_evaluates() -> None:
    for seed in range(120):
        dataset, predictions, max_det = random_case(seed)
        table = find_overlaps(dataset, predictions, max_det)
        result, verdict = error_types(table, conf=0.5), tell_apart(table)
        assert result.AP50 == pytest.approx(evaluate(dataset, predictions, max_det=max_det).AP50, abs=1e-9)
        wrong, lost = ~verdict.hit & ~verdict.ignored, table.counts & ~verdict.found
        assert sum(e.count for e in result.types[:5]) == wrong.sum() == result.totals[0].count
        perfect = _ap50(table, verdict.hit, verdict.ignored | wrong, left_out=lost)
        assert perfect == pytest.approx(1 if table.counts.any() else -1)


def test_nothing_at_all() -> None:
    for truths, boxes in (([], []), ([truth()], [found()]), ([truth()], [found((*BOX, 0, 0.9))])):
        result = errors(truths, boxes)
        assert (result.AP50, {e.cost for e in result.types}) == (-1, {-1})
        assert [e.kind for e in result.types] == list(ERROR_TYPES)
        assert confusion(truths, boxes).counts[:-1].sum() == 0
    assert json.loads(json.dumps(result.to_dict()))["AP50"] == -1
    assert np.sum(confusion([truth(BOX)], [found()], classes=1).counts) == 1
