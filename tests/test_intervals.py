"""Intervals: worked out by hand, of the width theory gives, and holding the truth as often as they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_evaluate_coco import dataset_of, found, truth
from test_matching import AWAY, BOX, many, once, resampled

from detkit.data.dataset import Dataset, Sample
from detkit.data.formats import read
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET, evaluate
from detkit.evaluate.compare import compare
from detkit.evaluate.intervals import Interval, bootstrap
from detkit.evaluate.matching import Matching, match
from detkit.evaluate.resampling import effective_images, limits, resample

UNKNOWN = (-1, -1)


@pytest.mark.parametrize(("images", "t"), [(3.0, 4.303), (6.0, 2.571), (11.0, 2.228), (31.0, 2.042)])
def test_limits_worked_out_by_hand(images: float, t: float) -> None:
    """The draws lie 0.02 above the estimate of 0.50, which is therefore taken for 0.02 too high itself."""
    drawn = np.array([0.49, 0.52, 0.55])  # mean 0.52, standard deviation 0.03
    figures_of = np.broadcast_to(np.append(0.5, drawn), (3, 2, 4))
    reach = t * 0.03 * (images / (images - 1)) ** 0.5
    want = np.broadcast_to([0.48 - reach, 0.48 + reach], (3, 2, 2))
    np.testing.assert_allclose(
        limits(figures_of, figures_of, np.array([images]), 0.95), want, atol=0.01 * t / images**2
    )


def test_crowding_makes_images_count_for_less() -> None:
    """Truths 1, 1, 1 are three images' worth; 4, 1, 1 are 36 / 18, and none is none."""
    even, uneven = (
        dataset_of([truth(BOX)] * 3),
        dataset_of([truth(BOX, BOX, BOX, BOX), truth(BOX), truth(BOX)], classes=2),
    )
    assert effective_images(match(even, [found()] * 3)).tolist() == [3]
    assert effective_images(match(uneven, [found()] * 3)).tolist() == [2, 0]


def test_an_interval_has_the_width_theory_gives() -> None:
    """Truths found with probability 0.7 and no false alarm above them: AP is the share found, a binomial."""
    images, rng = 400, np.random.default_rng(5)
    hits = rng.random(images) < 0.7
    predictions = [found((*(BOX if hit else AWAY), 0, 0.9 if hit else 0.1)) for hit in hits]
    result = bootstrap(dataset_of([truth(BOX)] * images), predictions, seed=3)
    share, error = hits.mean(), (hits.mean() * (1 - hits.mean()) / images) ** 0.5
    assert result.AP == pytest.approx((share - 1.96 * error, share + 1.96 * error), abs=0.01)
    assert result.resolution == pytest.approx(1.96 * 2**0.5 * error, rel=0.1)
    assert result.AP == pytest.approx(result.AP50, abs=1e-12)
    assert result.AP == pytest.approx(result.per_class[0].AP, abs=1e-12)
    assert len(result.to_dict()["AP"]) == 2
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()


def test_more_images_and_a_lower_level_mean_a_narrower_interval() -> None:
    def width(interval: Interval) -> float:
        return interval.high - interval.low

    few, plenty = (bootstrap(*many(images)) for images in (50, 800))
    assert width(plenty.AP) == pytest.approx(width(few.AP) / 4, rel=0.3)
    lower = bootstrap(*many(50), level=0.8)
    assert width(lower.AP) == pytest.approx(width(few.AP) * 1.28 / 1.96, rel=0.05)
    assert lower.resolution < few.resolution


def test_the_seed_decides() -> None:
    assert bootstrap(*many(40), seed=1) == bootstrap(*many(40), seed=1)
    assert bootstrap(*many(40), seed=1) != bootstrap(*many(40), seed=2)


def test_nothing_to_measure_is_undefined() -> None:
    for result in (
        bootstrap(dataset_of([]), []),
        bootstrap(dataset_of([truth(), truth()]), [found((*BOX, 0, 0.5)), found()]),
        bootstrap(dataset_of([truth(BOX)]), [found((*BOX, 0, 0.5))]),  # one photo
        bootstrap(dataset_of([truth(BOX, AWAY), truth()]), [found((*BOX, 0, 0.5)), found()]),  # truths on one photo
        bootstrap(dataset_of([truth(BOX), truth(BOX)], classes=0), [found(), found()]),
    ):
        assert (result.AP, result.AP50, result.AP75) == (UNKNOWN, UNKNOWN, UNKNOWN)
        assert (result.resolution, result.resolution_AP50) == (-1, -1)
        assert {c.AP for c in result.per_class} <= {UNKNOWN}


def test_a_class_on_one_photo_or_none_does_not_spoil_the_others() -> None:
    dataset = dataset_of([truth(BOX, BOX, labels=[0, 2])] + [truth(BOX)] * 9, classes=3)
    result = bootstrap(dataset, [found((*BOX, 0, 0.9)), *[found()] * 4, *[found((*BOX, 0, 0.9))] * 5])
    assert [c.AP == UNKNOWN for c in result.per_class] == [False, True, True]
    assert 0 < result.AP.low < result.AP.high < 1


def test_no_detections_and_perfect_ones() -> None:
    dataset = dataset_of([truth(BOX)] * 5)
    assert bootstrap(dataset, [found()] * 5).AP == (0, 0)
    assert bootstrap(dataset, [found((*BOX, 0, 0.5))] * 5).AP == pytest.approx((1, 1))


def test_two_draws_are_enough_to_run() -> None:
    assert 0 <= bootstrap(*many(20), draws=2).AP.low <= 1


def test_a_model_against_itself() -> None:
    dataset, predictions = many(30)
    result = compare(dataset, predictions, predictions)
    assert (result.AP.delta, result.AP.interval, result.AP.b_better) == (0, (0, 0), 0.5)
    assert (result.per_class[1].AP50.delta, result.per_class[1].AP50.b_better) == (0, 0.5)


def test_pairs_tell_smaller_differences_apart_than_two_intervals() -> None:
    """Model B is model A with one find in twenty lost."""
    dataset, better = many(300)
    worse = [p if n % 20 else p[p.boxes_xyxy[:, 0] > 0] for n, p in enumerate(better)]
    result = compare(dataset, better, worse)
    a, b = evaluate(dataset, better), evaluate(dataset, worse)
    assert result.AP.delta == pytest.approx(b.AP - a.AP, abs=1e-9)
    assert result.per_class[0].AP50.delta == pytest.approx(b.per_class[0].AP50 - a.per_class[0].AP50, abs=1e-9)
    assert result.AP.interval.low < result.AP.delta < result.AP.interval.high < 0
    assert result.AP.b_better == 0
    assert abs(result.AP.delta) < bootstrap(dataset, better).resolution
    back = compare(dataset, worse, better)
    assert (back.AP.delta, back.AP.b_better) == (-result.AP.delta, 1)
    assert back.AP.interval == pytest.approx([-end for end in reversed(result.AP.interval)], abs=1e-12)
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()


def test_a_difference_where_nothing_is_defined() -> None:
    result = compare(dataset_of([truth(BOX)]), [found()], [found((*BOX, 0, 1))])
    assert (result.AP.delta, result.AP.interval, result.AP.b_better) == (-1, UNKNOWN, -1)


@pytest.mark.parametrize("settings", [{"draws": 1}, {"seed": -1}, {"level": 0.0}, {"level": 1.0}, {"level": 95}])
def test_wrong_settings(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="no such interval"):
        bootstrap(*many(3), **settings)
    with pytest.raises(UsageError):
        compare(*many(3), many(3)[1], **settings)


def test_predictions_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="found 0; expected 1 images"):
        bootstrap(dataset_of([truth(BOX)]), [])


def redrawn(matching: Matching, images: np.ndarray) -> Matching:
    """The matching of a data set made of these images in this order, each draw a photo of its own."""
    counts = np.bincount(images, minlength=matching.image_count)
    first, position = np.cumsum(counts) - counts, np.argsort(images, kind="stable")

    def copies(rows: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        times = counts[rows]
        places = np.repeat(np.arange(len(rows)), times)
        number = np.arange(len(places)) - np.repeat(np.cumsum(times) - times, times)
        return places, position[first[rows[places]] + number], np.append(0, np.cumsum(times))[starts]

    places, of, starts = copies(matching.images, matching.starts)
    _, truth_of, truth_starts = copies(matching.truth_images, matching.truth_starts)
    hit, ignored = matching.hit[:, places], matching.ignored[:, places]
    return Matching(len(images), starts, of, hit, ignored, truth_starts, truth_of)


def test_redrawing_a_matching_equals_matching_the_redrawn_set() -> None:
    rng = np.random.default_rng(4)
    dataset, predictions = many(40)
    images = rng.integers(0, 40, 40)
    want = match(*resampled(dataset, predictions, np.bincount(images, minlength=40)))
    got = redrawn(match(dataset, predictions), images)
    assert once(got) == pytest.approx(once(want), abs=1e-12)
    assert effective_images(got) == pytest.approx(effective_images(want))


def coverage(matching: Matching, sets: int, draws: int, scale: Callable, seed: int = 0) -> np.ndarray:
    """How often intervals of sets drawn from this one hold its own figures, [3, 1 + K], and the percentile's."""
    rng = np.random.default_rng(seed)
    [whole] = resample([matching], 2, 0)
    want = scale(whole[..., 0])
    held = np.zeros((2, *want.shape))
    for number in range(sets):
        sample = redrawn(matching, rng.integers(0, matching.image_count, matching.image_count))
        [figures] = resample([sample], draws, number)
        ends = limits(figures, scale(figures), effective_images(sample), 0.95)
        plain = np.nanquantile(scale(figures[..., 1:]), [0.025, 0.975], axis=-1)
        held[0] += (ends[..., 0] <= want) & (want <= ends[..., 1])
        held[1] += (plain[0] <= want) & (want <= plain[1])
    return held / sets


def arcsine(values: np.ndarray) -> np.ndarray:
    return np.arcsin(np.sqrt(np.clip(values, 0, 1)))


def predicted(val: Dataset) -> list[Detections]:
    """The boxes of the model that comes with detkit."""
    from detkit.infer.predictor import Predictor

    predictor = Predictor(conf=CONF_FLOOR, max_det=MAX_DET)
    return list(predictor.predict_files([sample.image_path for sample in val]))


def false_alarms(val: Dataset, predictions: list[Detections], sets: int, draws: int, seed: int = 0) -> np.ndarray:
    """How often the interval of B less A leaves 0 out although neither is better, [3, 1 + K].

    A and B are the model and a worse one, with a coin tossed for each photo which of them is called A.
    """
    rng = np.random.default_rng(seed)
    shaken = [
        Detections(p.size_hw, p.boxes_xyxy + rng.normal(0, 4, (len(p), 1)), p.labels, rng.permutation(p.scores))
        if rng.random() < 0.3
        else p
        for p in predictions
    ]
    samples = [Sample(f"{n}.jpg", s.image_path, s.truth, n, s.areas_px) for n, s in enumerate((*val, *val))]
    twice = Dataset("twice", val.class_names, tuple(samples), val.source, "coco", "", val.category_ids)
    matching, count = match(twice, [*predictions, *shaken]), len(val)
    alarms = np.zeros((3, 1 + matching.class_count))
    for number in range(sets):
        images, coin = rng.integers(0, count, count), rng.random(count) < 0.5
        sides = [redrawn(matching, images + count * side) for side in (coin, ~coin)]
        a, b = resample(sides, draws, number)
        ends = limits(b - a, b - a, effective_images(sides[0]), 0.95)
        alarms += (ends[..., 0] > 0) | (ends[..., 1] < 0)
    return alarms / sets


@pytest.mark.slow
def test_on_real_predictions_intervals_hold_the_truth_and_equal_models_raise_no_alarm(shared_data: Path) -> None:
    """The default model's boxes on street5's val photos: that set is the world, sets drawn from it are the tests."""
    val = read(shared_data / "street5", "val")
    predictions = predicted(val)
    held, percentile = coverage(match(val, predictions), 400, 200, arcsine)
    alarms = false_alarms(val, predictions, 200, 200)
    print("rows AP, AP50, AP75, columns all and each class\n", held, "\npercentile\n", percentile, "\nalarms\n", alarms)
    assert (abs(held[:2, 0] - 0.95) <= 0.02).all()
    assert (held[:2] > 0.88).all()  # classes, on as few as 24 effective photos
    assert (alarms[:2, 0] < 0.08).all()  # 0.05, and twice the error of 200 sets
