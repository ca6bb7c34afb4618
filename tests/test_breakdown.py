"""Recall by size and shape, and the worst photos, worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_evaluate_coco import dataset_of, found, truth
from test_matching import AWAY, BOX

from detkit.evaluate.breakdown import recall_breakdown
from detkit.evaluate.overlaps import find_overlaps
from detkit.evaluate.worst import worst_photos

TALL, TINY = (0, 100, 20, 190), (300, 200, 307, 207)


def test_sizes_and_shapes() -> None:
    """A square of 50 px found at the threshold, a tall box found below it, a tiny one missed, a crowd not asked for."""
    dataset = dataset_of([truth(BOX, TALL, TINY, (100, 0, 300, 90), crowd=[False, False, False, True])])
    result = recall_breakdown(find_overlaps(dataset, [found((*BOX, 0, 0.9), (*TALL, 0, 0.1))]), conf=0.5)
    assert [(b.name, b.truths, b.found, b.found_at_floor) for b in result.coco_sizes] == [
        ("small", 1, 0, 0),
        ("medium", 2, 1, 2),
        ("large", 0, 0, 0),
    ]
    assert [b.recall for b in result.coco_sizes] == [0, 0.5, -1]
    assert {b.name: b.truths for b in result.sizes if b.truths} == {"0-8": 1, "32-48": 1, "48-64": 1}
    assert {b.name: b.recall_at_floor for b in result.aspects if b.truths} == {"very tall": 1, "about square": 0.5}
    assert json.loads(json.dumps(result.to_dict()))["sizes"][-1]["high"] is None


def test_the_label_files_area_counts() -> None:
    dataset = dataset_of([truth(BOX)], areas_px=[np.array([900.0])])
    result = recall_breakdown(find_overlaps(dataset, [found()]), conf=0.5)
    assert [b.truths for b in result.coco_sizes] == [1, 0, 0]


def test_worst_photos_by_hand() -> None:
    """Two missed; a false alarm of 0.8; all well; one missed. The photos' ids fall, their places count."""
    dataset = dataset_of([truth(BOX, AWAY), truth(), truth(BOX), truth(AWAY)], image_ids=[4, 3, 2, 1])
    boxes = [found((*BOX, 0, 0.1)), found((*BOX, 0, 0.8)), found((*BOX, 0, 0.9)), found()]
    worst = worst_photos(find_overlaps(dataset, boxes), conf=0.5)
    assert [(w.name, w.position, w.truths, w.found, w.missed, w.false_alarms) for w in worst] == [
        ("0.jpg", 0, 2, 0, 2, 0),
        ("3.jpg", 3, 1, 0, 1, 0),
        ("1.jpg", 1, 0, 0, 0, 1),
    ]
    assert [w.error for w in worst] == pytest.approx([2, 1, 0.8])
    assert len(worst_photos(find_overlaps(dataset, boxes), conf=0.5, limit=1)) == 1


def test_nothing_at_all() -> None:
    for truths, boxes in (([], []), ([truth()], [found()])):
        table = find_overlaps(dataset_of(truths), boxes)
        assert worst_photos(table, conf=0.5) == ()
        assert {b.recall for b in recall_breakdown(table, conf=0.5).sizes} == {-1}
