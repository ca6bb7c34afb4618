"""COCO JSON: `images/{train,val}/` beside `annotations/instances_{train,val}.json`, and its usual variants."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset, Sample
from detkit.data.folders import PhotoFinder, by_split, inner_name, new_folder, place_photo
from detkit.data.label_files import checked_class_names, choose_split, placed, read_bytes, short, split_word, wrong
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import read_size_hw

LOOKED_FOR = "annotations/*.json, */_annotations.coco.json, instances_*.json"
_PATTERNS = ("annotations/instances_*.json", "annotations/*.json", "*/_annotations.coco.json", "*.json")
_OTHER_TASKS = ("captions_", "panoptic_", "stuff_", "image_info_")
_WHOLE_SETS = ("annotations", "labels", "instances", "coco", "_annotations.coco", "instances_default")
_Entry = dict[str, Any]  # one JSON object
_NUMBERS = frozenset({int, float})
_LIMIT_PX = 10**9  # no photo's coordinate is beyond; NaN and infinity are not below it either


def splits(path: Path) -> dict[str, Path]:
    """The splits at `path` (a folder or one JSON file) and the label file of each; empty when it is not COCO."""
    if path.is_file():
        return _named([path]) if path.suffix.lower() == ".json" else {}
    for pattern in _PATTERNS:
        files = [file for file in sorted(path.glob(pattern)) if not file.name.startswith(_OTHER_TASKS)]
        if pattern == "*.json":
            files = [f for f in files if split_word(f.stem) or f.stem in _WHOLE_SETS or f.stem.startswith("instances_")]
        if files:
            return _named(files)
    return {}


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Each file under its split's name, or under its own where two would have the same."""
    named = {}
    for file in files:
        stem = file.parent.name if file.stem == "_annotations.coco" else file.stem
        named[split_word(stem) or ("" if file.stem in _WHOLE_SETS else stem.removeprefix("instances_"))] = file
    return named if len(named) == len(files) else {file.stem: file for file in files}


def read(path: Path, split: str | None = None, *, need_photos: bool = True) -> Dataset:
    """Read COCO labels; a box that reaches over the photo's edge is kept as it is, one wholly outside is refused.

    Args:
        path: the data set's folder, or one label file, whose photos lie beside it.
        split: "train", "val", ...; None where there is only one.
        need_photos: refuse labels whose photo is not on disk; False suits an evaluation of stored results.
    Returns:
        The split; `truth.crowd` is always there, `truth.points_xyv` where every class used has equally many points.
    Raises:
        DataError: no such split, or a label file that cannot be used as a whole.
    """
    name, file = choose_split(splits(path), split, path)
    document = _load(file)
    categories = _categories(document["categories"], file)
    names = checked_class_names((category.get("name") for category in categories.values()), file)
    samples = _photos(document["images"], PhotoFinder(_photo_folders(file, name)), need_photos, file)
    samples = list(_labelled(samples, document["annotations"], categories, file))
    home = path.absolute() if path.is_dir() else file.absolute().parent
    home = home.parent if home.name == "annotations" else home
    return Dataset(home.name, names, tuple(samples), file, "coco", name, tuple(categories))


def _load(file: Path) -> dict[str, list[_Entry]]:
    try:
        document = json.loads(read_bytes(file))
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", file=file, line=error.lineno) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, endless digits, endless nesting
        raise DataError(f"not valid JSON: {short(str(error))}", file=file) from error
    if type(document) is not dict:
        raise wrong("not a COCO label file", file, document, "an object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if type(document.get(key)) is not list:
            raise wrong(f"{key} is wrong", file, document.get(key), "a list")
        for position, entry in enumerate(document[key]):
            if type(entry) is not dict:
                raise wrong(f"{key}[{position}] is wrong", file, entry, "an object")
    if not document["images"]:
        raise DataError("no images", file=file, expected="at least one")
    return document


def _categories(entries: list[_Entry], file: Path) -> dict[int, _Entry]:
    """The categories by id, in the order of their ids."""
    by_id: dict[int, _Entry] = {}
    for position, entry in enumerate(entries):
        number = entry.get("id")
        if type(number) is not int or number in by_id:
            raise wrong(f"categories[{position}].id is wrong", file, number, "an integer used once")
        by_id[number] = entry
    return dict(sorted(by_id.items()))


def _photo_folders(file: Path, split: str) -> list[Path]:
    """Where the photos of a label file may lie, likeliest first."""
    parent = file.absolute().parent
    bases = [parent.parent, parent] if parent.name.lower() in ("annotations", "labels") else [parent]
    words = dict.fromkeys([file.stem.rpartition("_")[2], split, *(["valid"] if split == "val" else [])])
    inner = [folder + word for word in words if word for folder in ("images/", "")]
    return [base / name for base in bases for name in (*inner, "images", "data", ".")]


def _photos(entries: list[_Entry], finder: PhotoFinder, need_photos: bool, file: Path) -> list[Sample]:
    """The photos as samples that have no labels yet."""
    samples = []
    numbers: set[int] = set()
    names: set[str] = set()
    for position, entry in enumerate(entries):
        number, name = entry.get("id"), entry.get("file_name")
        if type(number) is not int or number in numbers:
            raise wrong(f"images[{position}].id is wrong", file, number, "an integer used once")
        if type(name) is not str or not name or name in names:
            raise wrong(f"images[{position}].file_name is wrong", file, name, "a name used once")
        numbers.add(number)
        names.add(name)
        path = finder.find(name) or finder.find(name.replace("\\", "/"))
        if path is None and need_photos:
            tried = ", ".join(str(folder) for folder in finder.folders if folder.is_dir())
            raise DataError(f"the photo {short(name)} (image id {number}) is missing; looked in {tried}", file=file)
        size_hw = _size_hw(entry, path, f"images[{position}]", file)
        samples.append(Sample(name, path or finder.folders[-1] / name, Detections.empty(size_hw, scored=False), number))
    return samples


def _size_hw(entry: _Entry, path: Path | None, where: str, file: Path) -> tuple[int, int]:
    """The size the label file records, else the one in the photo's header."""
    sides: list[Any] = [entry.get("height"), entry.get("width")]
    if path is not None and None in sides:
        return read_size_hw(path)
    if not all(type(side) in _NUMBERS and 0 < side < 10**6 and side == int(side) for side in sides):
        raise wrong(f"{where} has no usable height and width", file, sides, "pixels")
    return int(sides[0]), int(sides[1])


def _labelled(
    samples: list[Sample], annotations: list[_Entry], categories: Mapping[int, _Entry], file: Path
) -> Iterator[Sample]:
    """The samples with their boxes: one table of all annotations, sorted by photo and cut where the photo changes."""
    table = _table(samples, annotations, categories, file)  # [N, 8]: photo, label, x, y, w, h, crowd, area
    points_xyv = _points(annotations, categories, file)  # [N, P, 3]
    order = np.argsort(table[:, 0], kind="stable")
    table = table[order]
    boxes_xyxy = np.hstack([table[:, 2:4], table[:, 2:4] + table[:, 4:6]]).astype(np.float32)
    labels, crowd = table[:, 1].astype(np.int64), table[:, 6] != 0
    areas_px = table[:, 7] if any("area" in annotation for annotation in annotations) else None
    points_xyv = None if points_xyv is None else points_xyv[order]
    bounds = np.searchsorted(table[:, 0], np.arange(len(samples) + 1)).tolist()
    for sample, start, stop in zip(samples, bounds, bounds[1:], strict=False):
        own = slice(start, stop)
        points = None if points_xyv is None else points_xyv[own]
        truth = Detections(sample.truth.size_hw, boxes_xyxy[own], labels[own], points_xyv=points, crowd=crowd[own])
        yield replace(sample, truth=truth, areas_px=None if areas_px is None else areas_px[own])


def _table(
    samples: list[Sample], annotations: list[_Entry], categories: Mapping[int, _Entry], file: Path
) -> NDArray[np.float64]:
    photo_of = {sample.image_id: (row, *sample.truth.size_hw) for row, sample in enumerate(samples)}
    label_of = {number: label for label, number in enumerate(categories)}
    rows, seen = [], set()
    for position, annotation in enumerate(annotations):
        try:
            number = annotation.get("id", -1 - position)
            if type(number) is not int or number in seen:
                raise wrong("its id is wrong", None, number, "an integer used once")
            seen.add(number)
            rows.append(_row(annotation, photo_of, label_of))
        except DataError as error:
            raise placed(
                error, f"annotations[{position}] (id {short(annotation.get('id'))}): {error.message}", file
            ) from None
    return np.array(rows, np.float64).reshape(-1, 8)


def _row(
    annotation: _Entry, photo_of: Mapping[int, tuple[int, int, int]], label_of: Mapping[int, int]
) -> tuple[float, ...]:
    """Photo, label, x, y, w, h, crowd and area of one annotation."""
    number, category, crowd = annotation.get("image_id"), annotation.get("category_id"), annotation.get("iscrowd", 0)
    if type(number) is not int or number not in photo_of:
        raise wrong("a label for a photo that is not in the list", None, number, "an image's id")
    if type(category) is not int or category not in label_of:
        raise wrong("unknown category_id", None, category, f"one of {short(list(label_of))}")
    if crowd not in (0, 1):
        raise wrong("iscrowd is wrong", None, crowd, "0 or 1")
    photo, height, width = photo_of[number]
    x, y, w, h = _box_xywh(annotation)
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise wrong(f"the bbox lies outside its {width}x{height} photo", None, [x, y, w, h], "a box on the photo")
    area = annotation.get("area")
    area = w * h if area is None else area
    if type(area) not in _NUMBERS or not 0 <= area < _LIMIT_PX**2:
        raise wrong("the area is wrong", None, area, "square pixels")
    return photo, label_of[category], x, y, w, h, crowd, area


def _box_xywh(annotation: _Entry) -> list[float]:
    box = annotation["bbox"] if "bbox" in annotation else _polygon_box_xywh(annotation.get("segmentation"))
    if type(box) is not list or len(box) != 4 or not _NUMBERS.issuperset(map(type, box)):
        raise wrong("the bbox is wrong", None, box, "[x, y, width, height] in pixels")
    x, y, w, h = box
    if not all(-_LIMIT_PX < value < _LIMIT_PX for value in box):
        raise wrong("the bbox is not finite", None, box, "[x, y, width, height] in pixels")
    if not (np.float32(x + w) > np.float32(x) and np.float32(y + h) > np.float32(y)):
        raise wrong("the bbox has no area", None, box, "width and height above 0")
    return box


def _polygon_box_xywh(segmentation: Any) -> list[float] | None:
    """The box around COCO polygons [[x, y, x, y, ...], ...]; None when they are none."""
    if type(segmentation) is not list or not all(type(ring) is list and len(ring) % 2 == 0 for ring in segmentation):
        return None
    values = list(chain.from_iterable(segmentation))
    if len(values) < 6 or not _NUMBERS.issuperset(map(type, values)):
        return None
    xs, ys = values[0::2], values[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _points(annotations: list[_Entry], categories: Mapping[int, _Entry], file: Path) -> NDArray[np.float32] | None:
    """Keypoints [N, P, 3] when some are labelled and every class used has the same number of them."""
    if not any("keypoints" in annotation for annotation in annotations):
        return None
    named = [categories[number].get("keypoints") for number in {a["category_id"] for a in annotations}]
    counts = {len(names) if type(names) is list else 0 for names in named}
    if len(counts) != 1 or counts == {0}:
        return None
    length = 3 * counts.pop()
    rows = []
    for position, annotation in enumerate(annotations):
        row = annotation.get("keypoints", [0] * length)
        sound = type(row) is list and len(row) == length and _NUMBERS.issuperset(map(type, row))
        if not sound or not all(-_LIMIT_PX < value < _LIMIT_PX for value in row):
            raise wrong(f"annotations[{position}].keypoints are wrong", file, row, f"{length} numbers")
        rows.append(row)
    return np.array(rows, np.float32).reshape(len(rows), -1, 3)


def write(datasets: Dataset | Sequence[Dataset], root: Path) -> list[str]:
    """Write splits of the same classes as a COCO data set into a new or empty folder; photos are hard-linked.

    Returns:
        One line for each thing COCO cannot carry: none.
    Raises:
        UsageError: the folder has content, or the data sets do not fit together.
    """
    with new_folder(root) as folder:
        (folder / "annotations").mkdir()
        for split, dataset in by_split(datasets).items():
            for sample in dataset:
                place_photo(sample, folder / "images" / split / inner_name(sample))
            text = json.dumps(_document(dataset))
            (folder / "annotations" / f"instances_{split}.json").write_text(text, encoding="utf-8")
    return []


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
                entry["keypoints"] = truth.points_xyv[row].astype(np.float64).round(4).ravel().tolist()
            annotations.append(entry)
    names = {"keypoints": [f"point_{k + 1}" for k in range(points)]} if points else {}
    numbered = zip(dataset.category_ids, dataset.class_names, strict=True)
    categories = [{"id": number, "name": name, **names} for number, name in numbered]
    return {"images": images, "annotations": annotations, "categories": categories}
