"""YOLO txt: `data.yaml` or `classes.txt`, photos under `images/`, one label file per photo under `labels/`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset, Sample
from detkit.data.findings import Fault, Report, stop
from detkit.data.folders import (
    PHOTO_SUFFIXES,
    PhotoFinder,
    photo_fault,
    photos_below,
    stays_inside,
)
from detkit.data.label_files import choose_split, placed, read_bytes, read_lines, split_word, wrong
from detkit.data.yolo_config import (
    CLASS_FILES,
    class_names,
    entries,
    found_place,
    load_yaml,
    mirrored_points,
    point_names,
    point_shape,
    yaml_file,
)
from detkit.data.yolo_writer import write as write
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import read_size_hw

LOOKED_FOR = "data.yaml, labels/ beside images/, or a .txt beside each photo"
_SPLITS = ("train", "val", "test")
_NO_LABELS = re.compile(r"(classes|train|val|valid|test|readme.*)\.txt$", re.IGNORECASE)
_SLACK, _TINY = 1e-3, 1e-6  # how far above 1 a rounded fraction may be; below, a box has no area as float32


def splits(path: Path) -> dict[str, Path]:
    """The splits at `path` (a folder or a data.yaml) and what lists each one's photos; empty when it is not YOLO."""
    file = yaml_file(path)
    config = {} if file is None else load_yaml(file)
    named = {name: file for name in _SPLITS if file is not None and entries(config, name, file)}
    return named if named or not path.is_dir() else _layout(path)


def _layout(home: Path) -> dict[str, Path]:
    """The list files or photo folders of a data set whose yaml, if it has one, names only classes."""
    lists = {split_word(f.stem): f for f in sorted(home.glob("*.txt")) if f.stem in (*_SPLITS, "valid")}
    if lists and any((home / name).is_file() for name in CLASS_FILES):
        return lists
    if (home / "labels").is_dir() and (home / "images").is_dir():
        inner = [folder for folder in sorted((home / "images").iterdir()) if folder.is_dir()]
        named = {split_word(folder.name): folder for folder in inner}
        return named if len(named) == len(inner) > 0 and "" not in named else {"": home / "images"}
    named = {split_word(f.parent.name) or f.parent.name: f for f in sorted(home.glob("*/images"))}
    if named and all((f.parent / "labels").is_dir() for f in named.values()):
        return named
    photos = {file.stem for file in home.glob("*.*") if file.suffix.lower() in PHOTO_SUFFIXES}
    return {"": home} if any(file.stem in photos for file in home.glob("*.txt")) else {}


def read(path: Path, split: str | None = None, *, report: Report = stop) -> Dataset:
    """Read YOLO labels; a photo without a label file has no objects, and a polygon becomes the box around it.

    Args:
        path: the data set's folder, or its data.yaml.
        split: "train", "val", ...; None where there is only one.
        report: gets each fault; by default the first is raised.
    Returns:
        The split; `truth.points_xyv` is there when data.yaml has a `kpt_shape`, `truth.crowd` never.
    Raises:
        DataError: no such split, or a file that cannot be used as a whole.
    """
    path = path.absolute()
    name, place = choose_split(splits(path), split, path)
    file = yaml_file(path)
    config = {} if file is None else load_yaml(file)
    home = path if path.is_dir() else path.parent
    names = class_names(home, config, file, report)
    sources = (
        [place] if place != file else [found_place(entry, config, place) for entry in entries(config, name, place)]
    )
    homes = [home, home / str(config.get("path", "."))]
    photos = list(_photos(sources, homes, report))
    top = os.path.commonpath({str(photo.parent) for photo in photos})
    shape = len(names), *point_shape(config, file)
    samples = []
    for number, (photo, labels) in enumerate(_label_files(photos, report).items(), 1):
        truth, lines = _truth(photo, labels, shape, report)
        if truth is not None:
            samples.append(Sample(photo.relative_to(top).as_posix(), photo, truth, number, None, labels, lines))
    ids, points = tuple(range(1, len(names) + 1)), point_names(config, file, shape[1])
    pairs = mirrored_points(config, file, shape[1])
    return Dataset(home.name, names, tuple(samples), file or path, "yolo", name, ids, points, point_pairs=pairs)


def _photos(sources: Sequence[Path], homes: Sequence[Path], report: Report) -> Iterator[Path]:
    seen: set[Path] = set()
    for source in sources:
        for photo in photos_below(source, set(), report) if source.is_dir() else _listed(source, homes, report):
            if photo in seen:
                report(Fault("image-twice", "the photo is listed twice", file=source, found=photo, photo=photo))
                continue
            seen.add(photo)
            yield photo
    if not seen:
        raise DataError("no photos", file=sources[0], expected=", ".join(sorted(PHOTO_SUFFIXES)))


def _listed(file: Path, homes: Sequence[Path], report: Report) -> Iterator[Path]:
    """The photos a list file names, from its own folder, the one above or the data set's."""
    finder = PhotoFinder([file.parent, file.parent.parent])
    for number, line in enumerate(read_lines(file), 1):
        photo = finder.find(line)
        if not stays_inside(file.parent / line, [*homes, *finder.folders]):
            report(
                wrong(
                    "the photo's path leaves the data folder", file, line, f"in {homes[0]}", number, code="path-outside"
                )
            )
        elif photo is None:
            expected = f"a path from {file.parent} or its parent"
            fault = wrong("no such photo", file, line, expected, number, code="image-missing")
            report(placed(fault, fault.message, file, number, photo=file.parent / line))
        else:
            yield Path(os.path.normpath(photo))


def _label_files(photos: Sequence[Path], report: Report) -> dict[Path, Path | None]:
    """Each photo's label file, or None; a label file without a photo is a fault."""
    finder = PhotoFinder([])
    folder_of = {folder: _label_folder(folder) for folder in {photo.parent for photo in photos}}
    for folder, labels in folder_of.items():
        for place in [labels] if labels == folder else [labels, *labels.rglob("*/")]:
            home = folder / place.relative_to(labels)
            stems = {name.rpartition(".")[0] for name in finder.names_in(home) if not name.endswith(".txt")}
            for name in sorted(finder.names_in(place)):
                if name.endswith(".txt") and name[:-4] not in stems and not _NO_LABELS.match(name):
                    what = "a label file without a photo"
                    report(Fault("labels-orphan", what, file=place / name, expected=f"a photo in {home}"))
    files: dict[Path, Path] = {}
    for photo in photos:
        file = folder_of[photo.parent] / f"{photo.stem}.txt"
        if file in files:
            both = f"{files[file].name} and {photo.name}"
            report(Fault("image-twice", "two photos share one label file", file=file, found=both, photo=photo))
        else:
            files[file] = photo
    found = {photo: file if file.name in finder.names_in(file.parent) else None for file, photo in files.items()}
    if not any(found.values()) and all(folder == labels for folder, labels in folder_of.items()):
        raise DataError("no label file for any photo", file=photos[0].parent, expected="labels/ in place of images/")
    return found


def _label_folder(folder: Path) -> Path:
    """The folder with `labels` for the last `images` in its path where that is there, else the folder itself."""
    head, _, tail = f"{folder.as_posix()}/".rpartition("/images/")
    labels = Path(f"{head}/labels/{tail}")
    return labels if head and labels.is_dir() else folder


def _truth(
    photo: Path, file: Path | None, shape: tuple[int, int, int], report: Report
) -> tuple[Detections | None, NDArray[np.int64]]:
    """The boxes of one photo and their line numbers; None where the photo or its label file cannot be used."""
    rows: list[Sequence[float]] = []
    lines: list[int] = []
    try:
        size_hw = height, width = read_size_hw(photo)
    except DataError as error:
        report(photo_fault(photo, error))
        return None, np.zeros(0, np.int64)
    try:
        text = b"" if file is None else read_bytes(file, may_be_empty=True)
    except DataError as error:
        report(placed(error, error.message, file, photo=photo))
        return None, np.zeros(0, np.int64)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            if cells := line.removeprefix(b"\xef\xbb\xbf").split():
                rows.append(_row(cells, shape, size_hw))
                lines.append(number)
        except Fault as fault:
            report(placed(fault, fault.message, file, number, photo=photo, boxes=int(fault.mended is None)))
            if fault.mended is not None:
                rows.append(fault.mended)
                lines.append(number)
    points = shape[1]
    table = np.array(rows, np.float64).reshape(len(rows), 5 + 3 * points)  # [N, 5 + 3P]
    table *= [1, width, height, width, height, *([width, height, 1] * points)]
    points_xyv = table[:, 5:].astype("f4").reshape(len(rows), points, 3) if points else None
    truth = Detections(size_hw, table[:, 1:5].astype("f4"), table[:, 0].astype(int), points_xyv=points_xyv)
    return truth, np.array(lines, np.int64)


def _row(cells: list[bytes], shape: tuple[int, int, int], size_hw: tuple[int, int]) -> list[float]:
    """Label, rel_xyxy and points (x, y, visibility) of one line; a polygon gives the box around it."""
    class_count, points, size = shape
    text = b" ".join(cells).decode(errors="replace")
    try:
        label, *values = [float(cell.replace(b"_", b"?")) for cell in cells]  # Python would take 1_0 for 10
    except ValueError:
        raise wrong("not finite numbers", None, text, "class cx cy w h") from None
    if not all(abs(value) < 1e6 for value in (label, *values)):
        raise wrong("not finite numbers", None, text, "class cx cy w h", code="box-not-finite")
    if not (0 <= label < class_count and label % 1 == 0):
        raise _unknown_class(cells, label, shape, size_hw)
    if points == 0 and len(values) >= 6 and len(values) % 2 == 0:
        rel_xyxy, fractions = [min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])], values
    elif len(values) == 4 + points * size:
        cx, cy, w, h = fractions = values[:4]
        rel_xyxy = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    else:
        hint = "; the sixth, a confidence, belongs to predictions" if len(values) == 5 else ""
        expected = "class cx cy w h" + (f" and {points} points of {size}" if points else ", or class and a polygon")
        raise wrong(f"a line of {len(cells)} columns", None, text, expected + hint)
    own = [values[at : at + size] for at in range(4, 4 + points * size, size)]
    rest = [v for x, y, *seen in own for v in (x, y, *(seen or [2.0 * (x != 0 or y != 0)]))]
    if not all(-_SLACK <= value <= 1 + _SLACK for value in fractions):
        raise _not_fractions(text, fractions, [label, *rel_xyxy, *rest], size_hw)
    if rel_xyxy[2] - rel_xyxy[0] < _TINY or rel_xyxy[3] - rel_xyxy[1] < _TINY:
        raise wrong("a box without area", None, text, "width and height above 0", code="box-empty")
    return [label, *rel_xyxy, *rest]


def _unknown_class(cells: list[bytes], label: float, shape: tuple[int, int, int], size_hw: tuple[int, int]) -> Fault:
    """A class id that is not in the list; one just beyond it is kept, for it may be that all ids begin at 1."""
    mended = None
    if label == shape[0]:
        with suppress(Fault):
            mended = [label, *_row([b"0", *cells[1:]], shape, size_hw)[1:]]
    what, text = f"class id out of range, names has {shape[0]}", b" ".join(cells).decode(errors="replace")
    expected = f"0 to {shape[0] - 1}{' (ids begin at 0)' if label == shape[0] else ''}"
    return wrong(what, None, text, expected, code="class-unknown", mended=mended)


def _not_fractions(text: str, fractions: Sequence[float], row: list[float], size_hw: tuple[int, int]) -> Fault:
    """What a box beyond 0 to 1 is: its corners swapped, pixels, or outside the photo; mended where that is certain."""
    label, x1, y1, x2, y2, *rest = row
    what, code, expected = "not fractions of the photo", "box-outside", "0 to 1"
    if len(fractions) == 4 and min(fractions[2:]) < 0:
        what, code, expected = "a negative side, not fractions of the photo", "box-inverted", "width and height above 0"
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    elif max(fractions) > 2:
        code, expected = "box-in-pixels", "0 to 1 (are these pixels?)"
        x1, y1, x2, y2 = x1 / size_hw[1], y1 / size_hw[0], x2 / size_hw[1], y2 / size_hw[0]
    clipped = [min(max(value, 0.0), 1.0) for value in (x1, y1, x2, y2)]
    sound = clipped[2] - clipped[0] >= _TINY and clipped[3] - clipped[1] >= _TINY
    return wrong(what, None, text, expected, code=code, mended=[label, *clipped, *rest] if sound else None)
