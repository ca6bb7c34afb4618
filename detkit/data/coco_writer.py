"""Writing COCO JSON: `images/{split}/` beside `annotations/instances_{split}.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data.dataset import Dataset
from detkit.data.folders import by_split, inner_name, new_folder, place_photo
from detkit.data.keypoints import flip_pairs, numbered_names
from detkit.errors import DataError

_Entry = dict[str, Any]  # one JSON object


def write(datasets: Dataset | Sequence[Dataset], root: Path) -> list[str]:
    """Write splits of the same classes as a COCO data set into a new or empty folder; photos are hard-linked.

    Returns:
        One line for each thing COCO cannot carry: points that change places in a mirror, but are not named for it.
    Raises:
        UsageError: the folder has content, or the data sets do not fit together.
    """
    named = by_split(datasets)
    with new_folder(root) as folder:
        (folder / "annotations").mkdir()
        for split, dataset in named.items():
            for sample in dataset:
                place_photo(sample, folder / "images" / split / inner_name(sample))
            text = json.dumps(_document(dataset))
            (folder / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
    unnamed = any(dataset.point_pairs not in (None, _pairs_by_name(dataset)) for dataset in named.values())
    what = "which points change places in a mirror is left out: COCO has only the points' names (left_, right_) for it"
    return [what] if unnamed else []


def _pairs_by_name(dataset: Dataset) -> tuple[tuple[int, int], ...]:
    try:
        return flip_pairs(dataset.point_names)
    except DataError:
        return ()


def _document(dataset: Dataset) -> dict[str, list[_Entry]]:
    images: list[_Entry] = []
    annotations: list[_Entry] = []
    points = 0
    for sample in dataset:
        truth, (height, width) = sample.truth, sample.truth.size_hw
        images.append({"id": sample.image_id, "file_name": sample.name, "width": width, "height": height})
        boxes_xyxy = truth.boxes_xyxy.astype(np.float64).round(4)
        boxes_xywh = np.hstack([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]]).round(4)
        areas_px = boxes_xywh[:, 2:].prod(1).round(4) if sample.areas_px is None else sample.areas_px
        for row, box_xywh in enumerate(boxes_xywh.tolist()):
            entry = {"id": len(annotations) + 1, "image_id": sample.image_id, "bbox": box_xywh}
            entry["category_id"] = dataset.category_ids[truth.labels[row]]
            entry |= {"area": float(areas_px[row]), "iscrowd": int(truth.crowd is not None and truth.crowd[row])}
            if truth.points_xyv is not None:
                points = truth.points_xyv.shape[1]
                entry["num_keypoints"] = int((truth.points_xyv[row, :, 2] > 0).sum())
                entry["keypoints"] = truth.points_xyv[row].astype(np.float64).round(4).ravel().tolist()
            annotations.append(entry)
    point_names = dataset.point_names if len(dataset.point_names) == points else numbered_names(points)
    skeleton = [[a + 1, b + 1] for a, b in dataset.point_edges]
    names = {"keypoints": list(point_names), "skeleton": skeleton} if points else {}
    names |= {"sigmas": list(dataset.point_sigmas)} if points == len(dataset.point_sigmas) > 0 else {}
    numbered = zip(dataset.category_ids, dataset.class_names, strict=True)
    categories = [{"id": number, "name": name, **names} for number, name in numbered]
    return {"images": images, "annotations": annotations, "categories": categories}
