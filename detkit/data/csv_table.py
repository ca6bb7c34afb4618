"""CSV: files like train.csv with one row per box, `image,x1,y1,x2,y2,label`; see `csv_rows` for what a file holds.

Corners are continuous pixels, x2 and y2 exclusive. An image without boxes is a row of empty fields.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.csv_rows import PLAIN, CsvPhoto, CsvTable, looks_right, parse_csv
from detkit.data.dataset import Dataset, Sample
from detkit.data.findings import Report, stop
from detkit.data.folders import (
    PhotoFinder,
    by_split,
    inner_name,
    new_folder,
    photo_fault,
    place_photo,
    stays_inside,
)
from detkit.data.label_files import checked_class_names, choose_split, placed, read_lines, short, split_word, wrong
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import read_size_hw

LOOKED_FOR = "train.csv, annotations.csv or */_annotations.csv with the columns image,x1,y1,x2,y2,label"
_PATTERNS = ("*.csv", "annotations/*.csv", "*/_annotations.csv")
_WHOLE_SETS = ("annotations", "labels", "_annotations")
_CLASS_FILES = ("classes.txt", "labels.txt", "obj.names")


def splits(path: Path) -> dict[str, Path]:
    """The splits at `path` (a folder or one .csv file) and the file of each; empty when it is not CSV."""
    if path.is_file():
        return _named([path]) if path.suffix.lower() == ".csv" else {}
    for pattern in _PATTERNS:
        if files := [file for file in sorted(path.glob(pattern)) if file.is_file() and looks_right(file)]:
            return _named(files)
    return {}


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Each file under its split's name, or under its own where two would have the same."""
    named = {}
    for file in files:
        stem = file.parent.name if file.stem == "_annotations" else file.stem
        named[split_word(stem) or ("" if len(files) == 1 or stem in _WHOLE_SETS else stem)] = file
    return named if len(named) == len(files) else {file.stem: file for file in files}


def read(path: Path, split: str | None = None, *, report: Report = stop) -> Dataset:
    """Read CSV labels; photos lie relative to the file, and one that no row names is not part of the data set.

    Class names come from classes.txt (or labels.txt, obj.names) beside the file or in the folder above; else they are
    the sorted names of all splits.

    Args:
        path: the data set's folder, or one .csv file.
        split: "train", "val", ...; None where there is only one.
        report: gets each fault; by default the first is raised.
    Returns:
        The split; `truth.crowd` is always there.
    Raises:
        DataError: no such split, or a file that cannot be used as a whole.
    """
    path = path.absolute()
    name, file = choose_split(splits(path), split, path)
    table = parse_csv(file)
    every = [*splits(path.parent if path.is_file() else path).values()]
    others = [parse_csv(other) for other in every if other != file] if file in every else []  # a lone file among others
    home = path if path.is_dir() else file.parent
    class_names = _class_names([home, file.parent, file.parent.parent], [table, *others], report)
    photos = list(_found(table, PhotoFinder(_photo_folders(file, name)), home, report))
    top = os.path.commonpath({str(place.parent) for place, _ in photos}) if photos else ""
    label_of = {class_name: label for label, class_name in enumerate(class_names)}
    samples = []
    for number, (place, photo) in enumerate(photos, 1):
        truth, rows = _truth(place, photo, table, label_of, report)
        if truth is not None:
            samples.append(Sample(place.relative_to(top).as_posix(), place, truth, number, None, file, rows))
    return Dataset(home.name, class_names, tuple(samples), file, "csv", name, tuple(range(1, len(class_names) + 1)))


def _class_names(homes: Sequence[Path], tables: Sequence[CsvTable], report: Report) -> tuple[str, ...]:
    for place in (home / name for home in homes for name in _CLASS_FILES):
        if place.is_file():
            return checked_class_names(read_lines(place), place, report)
    used = {name for table in tables for photo in table.photos.values() for name in photo.names}
    return checked_class_names(sorted(used), tables[0].file, report)


def _photo_folders(file: Path, split: str) -> list[Path]:
    """Where the photos of a file may lie, likeliest first."""
    words = dict.fromkeys([split, *(["valid"] if split == "val" else [])])
    inner = [folder + word for word in words if word for folder in ("images/", "")]
    bases = [file.parent, *([file.parent.parent] if file.parent.name.lower() == "annotations" else [])]
    return [base / name for base in bases for name in (".", *inner, "images", "JPEGImages")]


def _found(table: CsvTable, finder: PhotoFinder, home: Path, report: Report) -> Iterator[tuple[Path, CsvPhoto]]:
    """Where each photo lies; faults of single rows are reported with the photo they concern."""
    places: dict[str, Path] = {}
    lines: dict[Path, int] = {}
    for name, photo in table.photos.items():
        place = finder.find(name) or finder.find(name.replace("\\", "/"))
        fault = None
        if not stays_inside(table.file.parent / name, [home, *finder.folders]):
            what = "the photo's path leaves the data folder"
            fault = wrong(what, None, name, f"a path in {home}", code="path-outside")
        elif place is None:
            tried = ", ".join(str(folder) for folder in finder.folders if folder.is_dir())
            what = f"the photo {short(name)} is missing; looked in {tried}"
            fault = wrong(what, None, name, "a photo on disk", code="image-missing")
        elif (place := Path(os.path.normpath(place))) in lines:
            what = f"another name for the photo of line {lines[place]}"
            fault = wrong(what, None, name, "one name", code="image-twice")
        else:
            places[name], lines[place] = place, photo.line
        if fault is not None:
            at = place or table.file.parent / name
            report(placed(fault, fault.message, table.file, photo.line, photo=at, boxes=len(photo.names)))
    for name, fault in table.faults:
        report(placed(fault, fault.message, table.file, fault.line, photo=places.get(name), boxes=fault.boxes))
    yield from ((place, table.photos[name]) for name, place in places.items())


def _truth(
    place: Path, photo: CsvPhoto, table: CsvTable, label_of: Mapping[str, int], report: Report
) -> tuple[Detections | None, NDArray[np.int64]]:
    """The boxes of one photo and their lines; None where the photo cannot be used."""
    try:
        size_hw = photo.size_hw or read_size_hw(place)
    except DataError as error:
        report(photo_fault(place, error))
        return None, np.zeros(0, np.int64)
    per_unit = np.tile(size_hw[::-1], 2) if table.in_fractions else np.ones(4)
    boxes_xyxy = (np.array(photo.boxes_xyxy, np.float64).reshape(-1, 4) * per_unit).astype(np.float32)
    outside = np.any((boxes_xyxy[:, :2] >= size_hw[::-1]) | (boxes_xyxy[:, 2:] <= 0), axis=1).tolist()
    kept = []
    for row, (name, line) in enumerate(zip(photo.names, photo.lines, strict=True)):
        found, fault = photo.boxes_xyxy[row], None
        if name not in label_of:
            fault = wrong("a class that is not listed", None, name, "a name in classes.txt", code="class-unknown")
        elif outside[row]:
            what = f"the box lies outside its {size_hw[1]}x{size_hw[0]} photo"
            fault = wrong(what, None, found, "a box on the photo", code="box-outside")
        else:
            kept.append(row)
            if table.in_fractions:
                mended = boxes_xyxy[row].tolist()
                fault = wrong("fractions of the photo", None, found, "pixels", code="box-in-fractions", mended=mended)
        if fault is not None:
            boxes = int(fault.mended is None)
            report(placed(fault, fault.message, table.file, line, photo=place, boxes=boxes))
    labels = np.array([label_of[photo.names[row]] for row in kept], np.int64)
    crowd = np.array([photo.crowd[row] for row in kept], np.bool_)
    truth = Detections(size_hw, boxes_xyxy[kept], labels, crowd=crowd)
    return truth, np.array([photo.lines[row] for row in kept], np.int64)


def write(datasets: Dataset | Sequence[Dataset], root: Path) -> list[str]:
    """Write splits of the same classes as CSV files into a new or empty folder; photos are hard-linked.

    A column `crowd` is added where a box has that flag.

    Returns:
        One line for each thing CSV cannot carry: points.
    Raises:
        UsageError: the folder has content, or the data sets do not fit together.
    """
    named = by_split(datasets)
    samples = [sample for dataset in named.values() for sample in dataset]
    columns = [*PLAIN, *(["crowd"] if any(_crowd(sample.truth).any() for sample in samples) else [])]
    with new_folder(root) as folder:
        for split, dataset in named.items():
            text = StringIO(newline="")
            rows = csv.writer(text, lineterminator="\n")
            rows.writerow(columns)
            for sample in dataset:
                name = f"images/{split}/{inner_name(sample)}"
                place_photo(sample, folder / name)
                rows.writerows([name, *row][: len(columns)] for row in _rows(sample, dataset.class_names))
            (folder / f"{split}.csv").write_text(text.getvalue(), encoding="utf-8")
        names = next(iter(named.values())).class_names
        (folder / "classes.txt").write_text("\n".join([*names, ""]), encoding="utf-8")
    points = sum(len(sample.truth) for sample in samples if sample.truth.points_xyv is not None)
    return [f"the points of {points} objects are left out: CSV cannot carry them"] if points else []


def _rows(sample: Sample, class_names: Sequence[str]) -> list[list[str]]:
    """All but the first field of the sample's rows; one row of empty fields where it has no boxes."""
    truth = sample.truth
    corners = [[f"{value:.10g}" for value in box] for box in truth.boxes_xyxy.astype(np.float64).round(4).tolist()]
    columns = zip(corners, truth.labels.tolist(), _crowd(truth).tolist(), strict=True)
    return [[*box, class_names[label], str(int(crowd))] for box, label, crowd in columns] or [[""] * 6]


def _crowd(truth: Detections) -> NDArray[np.bool_]:
    return np.zeros(len(truth), np.bool_) if truth.crowd is None else truth.crowd
