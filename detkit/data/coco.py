"""COCO JSON: `images/{train,val}/` beside `annotations/instances_{train,val}.json`, and its usual variants."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit.data.coco_annotation import NUMBERS, read_annotation
from detkit.data.coco_writer import write as write
from detkit.data.dataset import Dataset, Sample
from detkit.data.findings import Fault, Report, stop
from detkit.data.folders import (
    PhotoFinder,
    photo_fault,
    stays_inside,
)
from detkit.data.keypoints import Points, read_points
from detkit.data.label_files import checked_class_names, choose_split, placed, read_bytes, short, split_word, wrong
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import read_size_hw

LOOKED_FOR = "annotations/*.json, */_annotations.coco.json, instances_*.json"
_PATTERNS = ("annotations/instances_*.json", "annotations/*.json", "*/_annotations.coco.json", "*.json")
_OTHER_TASKS = ("captions_", "panoptic_", "stuff_", "image_info_")
_WHOLE_SETS = ("annotations", "labels", "instances", "coco", "_annotations.coco", "instances_default")
_Entry = dict[str, Any]  # one JSON object


class _Photos(NamedTuple):
    """The photos, and the row in that list for each image id; None for a photo that is left out."""

    samples: list[Sample]
    row_of: dict[int, int | None]


class _Table(NamedTuple):
    """Annotations [N, 8]: photo, label, x, y, w, h, crowd, area; their ids [N]; themselves, and their places."""

    values: NDArray[np.float64]
    ids: NDArray[np.int64]
    annotations: list[_Entry]
    positions: list[int]


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


def read(path: Path, split: str | None = None, *, need_photos: bool = True, report: Report = stop) -> Dataset:
    """Read COCO labels; a box that reaches over the photo's edge is kept as it is, one wholly outside is refused.

    Args:
        path: the data set's folder, or one label file, whose photos lie beside it.
        split: "train", "val", ...; None where there is only one.
        need_photos: refuse labels whose photo is not on disk; False suits an evaluation of stored results.
        report: gets each fault; by default the first is raised.
    Returns:
        The split; `truth.crowd` is always there, `truth.points_xyv` where every class used has equally many points.
    Raises:
        DataError: no such split, or a label file that cannot be used as a whole.
    """
    name, file = choose_split(splits(path), split, path)
    document = _load(file, report)
    categories = _categories(document["categories"], file, report)
    names = checked_class_names((category.get("name") for category in categories.values()), file, report)
    home = path.absolute() if path.is_dir() else file.absolute().parent
    home = home.parent if home.name == "annotations" else home
    finder = PhotoFinder(_photo_folders(file, name))
    photos = _photos(document, finder, home if need_photos else None, file, report)
    table = _table(document["annotations"], photos, categories, file, report)
    points = _points(table, categories, photos, file, report)
    has_areas = any("area" in annotation for annotation in table.annotations)
    samples = tuple(_labelled(photos.samples, table, points.xyv, has_areas))
    ids = tuple(categories)
    return Dataset(home.name, names, samples, file, "coco", name, ids, *points[1:])


def _load(file: Path, report: Report) -> dict[str, list[_Entry]]:
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
                report(wrong(f"{key}[{position}] is wrong", file, entry, "an object"))
        document[key] = [entry for entry in document[key] if type(entry) is dict]
    if not document["images"]:
        raise DataError("no images", file=file, expected="at least one")
    return document


def _categories(entries: list[_Entry], file: Path, report: Report) -> dict[int, _Entry]:
    """The categories by id, in the order of their ids."""
    by_id: dict[int, _Entry] = {}
    for position, entry in enumerate(entries):
        number = entry.get("id")
        if type(number) is not int or number in by_id:
            code = "class-id-twice" if type(number) is int else "labels-wrong"
            report(wrong(f"categories[{position}].id is wrong", file, number, "an integer used once", code=code))
        else:
            by_id[number] = entry
    return dict(sorted(by_id.items()))


def _photo_folders(file: Path, split: str) -> list[Path]:
    """Where the photos of a label file may lie, likeliest first."""
    parent = file.absolute().parent
    bases = [parent.parent, parent] if parent.name.lower() in ("annotations", "labels") else [parent]
    words = dict.fromkeys([file.stem.rpartition("_")[2], split, *(["valid"] if split == "val" else [])])
    inner = [folder + word for word in words if word for folder in ("images/", "")]
    return [base / name for base in bases for name in (*inner, "images", "data", ".")]


def _photos(
    document: Mapping[str, list[_Entry]], finder: PhotoFinder, home: Path | None, file: Path, report: Report
) -> _Photos:
    """The photos as samples that have no labels yet; those that cannot be used, or are listed twice, are faults."""
    samples: list[Sample] = []
    row_of: dict[int, int | None] = {}
    names: dict[str, int] = {}
    boxes_of = Counter(n for entry in document["annotations"] if type(n := entry.get("image_id")) is int)
    for position, entry in enumerate(document["images"]):
        number: Any = entry.get("id")
        name: Any = entry.get("file_name")
        try:
            if type(number) is not int or number in row_of:
                code = "labels-wrong" if type(number) is not int else "image-id-twice"
                raise wrong(f"images[{position}].id is wrong", file, number, "an integer used once", code=code)
            if type(name) is not str or not name or name in names:
                code = "image-twice" if type(name) is str and name else "labels-wrong"
                raise wrong(f"images[{position}].file_name is wrong", file, name, "a name used once", code=code)
            sample = _photo(entry, finder, home, position, file, report)
            row_of[number], names[name] = len(samples), len(samples)
            samples.append(sample)
        except Fault as fault:
            photo = fault.photo or (finder.folders[0] / name if type(name) is str else None)
            first = row_of.get(number) if type(number) is int else None
            boxes = boxes_of[number] if type(number) is int and first is None else 0
            if fault.code == "image-twice":  # its boxes become the first one's
                photo, boxes, row_of[number] = samples[names[name]].image_path, 0, names[name]
            elif type(number) is int:
                row_of[number] = None
            if first is not None:  # two photos have this id: the boxes may be either's
                report(placed(fault, fault.message, file, photo=samples[first].image_path, boxes=boxes_of[number]))
            report(
                placed(fault, fault.message, file if fault.file is None else Path(fault.file), photo=photo, boxes=boxes)
            )
    return _Photos(samples, row_of)


def _photo(entry: _Entry, finder: PhotoFinder, home: Path | None, position: int, file: Path, report: Report) -> Sample:
    """One photo; `home` is the folder it has to lie in, None where it need not be there at all."""
    number, name = entry["id"], entry["file_name"]
    path = finder.find(name) or finder.find(name.replace("\\", "/"))
    if home is not None and not stays_inside(path or finder.folders[0] / name, [home]):
        what = f"images[{position}].file_name leaves the data folder"
        raise wrong(what, file, name, f"a photo in {home}", code="path-outside")
    if path is None and home is not None:
        tried = ", ".join(str(folder) for folder in finder.folders if folder.is_dir())
        what = f"the photo {short(name)} (image id {number}) is missing; looked in {tried}"
        raise Fault("image-missing", what, file=file)
    sides: list[Any] = [entry.get("height"), entry.get("width")]
    sound = all(type(side) in NUMBERS and 0 < side < 10**6 and side == int(side) for side in sides)
    if not sound and (path is None or None not in sides):
        what, code = f"images[{position}] has no usable height and width", "image-size-wrong"
        report(Fault(code, what, file=file, found=short(sides), expected="pixels", photo=path))
    if not sound and path is not None:
        try:
            sides = list(read_size_hw(path))
        except DataError as error:
            raise photo_fault(path, error) from None
    size_hw = int(sides[0]), int(sides[1])
    return Sample(name, path or finder.folders[-1] / name, Detections.empty(size_hw, scored=False), number, None, file)


def _labelled(
    samples: Sequence[Sample], table: _Table, points_xyv: NDArray[np.float32] | None, has_areas: bool
) -> Iterator[Sample]:
    """The samples with their boxes: the table of all annotations, sorted by photo and cut where the photo changes."""
    order = np.argsort(table.values[:, 0], kind="stable")
    values, ids = table.values[order], table.ids[order]
    boxes_xyxy = np.hstack([values[:, 2:4], values[:, 2:4] + values[:, 4:6]]).astype(np.float32)
    labels, crowd = values[:, 1].astype(np.int64), values[:, 6] != 0
    areas_px = values[:, 7] if has_areas else None
    points_xyv = None if points_xyv is None else points_xyv[order]
    bounds = np.searchsorted(values[:, 0], np.arange(len(samples) + 1)).tolist()
    for sample, start, stop_ in zip(samples, bounds, bounds[1:], strict=False):
        own = slice(start, stop_)
        points = None if points_xyv is None else points_xyv[own]
        truth = Detections(sample.truth.size_hw, boxes_xyxy[own], labels[own], points_xyv=points, crowd=crowd[own])
        areas = None if areas_px is None else areas_px[own]
        yield replace(sample, truth=truth, areas_px=areas, rows=ids[own], boxes_xywh=values[own, 2:6])


def _table(
    annotations: list[_Entry], photos: _Photos, categories: Mapping[int, _Entry], file: Path, report: Report
) -> _Table:
    """All annotations that can be used; those of photos that are left out are left out too."""
    samples = photos.samples
    place_of = {n: None if k is None else (k, *samples[k].truth.size_hw) for n, k in photos.row_of.items()}
    label_of = {number: label for label, number in enumerate(categories)}
    rows: list[Sequence[float]] = []
    ids: list[int] = []
    kept: list[_Entry] = []
    positions: list[int] = []
    seen: set[int] = set()

    def tell(fault: Fault, position: int, boxes: int) -> None:
        annotation = annotations[position]
        number, owner = annotation.get("id"), annotation.get("image_id")
        row = photos.row_of.get(owner) if type(owner) is int else None
        where = f"annotations[{position}] (id {short(number)}): {fault.message}"
        photo = None if row is None else samples[row].image_path
        item = number if type(number) is int else None
        report(placed(fault, where, file, photo=photo, item=item, boxes=boxes))

    for position, annotation in enumerate(annotations):
        number = annotation.get("id", -1 - position)
        if type(number) is not int or number in seen:
            code = "annotation-id-twice" if type(number) is int else "labels-wrong"
            tell(wrong("its id is wrong", None, number, "an integer used once", code=code), position, 0)
            number = -1 - position
        seen.add(number)
        try:
            row: Sequence[float] | None = read_annotation(annotation, place_of, label_of)
        except Fault as fault:
            tell(fault, position, int(fault.mended is None))
            row = fault.mended
        if row is not None:
            rows.append(row)
            ids.append(number if abs(number) < 2**63 else -1)
            kept.append(annotation)
            positions.append(position)
    return _Table(np.array(rows, np.float64).reshape(-1, 8), np.array(ids, np.int64), kept, positions)


def _points(table: _Table, categories: Mapping[int, _Entry], photos: _Photos, file: Path, report: Report) -> Points:
    """The keypoints; those that cannot be read are faults, and become points nobody labelled."""
    samples = photos.samples
    sizes_hw = {n: samples[row].truth.size_hw for n, row in photos.row_of.items() if row is not None}
    try:
        return read_points(table.annotations, categories, sizes_hw)
    except DataError:
        sound = []
        for position, annotation in zip(table.positions, table.annotations, strict=True):
            try:
                read_points([annotation], categories, sizes_hw, [position])
                sound.append(annotation)
            except DataError as error:
                row = photos.row_of[annotation["image_id"]]
                photo = None if row is None else samples[row].image_path
                fault = wrong(error.message, file, None, "", code="points-wrong")
                fault.found, fault.expected = error.found, error.expected
                report(placed(fault, error.message, file, photo=photo))
                sound.append({key: value for key, value in annotation.items() if key != "keypoints"})
        return read_points(sound, categories, sizes_hw)
