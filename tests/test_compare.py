"""Two models on the same photos: who found what, how far apart they are, how sure that is, and what is said of it."""

from __future__ import annotations

import json

import pytest
from test_evaluate_coco import dataset_of, found, random_case, truth
from test_matching import AWAY, BOX, many

from detkit.errors import DataError, UsageError
from detkit.evaluate.coco import evaluate
from detkit.evaluate.compare import PairedFigures, compare, verdict
from detkit.evaluate.flips import Flips, find_flips
from detkit.evaluate.matching import match
from detkit.evaluate.outcomes import FALSE_ALARM, LEFT_OUT, ON_CROWD, outcomes

FAR = (100, 100, 150, 150)


def test_outcomes_are_the_matches_of_the_figures() -> None:
    """On adversarial cases, at two thresholds: as many right, on crowds and left out on each photo as `match` has."""
    for seed in range(100):
        dataset, predictions, max_det = random_case(seed)
        matching = match(dataset, predictions, max_det)
        for place, iou in ((0, 0.5), (4, 0.7)):
            rows = outcomes(dataset, predictions, iou, max_det)
            for number, row in enumerate(rows):
                here = matching.images == number
                assert matching.hit[place, here].sum() == (row.owner >= 0).sum() == row.found.sum(), seed
                assert matching.ignored[place, here].sum() == (row.owner == ON_CROWD).sum(), seed
                assert here.sum() == (row.owner != LEFT_OUT).sum(), seed


def test_outcomes_by_hand() -> None:
    """The better of two boxes on one truth has it; a crowd takes many; a box of another class finds nothing."""
    photo = truth(BOX, AWAY, crowd=[False, True])
    boxes = found((*BOX, 0, 0.5), (*BOX, 0, 0.9), (*AWAY, 0, 0.4), (*AWAY, 0, 0.3), (*BOX, 1, 0.8))
    [outcome] = outcomes(dataset_of([photo], classes=2), [boxes])
    assert outcome.owner.tolist() == [FALSE_ALARM, 0, ON_CROWD, ON_CROWD, FALSE_ALARM]
    assert outcome.found.tolist() == [True, False]
    [outcome] = outcomes(dataset_of([photo], classes=2), [boxes], max_det=1)
    assert outcome.owner.tolist() == [LEFT_OUT, 0, LEFT_OUT, LEFT_OUT, FALSE_ALARM]
    assert outcomes(dataset_of([truth()]), [found()])[0].owner.tolist() == []


def kinds(flips: Flips) -> list[tuple[str, list[tuple[str, int]]]]:
    return [(photo.name, [(flip.kind, flip.row) for flip in photo.flips]) for photo in flips.photos]


def test_flips_by_hand() -> None:
    dataset = dataset_of([truth(BOX, FAR), truth(BOX), truth(), truth(BOX)])
    a = [found((*BOX, 0, 0.9)), found((*BOX, 0, 0.9), (*AWAY, 0, 0.8)), found(), found((*BOX, 0, 0.6))]
    b = [found((*FAR, 0, 0.9)), found((*AWAY, 0, 0.6)), found((*BOX, 0, 0.7), (*AWAY, 0, 0.9)), found((*BOX, 0, 0.9))]
    flips = find_flips(dataset, a, b, conf=0.5)
    assert kinds(flips) == [
        ("2.jpg", [("new_false", 1), ("new_false", 0)]),
        ("1.jpg", [("lost", 0)]),  # the false alarm is there in both
        ("0.jpg", [("lost", 0), ("found", 1)]),
    ]
    assert [photo.harm for photo in flips.photos] == [2, 1, 0]
    assert [flips.count(kind) for kind in ("lost", "found", "new_false", "gone_false")] == [2, 1, 2, 0]
    assert [photo.name for photo in flips.worse()] == ["2.jpg", "1.jpg"]
    assert flips.better() == []
    back = find_flips(dataset, b, a, conf=0.5)
    assert [photo.harm for photo in back.photos] == [0, -1, -2]
    assert [photo.name for photo in back.better()] == ["2.jpg", "1.jpg"]
    assert back.photos[-1].flips[0].box_xyxy == AWAY
    assert back.photos[-1].flips[0].score == pytest.approx(0.9)
    assert json.loads(json.dumps(flips.to_dict()))["photos"][1]["flips"][0]["class"] == "class 0"


def test_a_box_below_the_threshold_is_not_there() -> None:
    """At 0.65 A's last box of the case above is gone, and so is B's false alarm at 0.6."""
    dataset = dataset_of([truth(BOX)])
    a, b = [found((*BOX, 0, 0.6))], [found((*BOX, 0, 0.7), (*AWAY, 0, 0.6))]
    assert kinds(find_flips(dataset, a, b, conf=0.65)) == [("0.jpg", [("found", 0)])]
    assert kinds(find_flips(dataset, a, b, conf=0.6)) == [("0.jpg", [("new_false", 1)])]
    assert kinds(find_flips(dataset, a, b, conf=0.8)) == []


def test_false_alarms_pair_off_one_by_one() -> None:
    """Two of B where A has one: one is new. The same place in another class is another false alarm."""
    a = [found((*AWAY, 0, 0.9))]
    assert kinds(find_flips(dataset_of([truth()]), a, [found((*AWAY, 0, 0.9), (*AWAY, 0, 0.8))], conf=0.5)) == [
        ("0.jpg", [("new_false", 1)])
    ]
    other = find_flips(dataset_of([truth()], classes=2), a, [found((*AWAY, 1, 0.9))], conf=0.5)
    assert kinds(other) == [("0.jpg", [("new_false", 0), ("gone_false", 0)])]


def test_unasked_each_model_is_looked_at_where_it_is_best() -> None:
    """Model B is A with all scores halved: for its users nothing flips."""
    dataset, a = many(20)
    b = [type(p)(p.size_hw, p.boxes_xyxy, p.labels, p.scores / 2) for p in a]
    flips = find_flips(dataset, a, b)
    assert flips.photos == ()
    assert flips.confs_b["class 0"] == pytest.approx(flips.confs_a["class 0"] / 2)
    assert find_flips(dataset, a, b, conf=0.5).photos
    assert find_flips(dataset_of([truth()]), [found()], [found()]).confs_a == {"class 0": 0.25}


def test_the_figures_and_their_difference() -> None:
    dataset, better = many(200)
    worse = [p if n % 10 else p[p.boxes_xyxy[:, 0] > 0] for n, p in enumerate(better)]
    result = compare(dataset, better, worse, draws=100)
    a, b = evaluate(dataset, better), evaluate(dataset, worse)
    for change, name in ((result.AP, "AP"), (result.AP50, "AP50"), (result.AP75, "AP75")):
        want = getattr(a, name), getattr(b, name), getattr(b, name) - getattr(a, name)
        assert (change.figure, change.a, change.b, change.delta) == (name, *map(pytest.approx, want))
    for row, mine, other in zip(result.per_class, a.per_class, b.per_class, strict=True):
        assert (row.name, row.truths, row.AP.figure) == (mine.name, 200, f"class:{mine.name}")
        assert (row.AP.a, row.AP.b, row.AP50.b) == pytest.approx((mine.AP, other.AP, other.AP50))
        assert row.AP50.figure == f"class50:{mine.name}"
    assert result.AP.interval.low < result.AP.delta < result.AP.interval.high < 0
    assert result.AP.b_better == 0
    document = json.loads(json.dumps(result.to_dict()))
    assert document["AP"]["interval"] == list(result.AP.interval)
    assert document["flips"]["counts"]["lost"] > 0


def test_a_gap_that_five_photos_make_is_not_sure() -> None:
    """Heads five times running has a chance of 1 in 32, however many photos look on: so the interval holds 0."""
    dataset = dataset_of([truth(BOX)] * 200)
    a = [found((*BOX, 0, 0.9))] * 200
    few, several = (compare(dataset, a, [*[found()] * n, *a[n:]]).AP for n in (5, 12))
    assert few.interval.low < -0.02
    assert few.interval.high == 0
    assert compare(dataset, a, [*[found()] * 5, *a[5:]], level=0.9).AP.interval.high < 0  # 1 in 32 may be wrong
    assert several.interval.high < 0


def test_photos_that_differ_are_counted_by_class() -> None:
    """Class 0 differs on nine photos, class 1 on none; then both on one."""
    dataset, a = many(40)
    paired = PairedFigures(dataset, a, [p[p.labels == 1] if n < 9 else p for n, p in enumerate(a)], draws=50)
    assert paired._changed.tolist() == [9, 9, 0]
    assert paired.changes()[0][2].interval == (0, 0)
    one = PairedFigures(dataset, a, [p[:0] if n < 1 else p for n, p in enumerate(a)], draws=50)
    assert one._changed.tolist() == [1, 1, 1]
    low, high = one.changes()[0][1].interval
    assert low <= 0 <= high


def test_what_would_show() -> None:
    """Found by A with probability 0.9, by B with 0.8, independently: the error is that of two binomials."""
    dataset, a = many(400, seed=1, quality=0.9)
    change = compare(dataset, a, many(400, seed=2, quality=0.8)[1]).AP
    assert change.detectable == pytest.approx((1.97 + 0.84) * change.error, rel=0.01)
    assert (change.interval.high - change.interval.low) / 2 == pytest.approx(1.97 * change.error, rel=0.01)


def test_sentences() -> None:
    dataset, better = many(200)
    worse = [p if n % 10 else p[p.boxes_xyxy[:, 0] > 0] for n, p in enumerate(better)]
    change = compare(dataset, better, worse).AP
    loss, low, high = (f"{100 * value:+.2f}" for value in (change.delta, *change.interval))
    want = f"new is worse than old by {loss[1:]} points of AP (95 % interval {low} to {high})."
    assert verdict(change, 200, a="old", b="new") == want
    assert verdict(compare(dataset, worse, better).AP, 200).startswith("B is better than A by ")
    same = verdict(compare(dataset, worse, worse).AP, 200)
    assert same == "A and B are equal in AP: nothing that counts differs on these 200 photos."
    unsure = verdict(compare(*many(30), many(30, seed=9)[1]).AP, 30)
    assert unsure.startswith("A and B cannot be told apart in AP on these 30 photos: the difference is ")
    assert verdict(compare(dataset_of([truth(BOX)]), [found()], [found()]).AP, 1) == (
        "AP cannot be compared: its objects lie on fewer than two photos."
    )


def test_nothing_to_compare() -> None:
    for dataset, boxes in ((dataset_of([]), []), (dataset_of([truth(), truth()]), [found(), found((*BOX, 0, 0.5))])):
        change = compare(dataset, boxes, boxes).AP
        assert (change.defined, change.a, change.delta, change.interval) == (False, -1, -1, (-1, -1))


def test_wrong_settings() -> None:
    dataset, boxes = many(3)
    for settings in ({"draws": 1}, {"seed": -1}, {"level": 1.0}, {"level": 0.0}, {"conf": 1.5}):
        with pytest.raises(UsageError, match="no such"):
            compare(dataset, boxes, boxes, **settings)
    with pytest.raises(DataError, match="found 2; expected 3 images"):
        PairedFigures(dataset, boxes, boxes[:2])
