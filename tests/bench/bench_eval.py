"""COCO evaluation: hotcoco against pycocotools on 2,000 images x 96 detections x 80 classes, in one run.

Once on predictions in memory, once from a results file: reading it counts too, in both.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.evaluate.coco import evaluate, results_list
from detkit.evaluate.results_file import read_results

IMAGES, DETECTIONS, TRUTHS, CLASSES = 2000, 96, 8, 80
SIZE_HW = (480, 640)


def made_up(seed: int = 0) -> tuple[Dataset, list[Detections]]:
    """Random labels, and detections of which about half lie near a label."""
    rng = np.random.default_rng(seed)
    samples, predictions = [], []
    for index in range(IMAGES):
        corner_xy = rng.uniform(0, 400, (TRUTHS, 2))
        boxes_xyxy = np.hstack([corner_xy, corner_xy + rng.uniform(8, 200, (TRUTHS, 2))])
        labels = rng.integers(0, CLASSES, TRUTHS)
        truth = Detections(SIZE_HW, boxes_xyxy, labels, crowd=rng.random(TRUTHS) < 0.02)
        samples.append(Sample(f"{index}.jpg", Path(f"{index}.jpg"), truth, index + 1))
        near = rng.integers(0, TRUTHS, DETECTIONS)
        found_xyxy = boxes_xyxy[near] + rng.normal(0, 8, (DETECTIONS, 4))
        found_xyxy[:, 2:] = np.maximum(found_xyxy[:, 2:], found_xyxy[:, :2] + 1)
        right = rng.random(DETECTIONS) < 0.5
        found_labels = np.where(right, labels[near], rng.integers(0, CLASSES, DETECTIONS))
        predictions.append(Detections(SIZE_HW, found_xyxy, found_labels, rng.random(DETECTIONS)))
    names = tuple(f"class {k}" for k in range(CLASSES))
    return Dataset("made up", names, tuple(samples), Path(), "coco", "val", tuple(range(1, CLASSES + 1))), predictions


def truth_tree(dataset: Dataset) -> dict[str, list[dict[str, object]]]:
    """The labels as pycocotools wants them."""
    rows: list[dict[str, object]] = []
    for sample in dataset:
        boxes_xyxy, crowd = sample.truth.boxes_xyxy.astype(np.float64), sample.truth.crowd
        boxes_xywh = np.hstack([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]])
        for k, (label, box_xywh) in enumerate(zip(sample.truth.labels.tolist(), boxes_xywh.tolist(), strict=True)):
            row = {"id": len(rows) + 1, "image_id": sample.image_id, "category_id": label + 1, "bbox": box_xywh}
            rows.append({**row, "area": box_xywh[2] * box_xywh[3], "iscrowd": int(crowd is not None and crowd[k])})
    images: list[dict[str, object]] = [{"id": sample.image_id} for sample in dataset]
    return {"images": images, "annotations": rows, "categories": [{"id": k} for k in dataset.category_ids]}


def by_pycocotools(labels: Path, stored: Path) -> tuple[float, ...]:
    """Both files through pycocotools, as its own example does it; the labels are read as well."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(labels))
        run = COCOeval(reference, reference.loadRes(str(stored)), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    return tuple(run.stats.tolist())


def timed(work: Callable[[], tuple[float, ...]], repeats: int = 1) -> tuple[float, tuple[float, ...]]:
    """The best of a few runs in seconds, and the figures."""
    best_s = float("inf")
    for _ in range(repeats):
        start_s = time.perf_counter()
        figures = work()
        best_s = min(best_s, time.perf_counter() - start_s)
    return best_s, figures


def main() -> None:
    import hotcoco  # noqa: F401  (start-up is not what is measured)
    import pycocotools.cocoeval  # noqa: F401

    dataset, predictions = made_up()
    figures = [tuple(evaluate(dataset, predictions, "hotcoco").figures().values())]
    with tempfile.TemporaryDirectory() as folder:
        labels, stored = Path(folder) / "labels.json", Path(folder) / "results.json"
        labels.write_text(json.dumps(truth_tree(dataset)))
        stored.write_text(json.dumps(results_list(dataset, predictions)))
        megabytes = stored.stat().st_size / 1e6
        read_s, _ = timed(lambda: (float(len(read_results(stored, dataset))),), 3)
        both_s, own = timed(lambda: tuple(evaluate(dataset, read_results(stored, dataset)).figures().values()), 3)
        file_s, reference = timed(lambda: by_pycocotools(labels, stored))
        figures += [own, reference]
    fast_s, own = timed(lambda: tuple(evaluate(dataset, predictions, "hotcoco").figures().values()), 3)
    slow_s, reference = timed(lambda: tuple(evaluate(dataset, predictions, "pycocotools").figures().values()))
    gap = max(abs(a - b) for row in (*figures, own) for a, b in zip(row, reference, strict=True))
    print(f"{IMAGES} images x {DETECTIONS} detections, {CLASSES} classes; the 12 figures differ by at most {gap:.1e}")
    print(f"in memory: pycocotools {slow_s:6.2f} s, hotcoco {fast_s:5.2f} s: {slow_s / fast_s:.0f} times faster")
    print(f"from a results file of {megabytes:.0f} MB, which detkit reads in {read_s:.2f} s:")
    print(f"           pycocotools {file_s:6.2f} s, detkit  {both_s:5.2f} s: {file_s / both_s:.0f} times faster")


if __name__ == "__main__":
    main()
