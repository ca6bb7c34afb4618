"""Calibration worked out by hand: bins, expected error, what takes no part."""

from __future__ import annotations

import json

import pytest
from test_evaluate_coco import dataset_of, found, truth
from test_matching import AWAY, BOX

from detkit.errors import UsageError
from detkit.evaluate.calibration import Calibration, calibration
from detkit.evaluate.overlaps import find_overlaps


def by_hand(**how: object) -> Calibration:
    """Photos with a hit of 0.85, a hit of 0.83, a false alarm of 0.85, a false alarm of 0.25, one of 0.01."""
    boxes = [(*BOX, 0, 0.85), (*BOX, 0, 0.83), (*AWAY, 0, 0.85), (*AWAY, 0, 0.25), (*AWAY, 0, 0.01)]
    dataset = dataset_of([truth(BOX)] * 5, classes=2)
    return calibration(find_overlaps(dataset, [found(box) for box in boxes]), **how)  # type: ignore[arg-type]


def test_bins_of_equal_width() -> None:
    total = by_hand().total
    full = {round(b.low, 1): b for b in total.bins if b.count}
    assert {low: b.count for low, b in full.items()} == {0.2: 1, 0.8: 3}
    assert (full[0.8].score, full[0.8].right) == pytest.approx((2.53 / 3, 2 / 3))
    assert total.ece == pytest.approx((abs(2.53 - 2) + 0.25) / 4)
    assert total.worst == pytest.approx(0.25)
    assert total.bias == pytest.approx((2.53 + 0.25 - 2) / 4)
    assert by_hand().per_class[0] == type(total)("class 0", *(getattr(total, f) for f in total.__slots__[1:]))


def test_bins_of_equal_mass_and_the_lowest_score() -> None:
    counts = [b.count for b in by_hand(bins=2, binning="mass").total.bins]
    assert counts == [2, 2]
    assert by_hand(lowest_score=0.0).total.count == 5
    assert by_hand(lowest_score=0.84).total.count == 2


def test_boxes_on_crowds_take_no_part() -> None:
    dataset = dataset_of([truth((0, 0, 100, 100), crowd=[True])])
    assert calibration(find_overlaps(dataset, [found((*BOX, 0, 0.9))])).total.count == 0


def test_no_boxes_and_bad_settings() -> None:
    empty = by_hand().per_class[1]
    assert (empty.ece, empty.worst, empty.bias, empty.count) == (-1, -1, 0, 0)
    assert json.loads(json.dumps(by_hand().to_dict()))["total"]["name"] == "all"
    for wrong in ({"bins": 0}, {"binning": "depth"}, {"lowest_score": 1.0}):
        with pytest.raises(UsageError, match="calibration"):
            by_hand(**wrong)
