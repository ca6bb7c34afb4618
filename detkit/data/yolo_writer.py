"""Writing YOLO txt: `data.yaml`, photos under `images/{split}/`, one label file per photo under `labels/{split}/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detkit import boxes
from detkit.data.dataset import Dataset
from detkit.data.folders import by_split, inner_name, new_folder, place_photo
from detkit.data.keypoints import mirrored_pairs, numbered_names
from detkit.detections import Detections
from detkit.errors import DataError


def write(datasets: Dataset | Sequence[Dataset], root: Path) -> list[str]:
    """Write splits of the same classes as a YOLO data set into a new or empty folder; photos are hard-linked.

    Returns:
        One line for each thing YOLO cannot carry: crowd boxes, which are left out, and boxes beyond the photo.
    Raises:
        UsageError: the folder has content, or the data sets do not fit together.
    """
    named = by_split(datasets)
    crowd = clipped = points = 0
    with new_folder(root) as folder:
        for name, sample in ((Path(split, inner_name(s)), s) for split, dataset in named.items() for s in dataset):
            place_photo(sample, folder / "images" / name)
            file = (folder / "labels" / name).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists():
                raise DataError("two photos share one label file", file=sample.image_path, found=file.name)
            truth = sample.truth if sample.truth.crowd is None else sample.truth[~sample.truth.crowd]
            text, beyond = label_lines(truth)
            file.write_text(text, encoding="ascii")
            crowd, clipped = crowd + len(sample.truth) - len(truth), clipped + beyond
            points = points if truth.points_xyv is None else truth.points_xyv.shape[1]
        first = next(iter(named.values()))
        splits = {split: f"images/{split}" for split in named}
        text = config_text(first.class_names, points, first.point_names, splits, _pairs(first))
        (folder / "data.yaml").write_text(text, encoding="utf-8")
    notes = [f"{crowd} crowd boxes are left out: YOLO has no flag for them"] if crowd else []
    return notes + ([f"{clipped} boxes are clipped: YOLO boxes end at the photo's edge"] if clipped else [])


def _pairs(dataset: Dataset) -> Sequence[tuple[int, int]] | None:
    """The points that change places in a mirror, where that is known."""
    try:
        return mirrored_pairs(dataset) or dataset.point_pairs
    except DataError:  # one with a side in its name has no counterpart
        return None


def config_text(
    class_names: Sequence[str],
    points: int,
    point_names: Sequence[str],
    splits: Mapping[str, str] | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> str:
    """The text of data.yaml: where the photos of each split lie, a box's points, their names and pairs, the classes."""
    config: dict[str, Any] = dict(splits or {})
    config |= {"kpt_shape": [points, 3]} if points else {}
    if points and tuple(point_names) not in ((), numbered_names(points)):
        config["kpt_names"] = {label: list(point_names) for label in range(len(class_names))}
    if points and pairs is not None:
        swapped = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
        config["flip_idx"] = [swapped.get(index, index) for index in range(points)]
    config["names"] = dict(enumerate(class_names))
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def label_lines(truth: Detections) -> tuple[str, int]:
    """The label file's text, and how many boxes had to be clipped to be fractions of the photo."""
    per_px = 1 / truth.size_hw[1], 1 / truth.size_hw[0]
    boxes_xyxy = truth.boxes_xyxy.astype(np.float64)
    rel_cxcywh = boxes.scale(boxes.xyxy_to_cxcywh(boxes_xyxy), per_px)
    beyond = np.any((rel_cxcywh < 0) | (rel_cxcywh > 1), axis=1)
    clipped = boxes.scale(boxes.xyxy_to_cxcywh(boxes.clip(boxes_xyxy, truth.size_hw)), per_px)
    columns = [np.where(beyond[:, None], clipped, rel_cxcywh)]
    if truth.points_xyv is not None:
        columns.append((truth.points_xyv * [*per_px, 1]).reshape(len(truth), 3 * truth.points_xyv.shape[1]))
    rows = zip(truth.labels.tolist(), np.hstack(columns).tolist(), strict=True)
    return "".join(f"{label} {' '.join(f'{value:.9f}' for value in row)}\n" for label, row in rows), int(beyond.sum())
