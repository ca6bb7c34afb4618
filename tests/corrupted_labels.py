"""Labels corrupted on purpose, to see whether `label_suspects` finds them: dropped, renamed, shifted, invented."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detkit.boxes import area, clip, ioa_matrix, iou_matrix
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.evaluate.suspects import Suspect

KINDS = ("drop", "rename", "shift", "invent")
Box = np.ndarray


class Planted(NamedTuple):
    """What was done to which photo; the boxes of the label before and after."""

    kind: str
    position: int
    before_xyxy: Box
    after_xyxy: Box


def corrupt(dataset: Dataset, seed: int, count: int = 10, clear_px: float = 0) -> tuple[Dataset, list[Planted]]:
    """`count` errors on as many photos, the four kinds in turn, objects by chance.

    With `clear_px` only clearly visible objects: at least that wide and high on average, and less than a third hidden
    by another one. A shifted box overlaps the old one by less than 0.4, an invented one touches no object.
    """
    rng = np.random.default_rng(seed)
    samples, planted = list(dataset.samples), list[Planted]()
    objects = [(i, j) for i, sample in enumerate(samples) for j in _clear(sample, clear_px)]
    while len(planted) < count:
        kind = KINDS[len(planted) % len(KINDS)]
        i, j = objects[rng.integers(len(objects))]
        box = dataset.samples[i].truth.boxes_xyxy[j].astype(float)
        if kind == "invent":
            i = int(rng.integers(len(samples)))
        changed = None if i in [p.position for p in planted] else _change(samples[i].truth, j, box, kind, rng, dataset)
        if changed is not None:
            truth, after = changed
            samples[i] = dataclasses.replace(samples[i], truth=truth, areas_px=None, rows=None)
            planted.append(Planted(kind, i, after if kind == "invent" else box, after))
    return dataclasses.replace(dataset, samples=tuple(samples)), planted


def found_among(suspects: Sequence[Suspect], planted: Sequence[Planted]) -> list[bool]:
    """For each planted error whether a suspect points at it: a box of both overlaps by half."""

    def points_at(suspect: Suspect, error: Planted) -> bool:
        boxes = [box for box in (suspect.label_xyxy, suspect.found_xyxy) if box is not None]
        both = [error.before_xyxy, error.after_xyxy]
        return suspect.position == error.position and bool(iou_matrix(boxes, both).max() >= 0.5)

    return [any(points_at(suspect, error) for suspect in suspects) for error in planted]


def _clear(sample: Sample, clear_px: float) -> list[int]:
    boxes = sample.truth.boxes_xyxy
    within = ioa_matrix(boxes, boxes) * (1 - np.eye(len(boxes)))
    crowd = np.zeros(len(boxes), bool) if sample.truth.crowd is None else sample.truth.crowd
    seen = ~crowd & (np.sqrt(area(boxes)) >= clear_px)
    if clear_px:
        seen &= within.max(axis=1, initial=0) < 1 / 3
    return np.flatnonzero(seen).tolist()


def _change(
    truth: Detections, j: int, box: Box, kind: str, rng: np.random.Generator, dataset: Dataset
) -> tuple[Detections, Box] | None:
    classes = len(dataset.class_names)
    if kind == "drop":
        return truth[np.arange(len(truth)) != j], box
    if kind == "rename":
        labels = truth.labels.copy()
        labels[j] = (labels[j] + rng.integers(1, classes)) % classes
        return dataclasses.replace(truth, labels=labels), box
    height, width = truth.size_hw
    size = box[2:] - box[:2]
    for _ in range(50):
        if kind == "shift":
            angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.7)
            step = reach * size * (np.cos(angle), np.sin(angle))
            moved = np.asarray(clip((box + np.tile(step, 2))[None], truth.size_hw)[0])
            if (moved[2:] - moved[:2]).min() > 4 and iou_matrix([moved], [box])[0, 0] < 0.4:
                boxes = truth.boxes_xyxy.copy()
                boxes[j] = moved
                return dataclasses.replace(truth, boxes_xyxy=boxes), moved
        elif (size < (width, height)).all():
            corner = rng.uniform(0, (width, height) - size)
            new = np.concatenate([corner, corner + size])
            if iou_matrix([new], truth.boxes_xyxy).max(initial=0) < 0.1:
                crowd = None if truth.crowd is None else np.append(truth.crowd, False)
                labels = np.append(truth.labels, rng.integers(classes))
                return Detections(truth.size_hw, np.vstack([truth.boxes_xyxy, new]), labels, crowd=crowd), new
    return None
