"""`Dataset`: labelled photos and the names of their classes, whatever file format they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.errors import WeightsError

_HASH_STEPS_PER_PX = 64  # so that no coordinate of up to three decimals lies on a rounding border


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled photo.

    Args:
        name: the photo's name in the label file, for messages and results; unique in its data set.
        image_path: where the photo lies.
        truth: its boxes on the upright photo (`scores is None`); `truth.size_hw` is the upright size.
        image_id: the id the label file gives it (COCO), else its 1-based position.
        areas_px: float64 [N], the areas the label file gives (COCO's `area`); None means each box's own.
        label_file: the file its labels come from; None where it has none.
        rows: int64 [N], where in that file each box is: its line (YOLO, CSV), annotation id (COCO) or number (VOC).
        boxes_xywh: float64 [N, 4], the boxes exactly as the file gives them (COCO): `truth` is them in float32. They
            are measured on while they still say the same as `truth`.
    """

    name: str
    image_path: Path
    truth: Detections
    image_id: int
    areas_px: NDArray[np.float64] | None = None
    label_file: Path | None = None
    rows: NDArray[np.int64] | None = None
    boxes_xywh: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """The photos of one split with their labels.

    Args:
        name: short name, usually the folder's.
        class_names: names in label order: label k means `class_names[k]`.
        samples: the photos.
        source: the file or folder the labels were read from.
        format: "coco", "yolo", "voc" or "csv".
        split: "train", "val", ... or "" where the source has no splits.
        category_ids: the ids the label file uses for the classes, in label order (COCO), else 1..K.
        point_names: names of the P points of each box, in order; () where no points are labelled.
        point_edges: pairs of point indices to be joined by a line in pictures.
        point_sigmas: the spread of each point, for COCO's keypoint similarity; () where the labels give none.
        point_pairs: pairs of point indices that change places in a mirror; None where only the names tell.
    """

    name: str
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    source: Path
    format: str
    split: str
    category_ids: tuple[int, ...]
    point_names: tuple[str, ...] = ()
    point_edges: tuple[tuple[int, int], ...] = ()
    point_sigmas: tuple[float, ...] = ()
    point_pairs: tuple[tuple[int, int], ...] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def box_count(self) -> int:
        """Labelled boxes in all, crowd boxes included."""
        return sum(len(sample.truth) for sample in self.samples)

    def content_hash(self) -> str:
        """SHA-256 (hex) of class names and point names in order and each photo's name, boxes, labels, crowd and points.

        Photos and boxes count in any order, folders in names do not, coordinates to 1/64 px: so the same labels
        hash alike on every machine and in every format that carries them.
        """
        names = [*self.class_names, *(["", *self.point_names] if self.point_names else [])]
        digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass"))
        for part in sorted(_sample_digest(sample) for sample in self.samples):
            digest.update(part)
        return digest.hexdigest()


def _sample_digest(sample: Sample) -> bytes:
    truth = sample.truth
    crowd = np.zeros(len(truth), np.bool_) if truth.crowd is None else truth.crowd
    columns: list[NDArray[Any]] = [truth.labels[:, None], crowd[:, None]]
    for coordinates in (truth.boxes_xyxy, truth.points_xyv):
        if coordinates is not None:
            flat = coordinates.reshape(len(truth), int(np.prod(coordinates.shape[1:])))
            columns.append(np.rint(flat.astype(np.float64) * _HASH_STEPS_PER_PX))
    rows = np.concatenate(columns, axis=1).astype("<i8")  # [N, 6 + 3P]
    rows = rows[np.lexsort(rows.T)]
    name = sample.name.replace("\\", "/").rpartition("/")[2]
    return hashlib.sha256(name.encode("utf-8", "surrogatepass") + b"\0" + rows.tobytes()).digest()


def check_class_names(expected: Sequence[str], dataset: Dataset) -> None:
    """Make sure that a model's class names, in label order, are those of the data it meets.

    Raises:
        WeightsError: they differ; one line says how, and what to do.
    """
    model, data = tuple(expected), dataset.class_names
    if model == data:
        return
    missing, extra = [name for name in model if name not in data], [name for name in data if name not in model]
    place = {"coco": "number the categories", "yolo": "list `names` in data.yaml", "voc": "list classes.txt"}
    place["csv"] = place["voc"]
    fix = f"{place.get(dataset.format, 'list the classes')} as the model has them: {_listing(model)}"
    if [name.casefold() for name in model] == [name.casefold() for name in data]:
        what = f"they differ in upper and lower case: {_listing(missing)} for the model, {_listing(extra)} in the data"
    elif data[1:] == model or model[1:] == data:
        longer, first = ("data", data[0]) if data[1:] == model else ("model", model[0])
        what = f"they are shifted by one: the {longer} begins with {first!r}, which the other lacks"
    elif not missing and not extra:
        at = next(k for k, (a, b) in enumerate(zip(model, data, strict=False)) if a != b)
        what = f"the order differs: label {at} is {model[at]!r} for the model, {data[at]!r} in the data"
    else:
        what = (
            f"missing from the data: {_listing(missing) or 'none'}; unknown to the model: {_listing(extra) or 'none'}"
        )
        fix = "take a model trained on these classes, or relabel the data"
    raise WeightsError(f"the class names do not fit: {what}; to mend it, {fix}", file=dataset.source)


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
