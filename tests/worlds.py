"""Worlds in which it is known which of two models is better: what a gate says there shows how often it errs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.evaluate.compare import PairedFigures
from detkit.evaluate.gate import Demand, GateResult, judge

Test = tuple[Dataset, list[Detections], list[Detections]]
World = Callable[[np.random.Generator], Test]


def drawn(dataset: Dataset, a: Sequence[Detections], b: Sequence[Detections], photos: np.ndarray) -> Test:
    """The set made of these photos of a world, each draw a photo of its own."""
    rows = [dataset.samples[i] for i in photos]
    samples = tuple(replace(s, name=f"{n}.jpg", image_id=n) for n, s in enumerate(rows, start=1))
    return replace(dataset, samples=samples), [a[i] for i in photos], [b[i] for i in photos]


def as_they_are(dataset: Dataset, a: Sequence[Detections], b: Sequence[Detections], size: int) -> World:
    """A and B on photos drawn from a set: their figures there are the truth."""
    return lambda rng: drawn(dataset, a, b, rng.integers(0, len(dataset), size))


def tossed(dataset: Dataset, a: Sequence[Detections], b: Sequence[Detections], size: int) -> World:
    """Equal models: for each photo a coin decides which of the two is called A."""

    def test(rng: np.random.Generator) -> Test:
        chosen, *sides = drawn(dataset, a, b, rng.integers(0, len(dataset), size))
        coin = rng.random(size) < 0.5
        pairs = [(q, p) if heads else (p, q) for p, q, heads in zip(*sides, coin, strict=True)]
        return chosen, [p for p, _ in pairs], [q for _, q in pairs]

    return test


def shaken(dataset: Dataset, a: Sequence[Detections], size: int, score_noise: float, box_noise: float) -> World:
    """Equal models: both are one model, with noise of equal strength on scores (log odds) and on corners."""

    def shake(boxes: Detections, rng: np.random.Generator) -> Detections:
        scores = np.clip(boxes.scores.astype(np.float64), 1e-4, 1 - 1e-4)
        odds = np.log(scores / (1 - scores)) + rng.normal(0, score_noise, len(boxes))
        moved_xyxy = boxes.boxes_xyxy + rng.normal(0, box_noise, (len(boxes), 4)) * np.sqrt(_sides(boxes))
        moved_xyxy[:, 2:] = np.maximum(moved_xyxy[:, 2:], moved_xyxy[:, :2] + 0.5)
        return Detections(boxes.size_hw, moved_xyxy, boxes.labels, 1 / (1 + np.exp(-odds)))

    def test(rng: np.random.Generator) -> Test:
        chosen, boxes, _ = drawn(dataset, a, a, rng.integers(0, len(dataset), size))
        return chosen, [shake(p, rng) for p in boxes], [shake(p, rng) for p in boxes]

    return test


def _sides(boxes: Detections) -> np.ndarray:
    """Mean side of each box in pixels, [N, 1]."""
    return np.maximum(boxes.boxes_xyxy[:, 2:] - boxes.boxes_xyxy[:, :2], 1).mean(axis=1, keepdims=True)


def verdicts(
    world: World, demand_sets: Sequence[Sequence[Demand]], tests: int, draws: int = 200, seed: int = 0
) -> list[list[GateResult]]:
    """What the gate says of so many tests, for each set of demands."""
    rng = np.random.default_rng(seed)
    pairs = (PairedFigures(*world(rng), draws=draws, seed=number) for number in range(tests))
    rows = [[judge(paired, demands) for demands in demand_sets] for paired in pairs]
    return [list(column) for column in zip(*rows, strict=True)]


def rate(results: Sequence[GateResult], verdict: str) -> float:
    """The share of tests with this verdict."""
    return sum(result.verdict == verdict for result in results) / len(results)
