"""The figures of a localizer by hand: found or not, class, IoU, both, and the guesser it is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.evaluate.localization import (
    Baseline,
    Figures,
    baseline_of_card,
    evaluate_localization,
    mean_box,
    one_or_none,
)
from detkit.weights import ModelCard

SIZE = (60, 80)  # diagonal 100
NONE = Detections.empty(SIZE, scored=False)


def dataset(*truths: Detections) -> Dataset:
    samples = [Sample(f"{k}.png", Path(f"{k}.png"), truth, k) for k, truth in enumerate(truths, start=1)]
    return Dataset("street", ("cat", "dog", "bus"), tuple(samples), Path("street"), "coco", "val", (1, 2, 3))


def truth(*box: float, label: int = 0) -> Detections:
    return Detections(SIZE, [box], [label])


def answer(*box: float, label: int = 0, score: float = 0.9) -> Detections:
    return Detections(SIZE, [box], [label], [score])


DATA = dataset(truth(10, 10, 30, 30), truth(10, 10, 30, 30), truth(0, 0, 40, 40, label=1), NONE, NONE)
ANSWERS = [
    answer(10, 10, 30, 50),  # IoU 0.5, centre 10 px off
    answer(10, 10, 30, 30, label=2),  # exact, but of another class
    answer(0, 0, 20, 20, label=1, score=0.3),  # IoU 0.25, not found; centre 14.1 px off
    answer(0, 0, 20, 20, score=0.3),
    answer(0, 0, 20, 20, score=0.5),  # a false alarm
]


def test_figures_by_hand() -> None:
    result = evaluate_localization(DATA, ANSWERS, 0.5)
    assert result.figures.to_dict() == pytest.approx(
        {
            "quality": (0.5 + 0 + 0 + 1 + 0) / 5,
            "pc_accuracy": 3 / 5,
            "misses": 1 / 3,
            "false_alarms": 1 / 2,
            "class_accuracy": 2 / 3,
            "mean_IoU": (0.5 + 1 + 0.25) / 3,
            "LOC": 1 / 3,
            "centre_error": (0.1 + 0 + 200**0.5 / 100) / 3,
        }
    )
    assert (result.photos, result.objects, result.left_out, result.conf) == (5, 3, 0, 0.5)
    assert result.baseline is None
    assert result.ratio == -1
    each = {c.name: (c.photos, c.class_accuracy, c.mean_IoU, c.LOC) for c in result.per_class}
    assert each == {"cat": (2, 0.5, 0.75, 0.5), "dog": (1, 1, 0.25, 0), "bus": (0, -1, -1, -1)}


def test_the_threshold_decides_what_is_found() -> None:
    low = evaluate_localization(DATA, ANSWERS, 0.2).figures
    assert (low.misses, low.false_alarms, low.pc_accuracy) == pytest.approx((0, 1, 0.6))
    assert low.quality == pytest.approx((0.5 + 0.25) / 5)
    high = evaluate_localization(DATA, ANSWERS, 0.95).figures
    assert (high.misses, high.false_alarms, high.quality) == (1, 0, 2 / 5)
    assert high.mean_IoU == low.mean_IoU


def test_no_answer_at_all() -> None:
    nothing = [Detections.empty(SIZE)] * 5
    figures = evaluate_localization(DATA, nothing, 0.0).figures
    assert figures == Figures(2 / 5, 2 / 5, 1, 0, 0, 0, 0, 1)


def test_photos_of_more_than_one_object_are_left_out() -> None:
    two = Detections(SIZE, [[0, 0, 9, 9], [20, 20, 30, 30]], [0, 1])
    crowd = Detections(SIZE, [[0, 0, 9, 9]], [0], crowd=[True])
    data = dataset(two, truth(10, 10, 30, 30), crowd, NONE)
    assert [sample.name for sample in one_or_none(data)] == ["2.png", "4.png"]
    result = evaluate_localization(data, ANSWERS[:2], 0.95)
    assert (result.photos, result.left_out, result.figures.mean_IoU) == (2, 2, 0.5)
    with pytest.raises(DataError, match="found 4; expected 2 photos"):
        evaluate_localization(data, ANSWERS[:4], 0.5)


@pytest.mark.parametrize(
    ("truths", "said"),
    [
        ([NONE, NONE], "with more: 0, with none: 2"),
        ([Detections(SIZE, [[0, 0, 9, 9]] * 2, [0, 1])] * 3, "with more: 3, with none: 0"),
        ([Detections(SIZE, [[0, 0, 9, 9]], [0], crowd=[True])], "with more: 1, with none: 0"),
        ([], "with more: 0, with none: 0"),
    ],
)
def test_a_set_with_nothing_to_localize_is_refused_in_one_line(truths: list[Detections], said: str) -> None:
    with pytest.raises(DataError) as caught:
        one_or_none(dataset(*truths))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_set_without_empty_photos_has_no_false_alarms_to_count() -> None:
    result = evaluate_localization(dataset(truth(10, 10, 30, 30)), ANSWERS[:1], 0.5)
    assert result.figures.false_alarms == -1
    assert set(result.intervals.values()) == {(-1, -1)}  # one photo says nothing of others


def test_intervals_hold_the_figures() -> None:
    rng = np.random.default_rng(0)
    boxes = [[10, 10, 30, float(v)] for v in rng.uniform(12, 50, 200)]
    result = evaluate_localization(dataset(*[truth(10, 10, 30, 30)] * 200), [answer(*box) for box in boxes], 0.5)
    low, high = result.intervals["mean_IoU"]
    assert low < result.figures.mean_IoU < high
    ious = [20 * (min(b[3], 30) - 10) / (20 * (max(b[3], 30) - 10)) for b in boxes]
    assert result.figures.mean_IoU == pytest.approx(np.mean(ious), rel=1e-5)
    assert high - low == pytest.approx(2 * 1.96 * np.std(ious) / 200**0.5, rel=0.1)
    assert result.intervals["false_alarms"] == (-1, -1)
    assert result.intervals["class_accuracy"] == (1, 1)


def test_the_mean_box_and_what_it_scores() -> None:
    wide = Detections((100, 400), [[0, 0, 200, 100]], [1])  # 0, 0, 0.5, 1 of the photo
    train = dataset(truth(40, 30, 80, 60, label=1), wide, NONE, truth(40, 30, 80, 60))  # 0.5, 0.5, 1, 1
    guesser = mean_box(train)
    assert guesser == Baseline((0.33333, 0.33333, 0.83333, 1.0), "dog", says_object=True)
    assert not mean_box(dataset(truth(0, 0, 9, 9), NONE, NONE)).says_object
    data = dataset(truth(40, 30, 80, 60, label=1), NONE)
    result = evaluate_localization(data, [answer(40, 30, 80, 60, label=1), Detections.empty(SIZE)], 0.5, guesser)
    # the guess is (26.7, 20, 66.7, 60): 26.7 x 30 px are shared
    iou = 26.667 * 30 / (1600 + 1200 - 26.667 * 30)
    assert result.baseline is not None
    assert result.baseline.mean_IoU == pytest.approx(iou, rel=1e-3)
    assert result.ratio == pytest.approx(1 / iou, rel=1e-3)
    assert (result.baseline.class_accuracy, result.baseline.false_alarms, result.baseline.misses) == (1, 1, 0)
    document = result.to_dict()
    assert document["quality"] == 1
    assert document["baseline"]["mean_IoU"] == result.baseline.mean_IoU
    assert document["intervals"]["LOC"] == [-1, -1]


def test_the_cards_guesser() -> None:
    card = ModelCard("localize", {}, ("cat", "dog"), (96, 96))
    assert baseline_of_card(card) is None
    kept = {"box_rel_xyxy": [0.1, 0.2, 0.8, 0.9], "class_name": "dog", "says_object": True}
    known = replace(card, training={"baseline": kept})
    assert baseline_of_card(known) == Baseline((0.1, 0.2, 0.8, 0.9), "dog", says_object=True)
    others = ({"box_rel_xyxy": [1, 2]}, {"box_rel_xyxy": "a"}, {"class_name": "bus"})
    for odd in ("box", [], {}, *(kept | other for other in others)):
        assert baseline_of_card(replace(card, training={"baseline": odd})) is None
