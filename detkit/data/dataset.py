"""`Dataset`: a list of labelled photos and the names of their classes, whatever file format they came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detkit.detections import Detections


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled photo.

    Args:
        name: the photo's name in the label file, for messages and results; unique in its data set.
        image_path: where the photo lies.
        truth: its boxes on the upright photo (`scores is None`); `truth.size_hw` is the upright size.
        image_id: the id the label file gives it (COCO), else its 1-based position.
    """

    name: str
    image_path: Path
    truth: Detections
    image_id: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """The photos of one split with their labels.

    Args:
        name: short name, usually the folder's.
        class_names: names in label order: label k means `class_names[k]`.
        samples: the photos.
        source: the file or folder the labels were read from.
        format: "coco", "yolo" or "voc".
        split: "train", "val", ... or "" where the source has no splits.
        category_ids: the ids the label file uses for the classes, in label order (COCO), else 1..K.
    """

    name: str
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    source: Path
    format: str
    split: str
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def box_count(self) -> int:
        """Labelled boxes in all, crowd boxes included."""
        return sum(len(sample.truth) for sample in self.samples)
