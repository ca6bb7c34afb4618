"""Intervals by bootstrap: one matching and 500 weighted draws, against evaluating each drawn set anew with hotcoco."""

from __future__ import annotations

import time

import numpy as np

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.evaluate.coco import evaluate
from detkit.evaluate.intervals import DRAWS, bootstrap
from detkit.evaluate.matching import average_precisions, match
from tests.bench import bench_eval

IMAGES, TRUTHS, REDRAWN = 5000, 7, 3


def made_up(detections: int) -> tuple[Dataset, list[Detections]]:
    """The data of the evaluation's benchmark, of another size."""
    before = bench_eval.IMAGES, bench_eval.DETECTIONS, bench_eval.TRUTHS
    bench_eval.IMAGES, bench_eval.DETECTIONS, bench_eval.TRUTHS = IMAGES, detections, TRUTHS
    try:
        return bench_eval.made_up()
    finally:
        bench_eval.IMAGES, bench_eval.DETECTIONS, bench_eval.TRUTHS = before


def anew(dataset: Dataset, predictions: list[Detections], image_counts: np.ndarray) -> float:
    """AP of the set in which each photo occurs so many times, the slow way."""
    order = np.repeat(np.arange(len(dataset)), image_counts)
    rows = [dataset.samples[i] for i in order]
    samples = tuple(Sample(f"{n}.jpg", s.image_path, s.truth, n) for n, s in enumerate(rows, start=1))
    drawn = Dataset("drawn", dataset.class_names, samples, dataset.source, "coco", "", dataset.category_ids)
    return evaluate(drawn, [predictions[i] for i in order]).AP


def main() -> None:
    for detections in (15, 96):
        dataset, predictions = made_up(detections)
        start_s = time.perf_counter()
        result = bootstrap(dataset, predictions)
        ours_s = time.perf_counter() - start_s
        rng = np.random.default_rng(1)
        counts = np.stack([np.bincount(rng.integers(0, IMAGES, IMAGES), minlength=IMAGES) for _ in range(REDRAWN)], 1)
        start_s = time.perf_counter()
        slow = [anew(dataset, predictions, column) for column in counts.T]
        naive_s = (time.perf_counter() - start_s) / REDRAWN * DRAWS
        quick = average_precisions(match(dataset, predictions), counts).mean(axis=(0, 1))
        print(f"{IMAGES} images x {detections} detections, {bench_eval.CLASSES} classes, {DRAWS} draws: {ours_s:.1f} s")
        print(f"  AP {result.AP.low:.3f} to {result.AP.high:.3f}, tells apart {result.resolution:.3f}")
        print(f"  hotcoco on each drawn set would take {naive_s:.0f} s, {naive_s / ours_s:.0f} times as long")
        print(f"  {REDRAWN} draws compared: AP differs by at most {np.abs(quick - slow).max():.1e}")


if __name__ == "__main__":
    main()
