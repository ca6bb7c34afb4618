"""Pascal VOC XML: VOCdevkit folders, `images/` beside `annotations/`, or .xml files beside the photos.

VOC counts pixels from 1 and includes the last one: xmin = x1 + 1 and xmax = x2. That is undone here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np

from detkit.data.dataset import Dataset, Sample
from detkit.data.findings import Fault, Report, stop
from detkit.data.folders import (
    PHOTO_SUFFIXES,
    PhotoFinder,
    by_split,
    inner_name,
    new_folder,
    photo_fault,
    place_photo,
)
from detkit.data.label_files import (
    checked_class_names,
    choose_split,
    placed,
    read_lines,
    split_word,
    wrong,
)
from detkit.data.voc_xml import CORNERS, XmlLabels, parse_xml
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import read_size_hw

LOOKED_FOR = "Annotations/*.xml beside JPEGImages/, annotations/*.xml beside images/, or *.xml beside the photos"
_LISTS = ("train", "val", "test", "trainval")
_CLASS_FILES = ("classes.txt", "labels.txt", "obj.names")
_PAIRS = (("JPEGImages", "Annotations"), ("images", "annotations"), ("images", "Annotations"), ("images", "labels"))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one split lies; without a list it is every photo of the folder."""

    photos: Path
    labels: Path
    listed: Path | None = None


def splits(path: Path) -> dict[str, Path]:
    """The splits at `path` and the list file or label folder of each; empty when it is not VOC."""
    return {name: place.listed or place.labels for name, place in _places(path).items()}


def _places(path: Path) -> dict[str, _Place]:
    folders = [path, *sorted(path.glob("VOC*")), *sorted(path.glob("VOCdevkit/VOC*"))]
    homes = [home for home in folders if (home / "Annotations").is_dir() and (home / "JPEGImages").is_dir()]
    if len(homes) > 1:
        raise DataError("several VOC data sets", file=path, found=", ".join(map(str, homes)), expected="one of them")
    for home in homes or [path]:
        for photos, labels in ((home / a, home / b) for a, b in _PAIRS):
            lists = {
                f.stem: f for f in ((home / "ImageSets" / "Main" / f"{name}.txt") for name in _LISTS) if f.is_file()
            }
            inner = _with_xml(labels) if photos.is_dir() else {}
            if homes and lists:
                return {name: _Place(photos, labels, file) for name, file in lists.items()}
            if inner:
                return {name: _Place(photos / folder.relative_to(labels), folder) for name, folder in inner.items()}
    return {name: _Place(folder, folder) for name, folder in _with_xml(path).items()}


def _with_xml(folder: Path) -> dict[str, Path]:
    """The folder itself, or those in it that are named like splits, if XML files lie there."""
    if any(folder.glob("*.xml")):
        return {"": folder}
    inner = {split_word(file.name): file for file in sorted(folder.glob("*")) if file.is_dir()}
    return {name: file for name, file in inner.items() if name and any(file.glob("*.xml"))}


def read(path: Path, split: str | None = None, *, report: Report = stop) -> Dataset:
    """Read VOC labels; `difficult` objects, which VOC leaves out of training and scores, become crowd boxes.

    Class names come from classes.txt (or labels.txt, obj.names) if it is there; else they are the sorted names of
    all splits. A photo without an XML file has no objects, unless a list in ImageSets names it.

    Args:
        path: the data set's folder.
        split: "train", "val", ...; None where there is only one.
        report: gets each fault; by default the first is raised.
    Returns:
        The split; `truth.crowd` is always there.
    Raises:
        DataError: no such split, or a file that cannot be used as a whole.
    """
    path = path.absolute()
    places = _places(path)
    name, place = choose_split(places, split, path)
    photos = _photos(place.photos, report)
    folders = dict.fromkeys(other.labels for other in places.values())
    files = [file for folder in folders for file in sorted(folder.glob("*.xml"))]
    labels = list(_parsed(files, place.photos, photos, report))
    names = _class_names([path, place.photos.parent], labels, report)
    by_photo = _by_photo([own for own in labels if own.file.parent == place.labels], photos, report)
    chosen = sorted(photos.values()) if place.listed is None else list(_listed(place, photos, by_photo, report))
    broken = {file.stem for file in files if file.parent == place.labels} - {own.file.stem for own in labels}
    label_of = {class_name: label for label, class_name in enumerate(names)}
    samples = []
    for number, photo in enumerate(chosen, 1):
        if photo.rpartition(".")[0] not in broken:
            sample = _sample(place.photos / photo, by_photo.get(photo), label_of, number, report)
            samples += [] if sample is None else [sample]
    if not chosen:
        raise DataError("no photos", file=place.photos, expected=", ".join(sorted(PHOTO_SUFFIXES)))
    return Dataset(path.name, names, tuple(samples), path, "voc", name, tuple(range(1, len(names) + 1)))


def _parsed(files: Sequence[Path], folder: Path, photos: Mapping[str, str], report: Report) -> Iterator[XmlLabels]:
    """What each file says; one that cannot be parsed is a fault."""
    for file in files:
        photo = folder / photos[file.stem] if file.stem in photos else None
        try:
            labels = parse_xml(file)
        except DataError as error:
            report(placed(error, error.message, file, error.line, photo=photo))
            continue
        for fault in labels.faults:
            boxes = int(fault.mended is None)
            report(placed(fault, fault.message, file, photo=photo, item=fault.item, boxes=boxes))
        yield labels


def _class_names(homes: Sequence[Path], labels: Sequence[XmlLabels], report: Report) -> tuple[str, ...]:
    """The names listed, else those used; an unlisted one is refused here in strict reading, later with its box else."""
    used = {name: own.file for own in labels for name in own.names}
    for place in (home / name for home in homes for name in _CLASS_FILES):
        if place.is_file():
            listed = checked_class_names(read_lines(place), place, report)
            if report is stop and (unknown := sorted(set(used) - set(listed))):
                raise _unlisted(used[unknown[0]], unknown[0], f"a name in {place}")
            return listed
    return checked_class_names(sorted(used), homes[0], report)


def _unlisted(file: Path, name: str, expected: str) -> Fault:
    return wrong("a class that is not listed", file, name, expected, code="class-unknown")


def _photos(folder: Path, report: Report) -> dict[str, str]:
    """The photos of a folder by their stem, which is their label file's."""
    photos: dict[str, str] = {}
    for name in sorted(PhotoFinder([]).names_in(folder)):
        stem, dot, suffix = name.rpartition(".")
        if dot + suffix.lower() in PHOTO_SUFFIXES:
            if stem in photos:
                fault = wrong("two photos share one label file", folder / name, photos[stem], "one", code="image-twice")
                report(placed(fault, fault.message, fault.file, photo=folder / name))
            else:
                photos[stem] = name
    return photos


def _by_photo(labels: Sequence[XmlLabels], photos: Mapping[str, str], report: Report) -> dict[str, XmlLabels]:
    """Each photo's labels: those of the same stem, else those whose `filename` names it."""
    names = set(photos.values())
    found: dict[str, XmlLabels] = {}
    for own in labels:
        photo = photos.get(own.file.stem) or own.photo_name.strip()
        if photo not in names:
            what, expected = "a label file without a photo", f"a photo called {own.file.stem}"
            fault = wrong(what, own.file, photo, expected, code="labels-orphan")
            report(placed(fault, fault.message, own.file, boxes=len(own.names)))
        elif photo in found:
            what, expected = "a second label file for one photo", f"only {found[photo].file.name}"
            report(wrong(what, own.file, photo, expected, code="image-twice"))
        else:
            found[photo] = own
    return found


def _listed(
    place: _Place, photos: Mapping[str, str], by_photo: Mapping[str, XmlLabels], report: Report
) -> Iterator[str]:
    assert place.listed is not None
    seen = set()
    for line, text in enumerate(read_lines(place.listed), 1):
        photo = photos.get(text) or photos.get(text.rpartition(".")[0], "")
        what, expected, code = "no such photo", f"a photo in {place.photos}, listed once", ""
        if not photo or photo in seen:
            code = "image-twice" if photo else "image-missing"
        elif photo not in by_photo and not (place.labels / f"{photo.rpartition('.')[0]}.xml").exists():
            what, expected = "a listed photo has no label file", f"{place.labels / text}.xml"
            code = "labels-missing"
        if code:
            fault = wrong(what, place.listed, text, expected, line, code=code)
            report(placed(fault, what, place.listed, line, photo=place.photos / (photo or text)))
        else:
            seen.add(photo)
            yield photo


def _sample(
    photo: Path, labels: XmlLabels | None, label_of: Mapping[str, int], number: int, report: Report
) -> Sample | None:
    """One photo with its boxes; None where the photo cannot be used."""
    size_hw = None if labels is None else labels.size_hw
    if size_hw is None:
        try:
            size_hw = read_size_hw(photo)
        except DataError as error:
            report(photo_fault(photo, error))
            return None
    if labels is None:
        empty = Detections.empty(size_hw, scored=False)
        return Sample(photo.name, photo, replace(empty, crowd=np.zeros(0, np.bool_)), number)
    boxes_xyxy = np.array(labels.boxes_xyxy, np.float32).reshape(-1, 4)
    outside = ((boxes_xyxy[:, :2] >= size_hw[::-1]) | (boxes_xyxy[:, 2:] <= 0)).any(1)
    known = np.array([name in label_of for name in labels.names], np.bool_)
    for row in np.flatnonzero(outside | ~known).tolist():
        at = labels.numbers[row]
        if known[row]:
            what = f"object {at}: its bndbox lies outside the {size_hw[1]}x{size_hw[0]} photo"
            fault = wrong(what, None, boxes_xyxy[row].tolist(), "a box on the photo", code="box-outside")
        else:
            fault = _unlisted(labels.file, labels.names[row], "a listed name")
        report(placed(fault, fault.message, labels.file, photo=photo, item=at, boxes=1))
    kept = np.flatnonzero(known & ~outside)
    classes = np.array([label_of[labels.names[row]] for row in kept], np.int64)
    crowd = np.array(labels.difficult, np.bool_)[kept]
    truth = Detections(size_hw, boxes_xyxy[kept], classes, crowd=crowd)
    return Sample(photo.name, photo, truth, number, None, labels.file, np.array(labels.numbers, np.int64)[kept])


def write(datasets: Dataset | Sequence[Dataset], root: Path) -> list[str]:
    """Write splits of the same classes as a VOC data set into a new or empty folder; photos are hard-linked.

    Returns:
        One line for each thing VOC cannot carry: points; crowd boxes stay, as `difficult`.
    Raises:
        UsageError: the folder has content, or the data sets do not fit together.
    """
    named = by_split(datasets)
    flat = [str(inner_name(sample)).replace("/", "_") for dataset in named.values() for sample in dataset]
    unique = len({name.rpartition(".")[0] for name in flat}) == len(flat)
    points = 0
    with new_folder(root) as folder:
        for inner in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / inner).mkdir(parents=True)
        for split, dataset in named.items():
            stems = []
            for sample in dataset:
                name = ("" if unique else f"{split}_") + str(inner_name(sample)).replace("/", "_")
                stems.append(name.rpartition(".")[0])
                place_photo(sample, folder / "JPEGImages" / name)
                file = folder / "Annotations" / f"{stems[-1]}.xml"
                if file.exists():
                    raise DataError("two photos share one label file", file=sample.image_path, found=file.name)
                file.write_text(label_text(sample.truth, name, dataset.class_names), encoding="utf-8")
                points += 0 if sample.truth.points_xyv is None else len(sample.truth)
            (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join([*stems, ""]), encoding="utf-8")
        names = next(iter(named.values())).class_names
        (folder / "classes.txt").write_text("\n".join([*names, ""]), encoding="utf-8")
    return [f"the points of {points} objects are left out: VOC cannot carry them"] if points else []


def label_text(truth: Detections, name: str, class_names: Sequence[str]) -> str:
    """The XML file of a photo called `name`; crowd boxes are `difficult`."""
    height, width = truth.size_hw
    lines = [f"<annotation>\n  <filename>{escape(name, quote=False)}</filename>"]
    lines += [f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>"]
    crowd = np.zeros(len(truth), np.bool_) if truth.crowd is None else truth.crowd
    corners = (truth.boxes_xyxy.astype(np.float64) + [1, 1, 0, 0]).round(4).tolist()
    for label, box, difficult in zip(truth.labels.tolist(), corners, crowd.tolist(), strict=True):
        inner = "".join(f"<{corner}>{value:.10g}</{corner}>" for corner, value in zip(CORNERS, box, strict=True))
        lines += [f"  <object>\n    <name>{escape(class_names[label], quote=False)}</name>"]
        lines += [f"    <difficult>{int(difficult)}</difficult>\n    <bndbox>{inner}</bndbox>\n  </object>"]
    return "\n".join([*lines, "</annotation>\n"])
