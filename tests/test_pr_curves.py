"""Precision-recall curves have COCO's AP; curves over the confidence and the best F1 are worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_evaluate_coco import dataset_of, found, random_case, truth
from test_matching import AWAY, BOX

from detkit.evaluate.coco import evaluate
from detkit.evaluate.curves import CONF_GRID, BestF1, Curves, curves
from detkit.evaluate.overlaps import find_overlaps

NOTHING = BestF1(-1, -1, -1, -1)


def by_hand(classes: int = 1) -> Curves:
    """Hit at 0.9, false alarm at 0.6, hit at 0.3; one truth of three missed."""
    dataset = dataset_of([truth(BOX, AWAY), truth(BOX)], classes)
    return curves(find_overlaps(dataset, [found((*BOX, 0, 0.9), (*BOX, 0, 0.6)), found((*BOX, 0, 0.3))]))


def test_the_area_under_a_curve_is_cocos_ap() -> None:
    for seed in range(80):
        dataset, predictions, max_det = random_case(seed)
        result, want = (
            curves(find_overlaps(dataset, predictions, max_det)),
            evaluate(dataset, predictions, max_det=max_det),
        )
        assert [c.AP for c in result.pr[0.5]] == pytest.approx([c.AP50 for c in want.per_class], abs=1e-9)
        assert result.mean_pr[0.5].AP == pytest.approx(want.AP50, abs=1e-9)
        assert result.mean_pr[0.75].AP == pytest.approx(want.AP75, abs=1e-9)


def test_precision_and_recall_by_hand() -> None:
    [curve] = by_hand().pr[0.5]
    assert curve.scores.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert curve.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert curve.precision_at[[0, 33, 34, 66, 67]].tolist() == pytest.approx([1, 1, 2 / 3, 2 / 3, 0])


def test_curves_over_the_confidence_by_hand() -> None:
    result = by_hand(classes=2)
    curve = result.by_conf[0]
    at = [int(np.argmin(abs(CONF_GRID - conf))) for conf in (0, 0.29, 0.5, 0.7, 0.95)]
    assert curve.precision[at].tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 2, 1, -1])
    assert curve.recall[at].tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3, 0])
    assert curve.f1[at].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 5, 1 / 2, 0])
    assert curve.best == BestF1(*(pytest.approx(v, abs=1e-6) for v in (0.3, 2 / 3, 2 / 3, 2 / 3)))
    assert result.mean.f1.tolist() == curve.f1.tolist()  # the other class has no truths
    assert result.mean.best.f1 == pytest.approx(2 / 3)
    assert result.by_conf[1].best == NOTHING


def test_boxes_of_one_score_are_kept_or_left_together() -> None:
    dataset = dataset_of([truth(BOX)])
    result = curves(find_overlaps(dataset, [found((*BOX, 0, 0.5), (*AWAY, 0, 0.5))]))
    assert result.by_conf[0].best.precision == pytest.approx(1 / 2)


def test_nothing_to_draw() -> None:
    for truths, boxes in (([], []), ([truth()], [found((*BOX, 0, 0.9))]), ([truth(BOX)], [found()])):
        result = curves(find_overlaps(dataset_of(truths), boxes))
        assert result.by_conf[0].best == result.mean.best == NOTHING
        assert result.mean_pr[0.5].AP == (0 if truths and len(truths[0]) else -1)
        assert json.loads(json.dumps(result.to_dict()))["precision_recall"]["0.75"]["mean"]["name"] == "mean"
