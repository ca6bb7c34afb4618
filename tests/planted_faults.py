"""The kinds of fault of the planted corpus: 40 and more, each in the formats it can occur in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from planted import ALL, BOXES_XYXY, CLASSES, LABELS, SIZE_HW, After, Before, Fault, Place, exif

from detkit.data import formats
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.images import read_image
from detkit.opencv import load_cv2

NAN, INF = math.nan, math.inf
Numbers = dict[formats.Format, Sequence[Any]]
RAW_BOXES: dict[str, tuple[str, Numbers]] = {  # kind -> code, and the numbers as each format has them
    "NaN": ("box-not-finite", {
        "coco": [NAN, 2, 3, 4], "yolo": ["nan", 0.5, 0.2, 0.2], "voc": ["nan", 2, 9, 9], "csv": ["nan", 2, 9, 9]}),
    "infinite": ("box-not-finite", {
        "coco": [1, 2, INF, 4], "yolo": [0.5, 0.5, "inf", 0.2], "voc": [1, 2, "inf", 9], "csv": [1, 2, "inf", 9]}),
    "negative side": ("box-inverted", {
        "coco": [60, 50, -30, -20], "yolo": [45 / 160, 40 / 120, -30 / 160, 20 / 120], "voc": [60, 50, 31, 31],
        "csv": [60, 50, 30, 30]}),
    "no area": ("box-empty", {
        "coco": [50, 40, 0, 10], "yolo": [0.5, 0.5, 0, 0.2], "voc": [60, 20, 59, 40], "csv": [60, 20, 60, 40]}),
    "outside": ("box-outside", {
        "coco": [500, 400, 20, 20], "yolo": [1.5, 1.5, 0.1, 0.1], "voc": [500, 400, 520, 420],
        "csv": [500, 400, 520, 420]}),
    "in fractions": ("box-in-fractions", {"coco": [0.2, 0.3, 0.25, 0.3], "voc": [0.2, 0.3, 0.45, 0.6]}),
    "in pixels": ("box-in-pixels", {"yolo": [80, 60, 30, 20]}),
    "over the edge": ("box-over-edge", {
        "coco": [140, 10, 40, 30], "yolo": [0.95, 0.2, 0.2, 0.2], "voc": [140, 10, 180, 40],
        "csv": [140, 10, 180, 40]}),
    "extreme shape": ("box-extreme-shape", {
        "coco": [10, 4, 140, 4], "yolo": [0.5, 0.05, 0.9, 0.03], "voc": [10, 4, 150, 8], "csv": [10, 4, 150, 8]}),
    "tiny": ("box-tiny", {
        "coco": [5, 5, 1.5, 1.5], "yolo": [0.05, 0.05, 0.01, 0.01], "voc": [5, 5, 5.5, 5.5], "csv": [5, 5, 6.5, 6.5]}),
    "too few numbers": ("labels-wrong", {
        "coco": [5, 5, 9], "yolo": [0.5, 0.5, 0.2], "voc": [5, 5, 9], "csv": [5, 5, 9]}),
    "no number": ("labels-wrong", {
        "coco": ["x", 5, 9, 9], "yolo": ["x", 0.5, 0.2, 0.2], "voc": ["x", 5, 9, 9], "csv": ["x", 5, 9, 9]}),
}  # fmt: skip
FIRST_BOX: dict[formats.Format, Sequence[Any]] = {  # BOXES_XYXY[0]
    "coco": [10, 12, 30, 38],
    "yolo": [25 / 160, 31 / 120, 30 / 160, 38 / 120],
    "voc": [11, 13, 40, 50],
    "csv": [10, 12, 40, 50],
}


def box_faults() -> Iterator[Fault]:
    """Faults of one box's numbers or class."""
    for name, (code, values) in RAW_BOXES.items():
        for kind, numbers in values.items():
            yield Fault(name, kind, frozenset({code}), after=lambda place, n=numbers: place.set_box(n))
    for kind in ALL:
        first = FIRST_BOX[kind]
        yield Fault("twice", kind, frozenset({"box-twice"}), after=lambda p, n=first: p.set_box(n, 0, add=True))
        yield Fault(
            "two classes", kind, frozenset({"box-two-classes"}), after=lambda p, n=first: p.set_box(n, 1, add=True)
        )
        unknown: int | str = {"coco": 8, "yolo": 7}.get(kind, "zebra")
        yield Fault(
            "unknown class", kind, frozenset({"class-unknown"}), after=lambda p, n=first, c=unknown: p.set_box(n, c)
        )
        yield Fault("crowded cell", kind, frozenset({"cell-crowded"}), before=crowd_a_cell)


def with_first(datasets: list[Dataset], **changes: Any) -> list[Dataset]:
    """The data sets with another first training sample."""
    train = datasets[0]
    samples = (replace(train.samples[0], **changes), *train.samples[1:])
    return [replace(train, samples=samples), *datasets[1:]]


def crowd_a_cell(datasets: list[Dataset], _: Path) -> list[Dataset]:
    """Four more objects in one cell of 8 canvas pixels, which are 4 of the photo's."""
    more = [[x, 4, x + 8, 12] for x in (44.2, 45.2, 46.2, 47.2)]
    truth = Detections(SIZE_HW, np.float32([*BOXES_XYXY, *more]), np.array([*LABELS, 0, 0, 0, 0]))
    return with_first(datasets, truth=truth)


def mark_crowd(datasets: list[Dataset], _: Path) -> list[Dataset]:
    truth = datasets[0].samples[0].truth
    return with_first(datasets, truth=replace(truth, crowd=np.array([True, False, False, False])))


def unlabel(datasets: list[Dataset], _: Path) -> list[Dataset]:
    return with_first(datasets, truth=Detections.empty(SIZE_HW, scored=False))


def only_cats(datasets: list[Dataset], split: int) -> list[Dataset]:
    """One split without dogs."""
    samples = tuple(replace(sample, truth=sample.truth[[0, 2]]) for sample in datasets[split])
    return [replace(dataset, samples=samples) if row == split else dataset for row, dataset in enumerate(datasets)]


def rare_dogs(datasets: list[Dataset], _: Path) -> list[Dataset]:
    """Two dogs to train on."""
    train = datasets[0]
    samples = (train.samples[0], *only_cats(datasets, 0)[0].samples[1:])
    return [replace(train, samples=samples), *datasets[1:]]


def more_classes(datasets: list[Dataset], *_: object) -> list[Dataset]:
    return [replace(dataset, class_names=(*CLASSES, "bird"), category_ids=(1, 2, 3)) for dataset in datasets]


def copied(datasets: list[Dataset], folder: Path, split: int, *, exact: bool) -> list[Dataset]:
    """A copy of the first training photo in a split, as it is or smaller and compressed anew."""
    first, path = datasets[0].samples[0], folder / "copy.jpg"
    if exact:
        path.write_bytes(first.image_path.read_bytes())
        truth = first.truth
    else:
        cv2 = load_cv2()
        small = cv2.resize(read_image(first.image_path), (144, 108), interpolation=cv2.INTER_AREA)
        path.write_bytes(cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes())
        truth = Detections((108, 144), first.truth.boxes_xyxy * np.float32(0.9), first.truth.labels)
    extra = Sample("copy.jpg", path, truth, 50)
    return [
        replace(dataset, samples=(*dataset.samples, extra)) if row == split else dataset
        for row, dataset in enumerate(datasets)
    ]


def copy_faults() -> Iterator[Fault]:
    """Copies within a split and across splits, exact and to the eye."""
    codes = {(0, True): "image-copy", (1, True): "leak", (0, False): "image-near-copy", (1, False): "near-leak"}
    for (split, exact), code in codes.items():
        for kind in ALL:
            yield Fault(code, kind, frozenset({code}), before=lambda d, f, s=split, e=exact: copied(d, f, s, exact=e))


def rewrite(change: Callable[[bytes], bytes]) -> After:
    """The first training photo's bytes changed."""
    return lambda place: place.photo.write_bytes(change(place.photo.read_bytes())) and None


def png_of(data: bytes) -> bytes:
    cv2 = load_cv2()
    return cv2.imencode(".png", cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))[1].tobytes()


def photo_faults() -> Iterator[Fault]:
    """Faults of the image files."""
    changes: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
        "zero bytes": ("image-empty", lambda data: b""),
        "truncated": ("image-truncated", lambda data: data[: len(data) * 6 // 10]),
        "cut off in its header": ("image-truncated", lambda data: data[:100]),
        "not an image": ("image-unreadable", lambda data: b"<html>404 not found</html>"),
        "extension lies": ("image-extension", png_of),
    }
    for name, (code, change) in changes.items():
        for kind in ALL:
            yield Fault(name, kind, frozenset({code}), after=rewrite(change))
    for kind, code in zip(
        ALL, ("image-rotated", "image-orientation", "image-rotated", "image-orientation"), strict=True
    ):
        yield Fault("EXIF rotation", kind, frozenset({code}), after=rewrite(lambda data: exif(data, 6)))
        missing = {"yolo": {"labels-orphan"}, "voc": {"image-missing", "labels-orphan"}}.get(kind, {"image-missing"})
        yield Fault("missing photo", kind, frozenset(missing), after=lambda place: place.photo.unlink())
    for kind in ("coco", "voc"):
        yield Fault("wrong size", kind, frozenset({"image-size-wrong"}), after=wrong_size)
    for kind in ("yolo", "voc"):
        twin = rewrite(lambda data: data)
        yield Fault("two photos, one label", kind, frozenset({"image-twice"}), after=lambda p, _=twin: twin_photo(p))


def wrong_size(place: Place) -> None:
    place.edit_text(lambda text: re.sub(r'("width": |<width>)160', r"\g<1>200", text, count=1))


def twin_photo(place: Place) -> None:
    place.photo.with_suffix(".png").write_bytes(png_of((place.photo.parent / "1.jpg").read_bytes()))


def json_fault(name: str, codes: str, change: Callable[[dict[str, Any]], Any]) -> Fault:
    return Fault(
        name, "coco", frozenset(codes.split()), after=lambda place: place.edit_json(lambda d: change(d) and None)
    )


def json_faults() -> Iterator[Fault]:
    """What only COCO can have."""
    yield json_fault("annotation ids twice", "annotation-id-twice", lambda d: d["annotations"][1].update(id=1))
    yield json_fault("annotation id 0", "annotation-id-zero", lambda d: d["annotations"][0].update(id=0))
    yield json_fault("image ids twice", "image-id-twice", one_id_for_two)
    yield json_fault("photo listed twice", "image-twice", lambda d: d["images"].append({**d["images"][0], "id": 99}))
    yield json_fault("category ids twice", "class-id-twice", lambda d: d["categories"].append({"id": 1, "name": "cow"}))
    yield json_fault("orphan annotation", "labels-orphan", lambda d: d["annotations"][0].update(image_id=99))
    yield json_fault("path outside", "path-outside", lambda d: d["images"][0].update(file_name="../../../secret.jpg"))
    yield json_fault("area", "area-wrong", lambda d: d["annotations"][0].update(area="big"))
    yield json_fault("crowd flag", "labels-wrong", lambda d: d["annotations"][0].update(iscrowd=3))
    yield json_fault("points", "points-wrong", points_of_wrong_length)
    yield json_fault("corners for sides", "box-as-corners", corners_for_sides)
    yield json_fault("class lists differ", "class-lists-differ", lambda d: d["categories"][1].update(name="wolf"))
    yield json_fault("no usable size", "image-size-wrong", lambda d: d["images"][0].update(width=-5))
    yield Fault(
        "broken JSON", "coco", frozenset({"labels-unreadable"}), after=lambda p: p.labels.write_text("{") and None
    )


def one_id_for_two(document: dict[str, Any]) -> None:
    first, second = document["images"][:2]
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] != second["id"]]
    second["id"] = first["id"]


def third_category(place: Place, name: str) -> None:
    """A category of that name, in both splits."""
    for file in place.labels.parent.iterdir():
        document = json.loads(file.read_text())
        document["categories"].append({"id": 3, "name": name})
        file.write_text(json.dumps(document))


def points_of_wrong_length(document: dict[str, Any]) -> None:
    for category in document["categories"]:
        category["keypoints"] = ["nose", "tail"]
    document["annotations"][0]["keypoints"] = [1, 2, 2]


def corners_for_sides(document: dict[str, Any]) -> None:
    for entry in document["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x, y, x + w, y + h]


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation>&c;</annotation>'


def text_faults() -> Iterator[Fault]:
    """What only YOLO, VOC or CSV can have."""
    yield Fault("XML bomb", "voc", frozenset({"xml-entities"}), after=lambda p: p.labels.write_text(BOMB) and None)
    yield Fault(
        "broken XML", "voc", frozenset({"labels-unreadable"}), after=lambda p: p.labels.write_text("<a>") and None
    )
    yield Fault("listed, not labelled", "voc", frozenset({"labels-missing"}), after=lambda p: p.labels.unlink())
    yield Fault("orphan label", "voc", frozenset({"labels-orphan"}), after=lambda p: stray(p, p.labels.with_stem("z")))
    yield Fault("orphan label", "yolo", frozenset({"labels-orphan"}), after=lambda p: stray(p, p.labels.with_stem("z")))
    yield Fault("ids from 1", "yolo", frozenset({"class-ids-from-one"}), after=ids_from_one)
    yield Fault(
        "link loop",
        "yolo",
        frozenset({"link-loop"}),
        after=lambda p: (p.photo.parent / "loop").symlink_to(p.photo.parent),
    )
    yield Fault(
        "path outside", "yolo", frozenset({"path-outside"}), after=lambda p: list_photos(p, "../../../secret.jpg")
    )
    yield Fault(
        "photo listed twice", "yolo", frozenset({"image-twice"}), after=lambda p: list_photos(p, "images/train/0.jpg")
    )
    yield Fault(
        "listed, not there", "yolo", frozenset({"image-missing"}), after=lambda p: list_photos(p, "images/train/z.jpg")
    )
    yield Fault("path outside", "csv", frozenset({"path-outside"}), after=lambda p: add_row(p, "../../secret.jpg"))
    yield Fault(
        "photo listed twice", "csv", frozenset({"image-twice"}), after=lambda p: add_row(p, "./images/train/0.jpg")
    )
    yield Fault("in fractions", "csv", frozenset({"box-in-fractions"}), after=fractions)
    names = {"yolo": "data.yaml", "voc": "classes.txt", "csv": "classes.txt"}
    for kind, file in names.items():
        for name, word in (("class name twice", "cat"), ("class name empty", "")):
            code = frozenset({"class-name-twice" if word else "class-name-empty"})
            text = f" {word!r}\n" if kind == "yolo" else f"{word}\n"
            yield Fault(name, kind, code, before=more_classes, after=lambda p, f=file, t=text: rename(p, f, t))
    yield Fault("class name twice", "coco", frozenset({"class-name-twice"}), after=lambda p: third_category(p, "cat"))
    yield Fault("class name empty", "coco", frozenset({"class-name-empty"}), after=lambda p: third_category(p, " "))


def rename(place: Place, file: str, text: str) -> None:
    """The third class renamed; a last empty line would not count, so a fourth follows it."""
    tail = "3: cow\n" if place.format == "yolo" else "cow\n"
    place.edit_text(
        lambda whole: re.sub(r" ?bird\n", text, whole) + ("" if text.strip("' \n") else tail), place.root / file
    )


def stray(place: Place, file: Path) -> None:
    file.write_text(place.labels.read_text().replace("<filename>0.jpg", "<filename>z.jpg"))


def ids_from_one(place: Place) -> None:
    for file in place.root.rglob("labels/*/*.txt"):
        lines = file.read_text().splitlines()
        file.write_text("".join(f"{int(line[0]) + 1}{line[1:]}\n" for line in lines))


def list_photos(place: Place, more: str) -> None:
    """A list file in place of the training folder, with one more line."""
    (place.root / "train.txt").write_text("".join(f"images/train/{k}.jpg\n" for k in range(6)) + f"{more}\n")
    place.edit_text(lambda text: text.replace("train: images/train", "train: train.txt"), place.root / "data.yaml")


def add_row(place: Place, image: str) -> None:
    place.edit_text(lambda text: f"{text}{image},10,12,40,50,cat\n")


def fractions(place: Place) -> None:
    rows = [line.split(",") for line in place.labels.read_text().splitlines()]
    for row in rows[1:]:
        row[1:5] = [str(float(value) / side) for value, side in zip(row[1:5], (160, 120, 160, 120), strict=True)]
    place.labels.write_text("\n".join([",".join(row) for row in rows] + [""]))


def set_faults() -> Iterator[Fault]:
    """What concerns classes and splits."""
    befores: dict[str, Before] = {
        "image-unlabelled": unlabel,
        "class-unused": more_classes,
        "class-missing-in-split": lambda datasets, _: only_cats(datasets, 1),
        "class-rare": rare_dogs,
    }
    for code, before in befores.items():
        for kind in ALL:
            yield Fault(code, kind, frozenset({code}), before=before)
    for kind in ("coco", "voc", "csv"):
        yield Fault("crowd", kind, frozenset({"crowd"}), before=mark_crowd)


FAULTS = [*box_faults(), *photo_faults(), *copy_faults(), *json_faults(), *text_faults(), *set_faults()]
