"""Label errors are found where they were planted, under their right kind, before the model's own mistakes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from corrupted_labels import corrupt, found_among
from test_evaluate_coco import dataset_of, found, truth
from test_matching import AWAY, BOX

from detkit.data.dataset import Dataset
from detkit.data.formats import read
from detkit.detections import Detections
from detkit.evaluate.coco import CONF_FLOOR, MAX_DET
from detkit.evaluate.overlaps import find_overlaps
from detkit.evaluate.suspects import Suspect, label_suspects
from detkit.infer.predictor import Predictor

BESIDE = (30, 0, 80, 50)  # overlaps BOX by a quarter, and sticks out


def suspects(dataset: Dataset, predictions: Sequence[Detections], limit: int = 100) -> tuple[Suspect, ...]:
    return label_suspects(find_overlaps(dataset, predictions), limit=limit)


def among_good_ones(odd: Detections, boxes: Detections) -> tuple[Suspect, ...]:
    """One odd photo, the last, after 60 whose objects are found as labelled."""
    good = found((*BOX, 0, 0.9), (*AWAY, 1, 0.8))
    dataset = dataset_of([*[truth(BOX, AWAY, labels=[0, 1])] * 60, odd], classes=2)
    return suspects(dataset, [*[good] * 60, boxes])


def test_a_missing_label() -> None:
    [only] = among_good_ones(truth(BOX), found((*BOX, 0, 0.9), (*AWAY, 1, 0.8)))
    assert (only.kind, only.position, only.found, only.label, only.row) == ("missing label", 60, "class 1", None, None)
    assert only.found_xyxy == pytest.approx(AWAY)
    assert 0.5 < only.score < 1


def test_a_wrong_class() -> None:
    [only] = among_good_ones(truth(BOX, AWAY, labels=[1, 1]), found((*BOX, 0, 0.9), (*AWAY, 1, 0.8)))
    assert (only.kind, only.label, only.found) == ("wrong class", "class 1", "class 0")
    assert only.label_xyxy == pytest.approx(BOX)


def test_a_badly_placed_box_is_one_suspect_not_two() -> None:
    [only] = among_good_ones(truth(BESIDE, AWAY, labels=[0, 1]), found((*BOX, 0, 0.9), (*AWAY, 1, 0.8)))
    assert (only.kind, only.label_xyxy, only.found_xyxy) == ("badly placed", pytest.approx(BESIDE), pytest.approx(BOX))


def test_a_box_on_nothing() -> None:
    [only] = among_good_ones(truth(BOX, AWAY, labels=[0, 1]), found((*BOX, 0, 0.9)))
    assert (only.kind, only.label, only.found, only.found_score) == ("nothing there", "class 1", None, None)


def test_objects_the_model_seldom_finds_are_no_suspects() -> None:
    dataset = dataset_of([truth(BOX, AWAY)] * 40)
    ranked = suspects(dataset, [found((*BOX, 0, 0.9), *[(*AWAY, 0, 0.9)] * (n % 8 == 0)) for n in range(40)])
    large = dataset_of([truth(BOX, (0, 100, 199, 299))] * 40)
    sure = suspects(large, [found((*BOX, 0, 0.9), *[(0, 100, 199, 299, 0, 0.9)] * (n != 5)) for n in range(40)])
    assert max(s.score for s in ranked) < 0.7 < sure[0].score


def test_crowds_and_duplicates_are_no_suspects() -> None:
    crowd = truth(BOX, AWAY, (0, 100, 100, 200), labels=[0, 1, 0], crowd=[False, False, True])
    boxes = found((*BOX, 0, 0.9), (*AWAY, 1, 0.8), (0, 100, 50, 150, 0, 0.9), (2, 0, 50, 50, 0, 0.6))
    assert among_good_ones(crowd, boxes) == ()


def test_where_the_label_is_written() -> None:
    dataset = dataset_of([truth(BOX), truth(BOX, AWAY)], image_ids=[9, 4])
    rows = [dataclasses.replace(s, label_file=Path("a.json"), rows=np.arange(10, 10 + len(s.truth))) for s in dataset]
    ranked = suspects(dataclasses.replace(dataset, samples=tuple(rows)), [found((*BOX, 0, 0.9))] * 2)
    assert [(s.name, s.label_file, s.row) for s in ranked] == [("1.jpg", "a.json", 11)]
    assert json.loads(json.dumps([s.to_dict() for s in ranked]))[0]["position"] == 1


def test_nothing_at_all() -> None:
    assert suspects(dataset_of([]), []) == suspects(dataset_of([truth()]), [found()]) == ()
    assert len(suspects(dataset_of([truth()]), [found((*BOX, 0, 0.9))])) <= 1


def made_up(seed: int, photos: int = 300) -> tuple[Dataset, list[Detections]]:
    """Photos of two or three objects of three classes; the model finds 97 in a hundred well, others faintly or not."""
    rng = np.random.default_rng(seed)
    truths, boxes = [], []
    for _ in range(photos):
        corners = [(x, y) for x in (0, 140, 270) for y in (0, 160)]
        places = np.array([corners[k] for k in rng.permutation(6)[: rng.integers(2, 4)]], float)
        sides = rng.uniform(60, 120, (len(places), 2))
        objects, labels = np.hstack([places, places + sides]), rng.integers(0, 3, len(places))
        seen, well = rng.random((2, len(places))) < [[0.995], [0.97]]
        shaken = (objects + rng.normal(0, 3, objects.shape))[seen]
        rows = np.column_stack(
            [shaken, labels[seen], np.where(well, rng.beta(8, 2, len(well)), rng.beta(1, 6, len(well)))[seen]]
        )
        stray = np.hstack([rng.uniform(0, 150, (6, 2)), rng.uniform(160, 290, (6, 2))])
        strays = np.column_stack([stray, rng.integers(0, 3, 6), rng.beta(1, 12, 6)])
        truths.append(truth(*objects, labels=labels))
        boxes.append(found(*rows, *strays))
    return dataset_of(truths, classes=3), boxes


@pytest.mark.parametrize("seed", range(5))
def test_eight_of_ten_planted_errors_are_among_the_first_twenty(seed: int) -> None:
    dataset, predictions = made_up(seed)
    corrupted, planted = corrupt(dataset, seed)
    assert sum(found_among(suspects(corrupted, predictions, limit=20), planted)) >= 8


@pytest.mark.slow
def test_planted_errors_on_real_photos(shared_data: Path, repo: Path) -> None:
    """Clearly visible objects of real photos, at least 128 px; the set's own doubtful labels compete for the places.

    Over 30 draws of 300 photos 8.3 of 10 were found on average and 8 or more in 26 of them; of objects of any size,
    most of which the model does not see either, 4.3.
    """
    dataset = read(shared_data / "street5", "val")
    dataset = dataclasses.replace(dataset, samples=dataset.samples[:300])
    predictor = Predictor(repo / "weights" / "street.onnx", conf=CONF_FLOOR, max_det=MAX_DET)
    predictions = list(predictor.predict_files([sample.image_path for sample in dataset]))
    found_of = []
    for seed in range(10):
        corrupted, planted = corrupt(dataset, seed, clear_px=128)
        found_of.append(sum(found_among(suspects(corrupted, predictions, limit=20), planted)))
    assert np.mean(found_of) >= 7
    assert np.median(found_of) >= 8
