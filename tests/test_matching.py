"""Matching gives COCO's figures, and those of resampled sets equal COCO's on sets really resampled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_evaluate_coco import coco_file, dataset_of, found, random_case, truth

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.evaluate.coco import CocoResult, evaluate
from detkit.evaluate.matching import Matching, average_precisions, match

BOX, AWAY = (0, 0, 50, 50), (200, 200, 250, 250)


def mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def figures(aps: np.ndarray) -> list[float]:
    """AP, AP50, AP75, then AP and AP50 of each class, from [T, K]."""
    rows = [mean(aps), mean(aps[0]), mean(aps[5])]
    return rows + [value for column in aps.T for value in (mean(column), mean(column[:1]))]


def same_figures(result: CocoResult) -> list[float]:
    return [result.AP, result.AP50, result.AP75] + [value for c in result.per_class for value in (c.AP, c.AP50)]


def once(matching: Matching) -> np.ndarray:
    """AP of the set itself, [T, K]."""
    return average_precisions(matching, np.ones((matching.image_count, 1), np.int16))[..., 0]


def close(values: list[float], want: list[float]) -> bool:
    return values == pytest.approx(want, abs=1e-9, rel=0)


def test_matching_gives_cocos_figures_on_adversarial_cases() -> None:
    for seed in range(250):
        dataset, predictions, max_det = random_case(seed)
        want = same_figures(evaluate(dataset, predictions, max_det=max_det))
        assert close(figures(once(match(dataset, predictions, max_det))), want), seed


def test_matching_gives_cocos_figures_on_published_detections(shared_data: Path) -> None:
    folder = shared_data / "coco-eval-ref"
    dataset = coco_file(folder / "instances_val2014_100.json")
    label_of = {category_id: k for k, category_id in enumerate(dataset.category_ids)}
    rows: dict[int, list[tuple[float, ...]]] = {}
    for row in json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text()):
        x, y, width, height = row["bbox"]
        values = (x, y, x + width, y + height, label_of[row["category_id"]], row["score"])
        rows.setdefault(row["image_id"], []).append(values)
    predictions = [found(*rows.get(s.image_id, []), size_hw=s.truth.size_hw) for s in dataset]
    assert close(figures(once(match(dataset, predictions))), same_figures(evaluate(dataset, predictions)))


def test_of_truths_overlapped_alike_the_later_one_is_taken() -> None:
    """The first detection overlaps both by 0.82; so one right upon the later truth has the earlier left, IoU 0.67."""
    left, right = (0, 0, 10, 10), (2, 0, 12, 10)
    for second, want in ((right, [True] * 4 + [False] * 3 + [True] * 3), (left, [True] * 10)):
        dataset, predictions = dataset_of([truth(left, right)]), [found((1, 0, 11, 10, 0, 0.9), (*second, 0, 0.8))]
        matching = match(dataset, predictions)
        assert matching.hit[:, 1].tolist() == want
        assert close(figures(once(matching)), same_figures(evaluate(dataset, predictions, "pycocotools")))


def test_one_class_worked_out_by_hand() -> None:
    """Hit, false alarm, hit on three photos; the last photo's truth is missed."""
    dataset = dataset_of([truth(BOX), truth(), truth(BOX), truth(BOX)])
    predictions = [found((*BOX, 0, 0.9)), found((*AWAY, 0, 0.8)), found((*BOX, 0, 0.7)), found()]
    matching = match(dataset, predictions)
    assert matching.images.tolist() == [0, 1, 2]
    assert matching.hit[0].tolist() == [True, False, True]
    assert matching.truth_images.tolist() == [0, 2, 3]
    counts = np.array([[1, 1, 1, 1], [1, 2, 1, 0], [0, 1, 1, 0], [0, 4, 0, 0]]).T  # [I, B]
    want = [(34 + 33 * 2 / 3) / 101, (51 + 50 * 2 / 4) / 101, 0.5, -1]  # half the false alarms, all hits: 1 / 2
    assert average_precisions(matching, counts)[0, 0] == pytest.approx(want, abs=1e-12)


def test_an_image_of_large_id_listed_first() -> None:
    """Positions are those of the data set, ties follow the ids."""
    dataset = dataset_of([truth(BOX), truth(BOX)], image_ids=[9, 4])
    matching = match(dataset, [found((*AWAY, 0, 0.5)), found((*BOX, 0, 0.5))])
    assert matching.images.tolist() == [1, 0]
    assert matching.hit[0].tolist() == [True, False]


def resampled(dataset: Dataset, predictions: list[Detections], counts: np.ndarray) -> tuple[Dataset, list[Detections]]:
    """The set in which each photo really occurs so many times; ids keep copies together."""
    order = np.repeat(np.argsort([s.image_id for s in dataset]), counts[np.argsort([s.image_id for s in dataset])])
    rows = [dataset.samples[i] for i in order]
    samples = tuple(Sample(f"{n}.jpg", s.image_path, s.truth, n, s.areas_px) for n, s in enumerate(rows, start=1))
    names, ids = dataset.class_names, dataset.category_ids
    return Dataset("drawn", names, samples, dataset.source, "coco", "", ids), [predictions[i] for i in order]


def untied(predictions: list[Detections], rng: np.random.Generator) -> list[Detections]:
    """Scores tied across photos but never within one."""
    scored = [rng.permutation(np.linspace(0.1, 0.9, max(len(p), 1)))[: len(p)] for p in predictions]
    return [Detections(p.size_hw, p.boxes_xyxy, p.labels, s) for p, s in zip(predictions, scored, strict=True)]


def test_a_draw_equals_coco_on_the_set_really_drawn() -> None:
    for seed in range(80):
        rng = np.random.default_rng(seed)
        dataset, predictions, max_det = random_case(seed)
        predictions = untied(predictions, rng)
        count = len(dataset)
        counts = np.stack([np.bincount(rng.integers(0, max(count, 1), count), minlength=count) for _ in range(4)], 1)
        aps = average_precisions(match(dataset, predictions, max_det), counts)
        for column in range(4):
            want = evaluate(*resampled(dataset, predictions, counts[:, column]), max_det=max_det)
            assert close(figures(aps[..., column]), same_figures(want)), (seed, column)


def test_blocks_of_draws_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, predictions = many(60)
    counts = np.random.default_rng(0).integers(0, 3, (60, 50))
    whole = average_precisions(match(dataset, predictions), counts)
    monkeypatch.setattr("detkit.evaluate.matching._CELLS", 1)
    np.testing.assert_array_equal(average_precisions(match(dataset, predictions), counts), whole)


def many(images: int, seed: int = 0, quality: float = 0.7) -> tuple[Dataset, list[Detections]]:
    """Two classes, one truth of each on every photo, found with this probability, and false alarms."""
    rng = np.random.default_rng(seed)
    predictions = []
    for _ in range(images):
        scores, hits = rng.random(4), rng.random(2) < quality
        rows = [(*(BOX if hit else AWAY), k, s) for k, hit, s in zip((0, 1), hits, scores[:2], strict=True)]
        predictions.append(found(*rows, *((*AWAY, k, s) for k, s in zip((0, 1), scores[2:] / 2, strict=True))))
    return dataset_of([truth(BOX, BOX, labels=[0, 1])] * images, classes=2), predictions
