"""Pascal VOC XML: VOCdevkit folders, `images/` beside `annotations/`, or .xml files beside the photos.

VOC counts pixels from 1 and includes the last one: xmin = x1 + 1 and xmax = x2. That is undone here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from detkit.data.dataset import Dataset, Sample
from detkit.data.folders import PHOTO_SUFFIXES, PhotoFinder, by_split, inner_name, new_folder, place_photo
from detkit.data.label_files import (
    checked_class_names,
    choose_split,
    placed,
    read_bytes,
    read_lines,
    short,
    split_word,
    wrong,
)
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import read_size_hw

LOOKED_FOR = "Annotations/*.xml beside JPEGImages/, annotations/*.xml beside images/, or *.xml beside the photos"
_LISTS = ("train", "val", "test", "trainval")
_CLASS_FILES = ("classes.txt", "labels.txt", "obj.names")
_PAIRS = (("JPEGImages", "Annotations"), ("images", "annotations"), ("images", "Annotations"), ("images", "labels"))
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"0": False, "1": True, "false": False, "true": True}
_LIMIT_PX = 1e9


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one split lies; without a list it is every photo of the folder."""

    photos: Path
    labels: Path
    listed: Path | None = None


@dataclass(frozen=True, slots=True)
class _Labels:
    """What one XML file says."""

    file: Path
    photo_name: str
    size_hw: tuple[int, int] | None
    names: list[str]
    boxes_xyxy: list[list[float]]
    difficult: list[bool]


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


def read(path: Path, split: str | None = None) -> Dataset:
    """Read VOC labels; `difficult` objects, which VOC leaves out of training and scores, become crowd boxes.

    Class names come from classes.txt (or labels.txt, obj.names) if it is there; else they are the sorted names of
    all splits. A photo without an XML file has no objects, unless a list in ImageSets names it.

    Args:
        path: the data set's folder.
        split: "train", "val", ...; None where there is only one.
    Returns:
        The split; `truth.crowd` is always there.
    Raises:
        DataError: no such split, or a file that cannot be used as a whole.
    """
    path = path.absolute()
    places = _places(path)
    name, place = choose_split(places, split, path)
    folders = dict.fromkeys(other.labels for other in places.values())
    labels = {folder: [_parse(file) for file in sorted(folder.glob("*.xml"))] for folder in folders}
    names = _class_names([path, place.photos.parent], [label for own in labels.values() for label in own])
    photos = _photos(place.photos)
    by_photo = _by_photo(labels[place.labels], photos)
    chosen = sorted(photos.values()) if place.listed is None else list(_listed(place, photos, by_photo))
    label_of = {class_name: label for label, class_name in enumerate(names)}
    samples = [_sample(place.photos / photo, by_photo.get(photo), label_of, i) for i, photo in enumerate(chosen, 1)]
    if not samples:
        raise DataError("no photos", file=place.photos, expected=", ".join(sorted(PHOTO_SUFFIXES)))
    return Dataset(path.name, names, tuple(samples), path, "voc", name, tuple(range(1, len(names) + 1)))


def _parse(file: Path) -> _Labels:
    try:
        root = ElementTree.fromstring(read_bytes(file))
    except ElementTree.ParseError as error:
        raise DataError(f"not valid XML: {error.msg}", file=file, line=error.position[0]) from error
    except DefusedXmlException as error:
        raise DataError("XML entities are refused", file=file) from error
    except (ValueError, LookupError) as error:  # an encoding nobody knows
        raise DataError(f"not valid XML: {short(str(error))}", file=file) from error
    if root.tag != "annotation":
        raise wrong("not a VOC label file", file, root.tag, "<annotation>")
    sides = [root.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    sized = all(side.isascii() and side.isdigit() and 0 < int(side[:7]) and len(side) < 7 for side in sides)
    labels = _Labels(file, root.findtext("filename", ""), (int(sides[0]), int(sides[1])) if sized else None, [], [], [])
    for position, entry in enumerate(root.findall("object"), 1):
        try:
            labels.names.append(entry.findtext("name", "").strip())
            labels.boxes_xyxy.append(_box_xyxy(entry))
            flag = entry.findtext("difficult", "0").strip().lower()
            if flag not in _FLAGS or not labels.names[-1]:
                raise wrong("its name or difficult is wrong", None, [labels.names[-1], flag], "a name, and 0 or 1")
            labels.difficult.append(_FLAGS[flag])
        except DataError as error:
            raise placed(error, f"object {position} ({labels.names[-1]}): {error.message}", file) from None
    return labels


def _box_xyxy(entry: Any) -> list[float]:
    texts = [entry.findtext(f"bndbox/{corner}", "").strip() for corner in _CORNERS]
    try:
        corners = [float(text.replace("_", "?")) for text in texts]  # Python would take 1_0 for 10
    except ValueError:
        corners = [float("nan")]
    if not all(abs(value) < _LIMIT_PX for value in corners):
        raise wrong("its bndbox is wrong", None, texts, "xmin, ymin, xmax, ymax in pixels")
    x1, y1, x2, y2 = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
    if not (np.float32(x2) > np.float32(x1) and np.float32(y2) > np.float32(y1)):
        raise wrong("its bndbox has no area", None, texts, "xmax and ymax not below xmin and ymin")
    return [x1, y1, x2, y2]


def _class_names(homes: Sequence[Path], labels: Sequence[_Labels]) -> tuple[str, ...]:
    used = {name: own.file for own in labels for name in own.names}
    for place in (home / name for home in homes for name in _CLASS_FILES):
        if place.is_file():
            listed = checked_class_names(read_lines(place), place)
            if unknown := sorted(set(used) - set(listed)):
                raise wrong("a class that is not listed", used[unknown[0]], unknown[0], f"a name in {place}")
            return listed
    return checked_class_names(sorted(used), homes[0])


def _photos(folder: Path) -> dict[str, str]:
    """The photos of a folder by their stem, which is their label file's."""
    photos: dict[str, str] = {}
    for name in sorted(PhotoFinder([]).names_in(folder)):
        stem, dot, suffix = name.rpartition(".")
        if dot + suffix.lower() in PHOTO_SUFFIXES:
            if stem in photos:
                raise DataError("two photos share one label file", file=folder / name, found=photos[stem])
            photos[stem] = name
    return photos


def _by_photo(labels: Sequence[_Labels], photos: Mapping[str, str]) -> dict[str, _Labels]:
    """Each photo's labels: those of the same stem, else those whose `filename` names it."""
    names = set(photos.values())
    found: dict[str, _Labels] = {}
    for own in labels:
        photo = photos.get(own.file.stem) or own.photo_name.strip()
        if photo not in names:
            raise wrong("a label file without a photo", own.file, photo, f"a photo called {own.file.stem}")
        if photo in found:
            raise wrong("a second label file for one photo", own.file, photo, f"only {found[photo].file.name}")
        found[photo] = own
    return found


def _listed(place: _Place, photos: Mapping[str, str], by_photo: Mapping[str, _Labels]) -> Iterator[str]:
    assert place.listed is not None
    seen = set()
    for line, text in enumerate(read_lines(place.listed), 1):
        photo = photos.get(text) or photos.get(text.rpartition(".")[0], "")
        if not photo or photo in seen:
            raise wrong("no such photo", place.listed, text, f"a photo in {place.photos}, listed once", line)
        if photo not in by_photo:
            raise wrong("a listed photo has no label file", place.listed, text, f"{place.labels / text}.xml", line)
        seen.add(photo)
        yield photo


def _sample(photo: Path, labels: _Labels | None, label_of: Mapping[str, int], number: int) -> Sample:
    size_hw = labels.size_hw if labels is not None and labels.size_hw is not None else read_size_hw(photo)
    boxes = np.array([] if labels is None else labels.boxes_xyxy, np.float32).reshape(-1, 4)
    outside = ((boxes[:, :2] >= size_hw[::-1]) | (boxes[:, 2:] <= 0)).any(1)
    if labels is not None and outside.any():
        where = f"object {int(outside.argmax()) + 1}: its bndbox lies outside the {size_hw[1]}x{size_hw[0]} photo"
        raise wrong(where, labels.file, boxes[outside][0].tolist(), "a box on the photo")
    classes = [] if labels is None else [label_of[name] for name in labels.names]
    crowd = np.array([] if labels is None else labels.difficult, np.bool_)
    return Sample(photo.name, photo, Detections(size_hw, boxes, np.array(classes, np.int64), crowd=crowd), number)


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
                file.write_text(_text(sample, name, dataset.class_names), encoding="utf-8")
                points += 0 if sample.truth.points_xyv is None else len(sample.truth)
            (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join([*stems, ""]), encoding="utf-8")
        names = next(iter(named.values())).class_names
        (folder / "classes.txt").write_text("\n".join([*names, ""]), encoding="utf-8")
    return [f"the points of {points} objects are left out: VOC cannot carry them"] if points else []


def _text(sample: Sample, name: str, class_names: Sequence[str]) -> str:
    truth, (height, width) = sample.truth, sample.truth.size_hw
    lines = [f"<annotation>\n  <filename>{escape(name, quote=False)}</filename>"]
    lines += [f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>"]
    crowd = np.zeros(len(truth), np.bool_) if truth.crowd is None else truth.crowd
    corners = (truth.boxes_xyxy.astype(np.float64) + [1, 1, 0, 0]).round(4).tolist()
    for label, box, difficult in zip(truth.labels.tolist(), corners, crowd.tolist(), strict=True):
        inner = "".join(f"<{corner}>{value:.10g}</{corner}>" for corner, value in zip(_CORNERS, box, strict=True))
        lines += [f"  <object>\n    <name>{escape(class_names[label], quote=False)}</name>"]
        lines += [f"    <difficult>{int(difficult)}</difficult>\n    <bndbox>{inner}</bndbox>\n  </object>"]
    return "\n".join([*lines, "</annotation>\n"])
