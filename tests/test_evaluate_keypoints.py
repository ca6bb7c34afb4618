"""Keypoint AP: one worked out by hand, both engines alike, and equal to pycocotools run on COCO's own files."""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from detkit.data import coco
from detkit.data.dataset import Dataset, Sample
from detkit.data.keypoints import numbered_names
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.evaluate.coco import Engine
from detkit.evaluate.keypoints import KEYPOINT_FIGURES, KeypointResult, coco_sigmas, evaluate_keypoints, known_sigmas
from detkit.evaluate.results_file import read_results

SIZE_HW = (300, 400)
EYES = ("left_eye", "right_eye")


def boxes_of(*boxes: Any, points: Any, labels: Any = 0, scores: Any = None, crowd: Any = None) -> Detections:
    labels = np.broadcast_to(labels, len(boxes))
    points = np.array(points, np.float32).reshape(len(boxes), -1, 3)
    return Detections(SIZE_HW, np.array(boxes, np.float32).reshape(-1, 4), labels, scores, points, crowd=crowd)


def dataset_of(truths: list[Detections], names: tuple[str, ...] = EYES, classes: int = 1, areas: Any = None) -> Dataset:
    areas = areas or [None] * len(truths)
    rows = enumerate(zip(truths, areas, strict=True))
    samples = tuple(Sample(f"{k}.jpg", Path(f"{k}.jpg"), t, len(truths) - k, a) for k, (t, a) in rows)
    kinds = tuple(f"class {k}" for k in range(classes))
    return Dataset("toy", kinds, samples, Path("toy"), "coco", "", tuple(range(3, 3 + classes)), names)


def both(dataset: Dataset, predictions: Any, sigmas: Any = None, max_det: int = 20) -> KeypointResult:
    """Evaluate with both engines and make sure they agree."""
    fast, reference = (evaluate_keypoints(dataset, predictions, sigmas, engine, max_det) for engine in get_args(Engine))
    assert fast.figures() == pytest.approx(reference.figures(), abs=1e-9, rel=0)
    for ours, theirs in zip(fast.per_class, reference.per_class, strict=True):
        assert (ours.AP, ours.AP50, ours.AR) == pytest.approx((theirs.AP, theirs.AP50, theirs.AR), abs=1e-9, rel=0)
    return fast


def test_similarity_worked_out_by_hand() -> None:
    """A box of 100x100 with sigma 0.05: a point off by d px has exp(-d^2 / (2 * 100^2 * 0.1^2)) = exp(-d^2 / 200).

    Off by 10 px that is 0.61: right at 0.50, 0.55 and 0.60 and wrong at the other seven.
    """
    dataset = dataset_of([boxes_of((50, 50, 150, 150), points=[80, 90, 2, 120, 90, 1])])
    near = boxes_of((50, 50, 150, 150), points=[90, 90, 1, 120, 100, 1], scores=[0.9])
    result = both(dataset, [near], 0.05)
    assert math.exp(-1 / 2) == pytest.approx(0.61, abs=0.01)
    assert (result.AP, result.AP50, result.AP75, result.AR) == pytest.approx((0.3, 1, 0, 0.3))
    assert (result.APm, result.sigmas, result.ignored) == (-1, (0.05, 0.05), 0)
    only_labelled = dataset_of([boxes_of((50, 50, 150, 150), points=[80, 90, 2, 0, 0, 0])])
    assert both(
        only_labelled, [boxes_of((0, 0, 9, 9), points=[80, 90, 0, 7, 7, 0], scores=[0.5])], 0.05
    ).AP == pytest.approx(1)


def test_boxes_without_points_and_crowds_count_neither_way() -> None:
    boxes = (50, 50, 150, 150), (200, 50, 300, 150), (50, 160, 150, 260)
    points = [[80, 90, 2, 120, 90, 2], [0, 0, 0, 0, 0, 0], [80, 200, 2, 120, 200, 2]]
    dataset = dataset_of([boxes_of(*boxes, points=points, crowd=[False, False, True])])
    on_ignored = [[230, 90, 1, 270, 90, 1], [80, 200, 1, 120, 200, 1]]
    found = boxes_of(*boxes, points=[points[0], *on_ignored], scores=[0.3, 0.9, 0.8])
    result = both(dataset, [found], [0.025, 0.025])
    assert (result.AP, result.ignored, result.boxes, result.per_class[0].truths) == pytest.approx((1, 2, 3, 1))


def random_case(seed: int) -> tuple[Dataset, list[Detections], int]:
    """Points shaken about labelled ones, tied scores, unlabelled points, boxes without any, crowds, empty photos."""
    rng = np.random.default_rng(seed)
    classes, count = int(rng.integers(1, 3)), int(rng.integers(1, 5))
    truths, predictions, areas = [], [], []
    for _ in range(int(rng.integers(0, 4))):
        boxes, hits = int(rng.integers(0, 4)), int(rng.choice([0, 2, 6, 25]))
        corner = rng.integers(0, 100, (boxes, 2))
        boxes_xyxy = np.hstack([corner, corner + rng.integers(10, 150, (boxes, 2))])
        xy = corner[:, None] + rng.integers(0, 60, (boxes, count, 2))
        points = np.dstack([xy, rng.integers(0, 3, (boxes, count))])
        crowd = None if rng.random() < 0.6 else rng.random(boxes) < 0.3
        labels = rng.integers(0, classes, boxes)
        truths.append(Detections(SIZE_HW, boxes_xyxy, labels, None, points, crowd=crowd))
        areas.append(None if rng.random() < 0.5 else rng.uniform(1, 12_000, boxes))
        near = rng.integers(0, max(boxes, 1), hits if boxes else 0)
        shaken = points[near] + rng.normal(0, rng.choice([0, 2, 10]), (len(near), count, 3))
        scores = rng.integers(0, int(rng.choice([1, 4, 1000])), len(near)) / 1000
        own = rng.integers(0, classes, len(near))
        predictions.append(Detections(SIZE_HW, boxes_xyxy[near], own, scores, shaken))
    dataset = dataset_of(truths, tuple(f"p{k}" for k in range(count)), classes, areas)
    return dataset, predictions, int(rng.choice([20, 1, 3]))


def test_engines_agree_on_adversarial_cases() -> None:
    some = 0
    for seed in range(150):
        dataset, predictions, max_det = random_case(seed)
        sigmas = np.random.default_rng(seed).uniform(0.02, 0.2, len(dataset.point_names))
        some += 0 < both(dataset, predictions, sigmas, max_det).AP < 1
    assert some > 30


def by_pycocotools(truth_file: Path, results_file: Path) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO(str(truth_file))
        run = COCOeval(labels, labels.loadRes(str(results_file)), "keypoints")
        run.evaluate(), run.accumulate(), run.summarize()
    return [float(value) for value in run.stats]


@pytest.mark.parametrize("with_boxes", [True, False])
def test_cocos_own_keypoint_files(shared_data: Path, tmp_path: Path, with_boxes: bool) -> None:
    """With and without `bbox`, which COCO's format for points does not ask for."""
    folder = shared_data / "coco-eval-ref" / "misc"
    rows = json.loads((folder / "keypoints_dt_dataset.json").read_text())
    rows = rows if with_boxes else [{k: v for k, v in row.items() if k != "bbox"} for row in rows]
    stored = tmp_path / "results.json"
    stored.write_text(json.dumps(rows))
    dataset = coco.read(folder / "keypoints_gt_dataset.json", need_photos=False)
    assert len(dataset.point_names) == 17
    predictions = read_results(stored, dataset)
    reference = by_pycocotools(folder / "keypoints_gt_dataset.json", stored)
    result = both(dataset, predictions)
    assert list(result.figures()) == list(KEYPOINT_FIGURES)
    assert list(result.figures().values()) == pytest.approx(reference, abs=1e-9, rel=0)
    assert 0.3 < result.AP < 0.9
    looser = both(dataset, predictions, np.array(result.sigmas) * 2)
    assert looser.AP > result.AP


def test_spreads_of_the_labels_come_before_cocos() -> None:
    named = dataset_of([boxes_of((50, 50, 150, 150), points=[80, 90, 2, 120, 90, 2])])
    assert known_sigmas(named).tolist() == [0.025, 0.025]
    assert known_sigmas(replace(named, point_sigmas=(0.1, 0.2))).tolist() == [0.1, 0.2]
    assert both(replace(named, point_sigmas=(0.1, 0.2)), [Detections.empty(SIZE_HW)]).sigmas == (0.1, 0.2)
    strange = replace(named, point_names=("a", "b"))
    with pytest.raises(UsageError, match="sigmas are needed"):
        known_sigmas(strange)


def test_cocos_sigmas_by_name() -> None:
    from pycocotools.cocoeval import Params

    assert coco_sigmas(numbered_names(17)).tolist() == pytest.approx(Params("keypoints").kpt_oks_sigmas.tolist())
    assert coco_sigmas(["nose", "left_eye", "RightEar", "l hip"][:3]).tolist() == [0.026, 0.025, 0.035]
    with pytest.raises(UsageError, match="sigmas are needed: COCO has none for these points; found left_mouth, chin"):
        coco_sigmas(["nose", "left_mouth", "chin"])


def test_what_does_not_fit() -> None:
    dataset = dataset_of([boxes_of((50, 50, 150, 150), points=[80, 90, 2, 120, 90, 1])])
    found = boxes_of((50, 50, 150, 150), points=[80, 90, 2, 120, 90, 1], scores=[0.5])
    with pytest.raises(UsageError, match="the sigmas do not fit"):
        evaluate_keypoints(dataset, [found], [0.1, 0.2, 0.3])
    with pytest.raises(UsageError, match="the sigmas do not fit"):
        evaluate_keypoints(dataset, [found], [0.1, 0])
    with pytest.raises(UsageError, match="engine yolo"):
        evaluate_keypoints(dataset, [found], 0.1, "yolo")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="predictions have no points"):
        evaluate_keypoints(dataset, [replace(found, points_xyv=None)], 0.1)
    with pytest.raises(DataError, match="do not fit; found"):
        evaluate_keypoints(dataset, [boxes_of((5, 5, 9, 9), points=[1, 2, 3], scores=[0.5])], 0.1)
    with pytest.raises(DataError, match="no points are labelled"):
        evaluate_keypoints(replace(dataset, point_names=()), [found], 0.1)


def test_nothing_to_find_and_nothing_found() -> None:
    assert set(both(dataset_of([]), [], 0.1).figures().values()) == {-1}
    missed = both(
        dataset_of([boxes_of((50, 50, 150, 150), points=[80, 90, 2, 120, 90, 1])]), [Detections.empty(SIZE_HW)]
    )
    assert (missed.AP, missed.APl, missed.APm) == (0, 0, -1)
    assert json.loads(json.dumps(missed.to_dict()))["rules"] == missed.rules()
