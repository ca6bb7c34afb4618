"""COCO figures: worked out by hand, equal in both engines, equal to pycocotools run on files, and to published ones."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.errors import DataError, UsageError
from detkit.evaluate.coco import COCO_SIZES, FIGURE_NAMES, CocoResult, Engine, Sizes, evaluate, results_list

ENGINES = get_args(Engine)
SIZE_HW = (300, 400)


def truth(
    *boxes_xyxy: tuple[float, ...], labels: Any = 0, crowd: Any = None, size_hw: tuple[int, int] = SIZE_HW
) -> Detections:
    labels = np.broadcast_to(labels, len(boxes_xyxy))
    return Detections(size_hw, np.array(boxes_xyxy, np.float32).reshape(-1, 4), labels, crowd=crowd)


def found(*rows: tuple[float, ...], size_hw: tuple[int, int] = SIZE_HW) -> Detections:
    """Rows of x1, y1, x2, y2, label, score."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(size_hw, table[:, :4], table[:, 4].astype(int), table[:, 5])


def dataset_of(truths: list[Detections], classes: int = 1, **changes: Any) -> Dataset:
    ids = changes.pop("image_ids", range(1, len(truths) + 1))
    areas = changes.pop("areas_px", [None] * len(truths))
    rows = enumerate(zip(truths, ids, areas, strict=True))
    samples = tuple(Sample(f"{k}.jpg", Path(f"{k}.jpg"), t, i, a) for k, (t, i, a) in rows)
    names = tuple(f"class {k}" for k in range(classes))
    category_ids = changes.pop("category_ids", tuple(range(1, classes + 1)))
    return Dataset("toy", names, samples, Path("toy"), "coco", "val", category_ids)


def both(
    dataset: Dataset,
    predictions: list[Detections],
    max_det: int = 100,
    ious: tuple[float, ...] = (),
    sizes: Sizes = COCO_SIZES,
) -> CocoResult:
    """Evaluate with both engines and make sure they agree in everything."""
    fast, reference = (evaluate(dataset, predictions, engine, max_det, ious=ious, sizes=sizes) for engine in ENGINES)
    assert len(leaves(fast)) > 12
    for ours, theirs in zip(leaves(fast), leaves(dataclasses.replace(reference, engine="hotcoco")), strict=True):
        assert abs(ours - theirs) <= 1e-9 if isinstance(theirs, float) else ours == theirs
    return fast


def leaves(value: Any) -> list[Any]:
    """Every number and text in a result, in order."""
    if dataclasses.is_dataclass(value):
        return leaves([getattr(value, field.name) for field in dataclasses.fields(value)])
    return [leaf for each in value for leaf in leaves(each)] if isinstance(value, (tuple, list)) else [value]


def undefined(result: CocoResult) -> set[str]:
    return {name for name, value in result.figures().items() if value == -1}


def test_no_images_at_all() -> None:
    result = both(dataset_of([]), [])
    assert undefined(result) == set(FIGURE_NAMES)
    assert (result.images, result.boxes, result.detections) == (0, 0, 0)
    assert [(c.AP, c.truths) for c in result.per_class] == [(-1, 0)]


def test_no_truths_is_undefined_and_no_detections_is_zero() -> None:
    assert undefined(both(dataset_of([truth()]), [found((0, 0, 9, 9, 0, 0.5))])) == set(FIGURE_NAMES)
    assert undefined(both(dataset_of([truth()]), [found()])) == set(FIGURE_NAMES)
    missed = both(dataset_of([truth((0, 0, 100, 100))]), [found()])
    assert undefined(missed) == {"APs", "APm", "ARs", "ARm"}
    assert (missed.AP, missed.APl, missed.AR100) == (0, 0, 0)


def test_three_images_worked_out_by_hand() -> None:
    """Hit (0.9), false alarm (0.8), and a hit of IoU 0.62 (0.7), which counts at 0.50, 0.55 and 0.60; one truth missed.

    At these three thresholds precision is 1 up to recall 1/3 (34 of COCO's 101 points) and 2/3 up to recall 2/3
    (33 points): AP 56/101. At the other seven only the first hit counts: AP 34/101.
    """
    square = (0, 0, 100, 100)
    dataset = dataset_of([truth(square), truth(square), truth(square)])
    predictions = [found((*square, 0, 0.9)), found(), found((200, 200, 300, 300, 0, 0.8), (0, 0, 100, 62, 0, 0.7))]
    result = both(dataset, predictions)
    want = {"AP": (3 * 56 + 7 * 34) / 1010, "AP50": 56 / 101, "AP75": 34 / 101, "AR1": 1 / 3}
    want |= {"AR10": (3 * 2 / 3 + 7 / 3) / 10, "AR100": (3 * 2 / 3 + 7 / 3) / 10}
    assert {name: result.figures()[name] for name in want} == pytest.approx(want, abs=1e-12)
    assert undefined(result) == {"APs", "APm", "ARs", "ARm"}
    assert (result.images, result.boxes, result.crowd_boxes, result.detections) == (3, 3, 0, 3)


def test_detections_on_a_crowd_are_neither_right_nor_wrong() -> None:
    person, crowd = (0, 0, 50, 50), (100, 100, 300, 300)
    dataset = dataset_of([truth(person, crowd, crowd=[False, True])])
    inside_crowd = [(100 + k, 100, 130 + k, 160, 0, 0.9 - k / 100) for k in range(9)]
    result = both(dataset, [found((*person, 0, 0.5), *inside_crowd)])
    assert (result.AP, result.AR100, result.crowd_boxes, result.boxes) == pytest.approx((1, 1, 1, 2))
    assert result.per_class[0].truths == 1
    only_crowd = both(dataset_of([truth(crowd, crowd=[True])]), [found(*inside_crowd)])
    assert only_crowd.AP == -1


def test_size_ranges_use_the_label_files_areas() -> None:
    box = (0, 0, 100, 100)
    hit = [found((*box, 0, 0.9))]
    assert undefined(both(dataset_of([truth(box)]), hit)) == {"APs", "APm", "ARs", "ARm"}
    smaller = both(dataset_of([truth(box)], areas_px=[np.array([1000.0])]), hit)
    assert undefined(smaller) == {"APm", "APl", "ARm", "ARl"}
    assert smaller.APs == pytest.approx(1)


def test_at_most_100_detections_per_image_and_class() -> None:
    wrong = [(200, 200, 210, 210, 0, 0.9)] * 100
    dataset = dataset_of([truth((0, 0, 50, 50))])
    late = [found(*wrong, (0, 0, 50, 50, 0, 0.1))]
    assert both(dataset, late).AR100 == 0
    assert both(dataset, late, max_det=101).AR100 == 1
    other_class = [found(*[(200, 200, 210, 210, 1, 0.9)] * 100, (0, 0, 50, 50, 0, 0.1))]
    assert both(dataset_of([truth((0, 0, 50, 50))], classes=2), other_class).AR100 == 1
    assert both(dataset, late, max_det=1).AR100 == 0


def test_ties_keep_the_given_order() -> None:
    box = (0, 0, 50, 50)
    dataset = dataset_of([truth(box), truth(box)])
    hit, wrong = (*box, 0, 0.5), (200, 200, 250, 250, 0, 0.5)
    first = both(dataset, [found(hit, wrong), found()])
    last = both(dataset, [found(wrong, hit), found()])
    assert first.AP == pytest.approx(51 / 101)
    assert last.AP == pytest.approx(51 / 101 / 2)


def test_ties_across_images_follow_the_image_ids() -> None:
    """As pycocotools has it, whatever order the photos are listed in; the first detection there comes first."""
    box = (0, 0, 50, 50)
    hit, wrong = found((*box, 0, 0.5)), found((200, 200, 250, 250, 0, 0.5))
    first = both(dataset_of([truth(box), truth(box)], image_ids=[2**60, 7]), [wrong, hit])
    last = both(dataset_of([truth(box), truth(box)], image_ids=[7, 2**60]), [wrong, hit])
    assert (first.AP, last.AP) == pytest.approx((51 / 101, 51 / 101 / 2))


def test_classes_without_truths_do_not_count_in_the_mean() -> None:
    box = (0, 0, 50, 50)
    dataset = dataset_of([truth(box, labels=2)], classes=4, category_ids=(3, 17, 90, 5))
    result = both(dataset, [found((*box, 2, 0.5), (*box, 0, 0.9))])
    assert result.AP == pytest.approx(1)
    rows = [(c.category_id, round(c.AP, 12), c.truths, c.detections) for c in result.per_class]
    assert rows == [(3, -1, 0, 1), (17, -1, 0, 0), (90, 1, 1, 1), (5, -1, 0, 0)]


def random_case(seed: int) -> tuple[Dataset, list[Detections], int]:
    """Whole-number boxes (so that IoU meets the thresholds exactly), few distinct scores, crowds, empty classes."""
    rng = np.random.default_rng(seed)
    classes, images = int(rng.integers(1, 4)), int(rng.integers(0, 5))
    side, span = int(rng.choice([2, 6, 12, 60, 150])), int(rng.choice([3, 40]))
    shift = rng.choice([1.0, 0.37])

    def boxes(count: int) -> np.ndarray:
        corner_xy = rng.integers(0, span, (count, 2))
        return shift * np.hstack([corner_xy, corner_xy + rng.integers(0, side, (count, 2))])

    truths, predictions, areas = [], [], []
    for _ in range(images):
        size_hw = (int(rng.integers(1, 900)), int(rng.integers(1, 900)))
        count, hits = int(rng.integers(0, 6)), int(rng.choice([0, 1, 8, 130]))
        boxes_xyxy = boxes(count)
        crowd = None if rng.random() < 0.5 else rng.random(count) < 0.3
        truths.append(Detections(size_hw, boxes_xyxy, rng.integers(0, classes, count), crowd=crowd))
        areas.append(None if rng.random() < 0.5 else rng.uniform(0, 10_000, count))
        scores = rng.integers(0, int(rng.choice([1, 2, 5, 1000])), hits) / 1000
        found_xyxy = np.vstack([boxes_xyxy, boxes(hits)])[rng.permutation(count + hits)[:hits]]
        predictions.append(Detections(size_hw, found_xyxy, rng.integers(0, classes, hits), scores))
    ids = rng.choice(10_000, images, replace=False)
    category_ids = tuple(int(k) for k in rng.choice(500, classes, replace=False))
    dataset = dataset_of(truths, classes, image_ids=ids.tolist(), areas_px=areas, category_ids=category_ids)
    return dataset, predictions, int(rng.choice([100, 100, 1, 5, 300]))


def test_engines_agree_on_a_thousand_adversarial_cases() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(1000):
        result = both(*random_case(seed))
        kinds["undefined" if result.AP < 0 else "zero" if result.AP == 0 else "some"] += 1
        kinds["crowds"] += result.crowd_boxes > 0
        kinds["many"] += result.detections > 100
    assert min(kinds.values()) > 50, f"the cases have grown one-sided: {kinds}"


def by_pycocotools_itself(
    folder: Path, dataset: Dataset, predictions: list[Detections], settings: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """precision [T, R, K, A, M] and recall [T, K, A, M] of pycocotools on files, with its own settings by name."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    reference_files(folder, dataset, predictions)
    labels = COCO(str(folder / "truth.json"))
    run = COCOeval(labels, labels.loadRes(str(folder / "results.json")), "bbox")
    for name, value in settings.items():
        setattr(run.params, name, value)
    run.evaluate(), run.accumulate()
    return run.eval["precision"], run.eval["recall"]


def mean_of_defined(values: np.ndarray) -> float:
    return float(values[values > -1].mean()) if (values > -1).any() else -1


def test_other_thresholds_and_sizes_equal_pycocotools(tmp_path: Path) -> None:
    """Any list of IoUs and any ranges of size, in total, by class and by size, beside COCO's own figures."""
    seen = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        dataset, predictions, _ = random_case(seed)
        if not sum(map(len, predictions)) or list(dataset.category_ids) != sorted(dataset.category_ids):
            continue
        ious = tuple(rng.choice([0.5, 0.9, 0.33, 0.6, 0.97, 1.0, 0.05, 0.25], int(rng.integers(1, 4)), replace=False))
        edges = [0, *sorted(rng.choice(range(1, 120), 3, replace=False).tolist()), math.inf]
        sizes = {f"from {low}": (low, high) for low, high in pairwise(edges)} | {"small": (0, 32)}
        result = both(dataset, predictions, ious=ious, sizes=sizes)
        assert result.figures() == pytest.approx(evaluate(dataset, predictions).figures(), abs=1e-12)
        areas = [[0, 1e10]] + [[low**2, min(high, 1e5) ** 2] for low, high in sizes.values()]
        labels = {"areaRng": areas, "areaRngLbl": list("abcdef"), "maxDets": [100]}
        precision, recall = by_pycocotools_itself(tmp_path, dataset, predictions, {"iouThrs": np.array(ious), **labels})
        for t, row in enumerate(result.ious):
            want = ious[t], mean_of_defined(precision[t, ..., 0, 0]), mean_of_defined(recall[t, :, 0, 0])
            assert dataclasses.astuple(row) == pytest.approx(want, abs=1e-9, rel=0), seed
            by_class = [mean_of_defined(precision[t, :, k, 0, 0]) for k in range(len(result.per_class))]
            assert [c.at_ious[t] for c in result.per_class] == pytest.approx(by_class, abs=1e-9, rel=0)
        precision, recall = by_pycocotools_itself(tmp_path, dataset, predictions, labels)
        for a, size in enumerate(result.sizes, start=1):
            parts = precision[..., a, 0], precision[0, ..., a, 0], recall[..., a, 0]
            want = tuple(map(mean_of_defined, parts))
            assert (size.AP, size.AP50, size.AR) == pytest.approx(want, abs=1e-9, rel=0)
            by_class = [mean_of_defined(precision[:, :, k, a, 0]) for k in range(len(result.per_class))]
            assert [c.at_sizes[a - 1] for c in result.per_class] == pytest.approx(by_class, abs=1e-9, rel=0)
        seen += any(0 < row.AP < 1 for row in result.ious)
    assert seen > 15


def test_figures_of_each_class_equal_pycocotools_on_that_class_alone(tmp_path: Path) -> None:
    dataset, predictions, _ = next(
        case for case in map(random_case, range(1000)) if len(case[0].class_names) == 3 and evaluate(*case[:2]).AP > 0.1
    )
    for row in evaluate(dataset, predictions).per_class:
        settings = {"catIds": [row.category_id]}
        precision, recall = by_pycocotools_itself(tmp_path, dataset, predictions, settings)
        sizes = [mean_of_defined(precision[..., a, -1]) for a in range(4)]
        single = [mean_of_defined(precision[t, ..., 0, -1]) for t in (0, 5)]
        want = [sizes[0], *single, *sizes[1:], mean_of_defined(recall[:, :, 0, -1])]
        got = [row.AP, row.AP50, row.AP75, row.APs, row.APm, row.APl, row.AR100]
        assert got == pytest.approx(want, abs=1e-9, rel=0)


def test_one_threshold_and_one_size_by_hand() -> None:
    """A tiny object found exactly, and a large one found with IoU 0.8."""
    dataset = dataset_of([truth((0, 0, 10, 10), (100, 100, 200, 200))])
    result = both(
        dataset,
        [found((0, 0, 10, 10, 0, 0.9), (100, 100, 200, 180, 0, 0.8))],
        ious=(0.5, 0.85),
        sizes={"tiny": (0, 16), "small": (16, 32), "rest": (32, math.inf)},
    )
    assert [(r.iou, round(r.AP, 9), r.AR) for r in result.ious] == [(0.5, 1, 1), (0.85, round(51 / 101, 9), 0.5)]
    got = [(s.name, s.low_px, s.high_px, round(s.AP, 9), s.truths) for s in result.sizes]
    assert got == [("tiny", 0, 16, 1, 1), ("small", 16, 32, -1, 0), ("rest", 32, None, 0.7, 1)]  # 0.50 to 0.80
    assert result.per_class[0].at_sizes == tuple(s.AP for s in result.sizes)


def test_sizes_are_cocos_unless_others_are_asked_for() -> None:
    for seed in range(30):
        result = evaluate(*random_case(seed)[:2])
        assert [s.AP for s in result.sizes] == [result.APs, result.APm, result.APl]
        assert [s.AR for s in result.sizes] == [result.ARs, result.ARm, result.ARl]
        assert [s.name for s in result.sizes] == ["small", "medium", "large"]
        assert all(c.at_sizes == (c.APs, c.APm, c.APl) and c.at_ious == () for c in result.per_class)


def test_the_rules_are_stated() -> None:
    wrong = [(200, 200, 210, 210, 0, 0.9)] * 103
    dataset = dataset_of([truth((0, 0, 50, 50), (60, 60, 90, 90), crowd=[False, True]), truth()], classes=2)
    result = both(dataset, [found(*wrong, (0, 0, 50, 50, 0, 0.1)), found(*wrong[:7])])
    assert (result.beyond_max_det, result.detections) == (4, 111)
    words = " ".join(result.rules())
    assert "The best 100 boxes of each class on each photo count; 4 of 111 detections lie beyond that" in words
    assert "A detection on a crowd box (1 labelled) counts neither way" in words
    assert "No labelled box is a crowd." in evaluate(dataset_of([]), []).rules()
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["rules"] == result.rules()
    assert [row["high_px"] for row in plain["sizes"]] == [32, 96, None]


def reference_on_files(folder: Path, dataset: Dataset, predictions: list[Detections]) -> list[float]:
    """What a user gets who hands label file and results file to pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    reference_files(folder, dataset, predictions)
    labels = COCO(str(folder / "truth.json"))
    run = COCOeval(labels, labels.loadRes(str(folder / "results.json")), "bbox")
    run.evaluate(), run.accumulate(), run.summarize()
    return run.stats.tolist()


def reference_files(folder: Path, dataset: Dataset, predictions: list[Detections]) -> None:
    """Write truth.json and results.json."""
    rows, images = [], []
    for sample in dataset:
        height, width = sample.truth.size_hw
        images.append({"id": sample.image_id, "width": width, "height": height, "file_name": sample.name})
        boxes_xyxy = sample.truth.boxes_xyxy.astype(float)
        crowd = np.zeros(len(sample.truth), bool) if sample.truth.crowd is None else sample.truth.crowd
        areas = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
        areas = areas if sample.areas_px is None else sample.areas_px
        for (x1, y1, x2, y2), label, area, flag in zip(boxes_xyxy, sample.truth.labels, areas, crowd, strict=True):
            row = {"id": len(rows) + 1, "image_id": sample.image_id, "category_id": dataset.category_ids[label]}
            rows.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(area), "iscrowd": int(flag)})
    categories = [{"id": i, "name": n} for i, n in zip(dataset.category_ids, dataset.class_names, strict=True)]
    (folder / "truth.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    (folder / "results.json").write_text(json.dumps(results_list(dataset, predictions)))


def test_equal_to_pycocotools_on_files(tmp_path: Path) -> None:
    cases = [random_case(seed) for seed in range(60)]
    cases = [(d, p) for d, p, max_det in cases if max_det == 100 and sum(map(len, p))]
    assert len(cases) > 10
    for dataset, predictions in cases:
        reference = reference_on_files(tmp_path, dataset, predictions)
        assert list(evaluate(dataset, predictions).figures().values()) == pytest.approx(reference, abs=1e-9, rel=0)


def test_equal_on_real_labels(shared_data: Path, tmp_path: Path) -> None:
    """Street photos with crowds: detections made from the labels by shaking them."""
    dataset = coco_file(shared_data / "street5" / "annotations" / "instances_val.json")
    rng = np.random.default_rng(0)
    predictions = []
    for sample in dataset:
        boxes_xyxy = np.repeat(sample.truth.boxes_xyxy, 3, axis=0)
        shaken_xyxy = boxes_xyxy + rng.normal(0, 12, boxes_xyxy.shape)
        shaken_xyxy[:, 2:] = np.maximum(shaken_xyxy[:, 2:], shaken_xyxy[:, :2])
        labels = np.where(rng.random(len(boxes_xyxy)) < 0.8, np.repeat(sample.truth.labels, 3), 1)
        scores = rng.random(len(boxes_xyxy)).round(2)
        predictions.append(Detections(sample.truth.size_hw, shaken_xyxy, labels, scores))
    result = both(dataset, predictions)
    assert result.crowd_boxes > 0
    assert 0.05 < result.AP < 0.6
    reference = reference_on_files(tmp_path, dataset, predictions)
    assert list(result.figures().values()) == pytest.approx(reference, abs=1e-9, rel=0)


def coco_file(path: Path) -> Dataset:
    """A label file as a Dataset, without its photos."""
    tree = json.loads(path.read_text())
    categories = sorted(tree["categories"], key=lambda row: row["id"])
    label_of = {row["id"]: k for k, row in enumerate(categories)}
    samples = []
    for image in tree["images"]:
        rows = [row for row in tree["annotations"] if row["image_id"] == image["id"]]
        boxes_xywh = np.array([row["bbox"] for row in rows], float).reshape(-1, 4)
        boxes_xyxy = np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])
        crowd = np.array([row.get("iscrowd", 0) for row in rows], bool)
        labels = np.array([label_of[row["category_id"]] for row in rows], int)
        size_hw = (image["height"], image["width"])
        areas_px = np.array([row["area"] for row in rows], float)
        labelled = Detections(size_hw, boxes_xyxy, labels, crowd=crowd)
        samples.append(Sample(image["file_name"], path, labelled, image["id"], areas_px))
    names = tuple(row["name"] for row in categories)
    return Dataset(path.stem, names, tuple(samples), path, "coco", "", tuple(label_of))


def test_published_figures(shared_data: Path) -> None:
    """COCO's own example detections on 100 photos, and the 12 figures COCO printed for them."""
    folder = shared_data / "coco-eval-ref"
    dataset = coco_file(folder / "instances_val2014_100.json")
    label_of = {category_id: k for k, category_id in enumerate(dataset.category_ids)}
    by_image: dict[int, list[tuple[float, ...]]] = {}
    for row in json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text()):
        x, y, width, height = row["bbox"]
        values = (x, y, x + width, y + height, label_of[row["category_id"]], row["score"])
        by_image.setdefault(row["image_id"], []).append(values)
    predictions = [found(*by_image.get(s.image_id, []), size_hw=s.truth.size_hw) for s in dataset]
    printed = (folder / "val2014_fake_eval_res.txt").read_text().split("type=bbox")[1].split("type=")[0]
    published = [float(line.rpartition("=")[2]) for line in printed.splitlines() if line.startswith(" Average")]
    assert len(published) == 12
    assert list(both(dataset, predictions).figures().values()) == pytest.approx(published, abs=0.0005, rel=0)


def test_nothing_is_printed_or_written(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both(dataset_of([truth((0, 0, 9, 9))]), [found((0, 0, 9, 9, 0, 1))], max_det=7)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (found(size_hw=(400, 300)), "0.jpg: predictions lie on another canvas; found 300x400 px; expected 400x300 px"),
        (truth((0, 0, 1, 1)), "0.jpg: predictions have no scores"),
        (found((0, 0, 1, 1, 1, 0.5)), "0.jpg: predicted class out of range; found 1; expected below 1"),
        (found((0, 0, 1, 1, -1, 0.5)), "0.jpg: predicted class out of range; found -1"),
        (found((0, 0, np.nan, 1, 0, 0.5)), "not a finite number"),
        (found((0, 0, 1, 1, 0, np.inf)), "not a finite number"),
        (found((5, 0, 1, 1, 0, 0.5)), "inverted"),
    ],
)
def test_predictions_that_do_not_fit(prediction: Detections, words: str) -> None:
    with pytest.raises(DataError) as caught:
        evaluate(dataset_of([truth()]), [prediction])
    assert words in str(caught.value)


def test_wrong_calls() -> None:
    with pytest.raises(DataError, match="found 0; expected 1 images"):
        evaluate(dataset_of([truth()]), [])
    with pytest.raises(UsageError, match="engine yolo"):
        evaluate(dataset_of([]), [], "yolo")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_det 0"):
        evaluate(dataset_of([]), [], max_det=0)
    for iou in (0, 1.1, -0.5, math.nan):
        with pytest.raises(UsageError, match="no such IoU threshold"):
            evaluate(dataset_of([]), [], ious=[0.5, iou])
    for size in ((32, 16), (-1, 16), (8, 8), (0, math.nan)):
        with pytest.raises(UsageError, match="no such size: 'odd'"):
            evaluate(dataset_of([]), [], sizes={"odd": size})


def test_results_list_keeps_the_files_ids() -> None:
    dataset = dataset_of([truth(), truth()], classes=2, image_ids=[9, 4], category_ids=(8, 3))
    rows = results_list(dataset, [found((1, 2, 4, 8, 1, 0.5)), found()])
    assert rows == [{"image_id": 9, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}]
