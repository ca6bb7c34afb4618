"""A corpus of planted faults: small data sets cut from real photos, sound but for one fault of a known kind.

`plant` makes the data set; the kinds of fault are listed in `planted_faults`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detkit.data import formats
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.images import read_image, write_image

PHOTOS = Path(__file__).parent / "data" / "photos"
SIZE_HW = 120, 160
BOXES_XYXY = [[10.0, 12, 40, 50], [50, 20, 100, 60], [15, 60, 45, 100], [60, 70, 105, 110]]
LABELS = [0, 1, 0, 1]
CLASSES = ("cat", "dog")
ALL: tuple[formats.Format, ...] = ("coco", "yolo", "voc", "csv")
Before = Callable[[list[Dataset], Path], list[Dataset]]
After = Callable[["Place"], None]


@functools.cache
def pictures() -> list[Any]:
    """The real photos."""
    return [read_image(path) for path in sorted(PHOTOS.glob("*.jpg"))]


def crops(folder: Path, count: int) -> list[Path]:
    """Small pieces of real photos, no two alike."""
    height, width = SIZE_HW
    paths = []
    for number in range(count):
        picture = pictures()[number % 3]
        row, column = divmod(number // 3, 2)
        top = row * (picture.shape[0] - height) // 2
        left = column * (picture.shape[1] - width)
        paths.append(folder / f"{number}.jpg")
        write_image(paths[-1], picture[top : top + height, left : left + width])
    return paths


def sound(folder: Path) -> list[Dataset]:
    """Six photos to train on and three to validate, four boxes of two classes on each."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = Detections(SIZE_HW, np.float32(BOXES_XYXY), np.array(LABELS))
    samples = [Sample(path.name, path, truth, number) for number, path in enumerate(crops(folder, 9), 1)]
    parts = (("train", samples[:6]), ("val", samples[6:]))
    return [Dataset("planted", CLASSES, tuple(own), folder, "coco", name, (1, 2)) for name, own in parts]


@dataclass(frozen=True)
class Place:
    """A data set on disk, and ways to edit its first training photo's labels whatever the format."""

    root: Path
    format: formats.Format

    @property
    def photo(self) -> Path:
        inner = "JPEGImages" if self.format == "voc" else "images/train"
        return self.root / inner / "0.jpg"

    @property
    def labels(self) -> Path:
        return (
            self.root
            / {
                "coco": "annotations/instances_train.json",
                "yolo": "labels/train/0.txt",
                "voc": "Annotations/0.xml",
                "csv": "train.csv",
            }[self.format]
        )

    def edit_json(self, change: Callable[[dict[str, Any]], None]) -> None:
        document = json.loads(self.labels.read_text())
        change(document)
        self.labels.write_text(json.dumps(document))

    def edit_text(self, change: Callable[[str], str], file: Path | None = None) -> None:
        file = file or self.labels
        text = file.read_text()
        changed = change(text)
        assert changed != text, "the fault was not planted"
        file.write_text(changed)

    def set_box(self, values: Sequence[Any], label: int | str | None = None, *, add: bool = False) -> None:
        """Give the first box these numbers, as the format has them, or add such a box."""
        if self.format == "coco":
            self.edit_json(lambda document: self._set_json(document, values, label, add))
            return
        lines = self.labels.read_text().splitlines()
        if self.format == "voc":
            text = self.labels.read_text()
            thing = re.search(r"  <object>.*?</object>\n", text, re.S)
            assert thing is not None
            corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), values, strict=False))
            inner = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
            name = CLASSES[label] if isinstance(label, int) else label or "cat"
            new = f"  <object><name>{name}</name><difficult>0</difficult><bndbox>{inner}</bndbox></object>\n"
            self.labels.write_text(text.replace(thing[0], thing[0] + new if add else new))
            return
        if self.format == "yolo":
            row = 0
            new = " ".join(map(str, [0 if label is None else label, *values]))
        else:
            row = 1
            name = CLASSES[label] if isinstance(label, int) else label or "cat"
            new = ",".join(map(str, [lines[1].split(",")[0], *values, name]))
        lines[row : row + (not add)] = [new]
        self.labels.write_text("\n".join([*lines, ""]))

    def _set_json(self, document: dict[str, Any], values: Sequence[Any], label: int | str | None, add: bool) -> None:
        entries = document["annotations"]
        if add:
            entries.append({**entries[0], "id": len(entries) + 1})
        entry = entries[-1] if add else entries[0]
        entry["bbox"] = list(values)
        entry.pop("area", None)
        if label is not None:
            entry["category_id"] = label + 1 if isinstance(label, int) else label


@dataclass(frozen=True)
class Fault:
    """One kind of fault in one format: what is done before or after writing, and the codes a check must give.

    `expected` are all errors it must name, or, for a warning or note, that; further warnings may be true as well.
    """

    name: str
    format: formats.Format
    expected: frozenset[str]
    before: Before | None = None
    after: After | None = None


def plant(fault: Fault, folder: Path) -> Path:
    """Make the data set with the fault; gives its folder."""
    datasets = sound(folder / "source")
    if fault.before is not None:
        datasets = fault.before(datasets, folder / "source")
    root = folder / "planted"
    formats.write(datasets, root, fault.format)
    for photo in root.rglob("*.jpg"):  # their own bytes, not links to the source
        data = photo.read_bytes()
        photo.unlink()
        photo.write_bytes(data)
    if fault.after is not None:
        fault.after(Place(root, fault.format))
    return root


def exif(data: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF block that turns it."""
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + orientation.to_bytes(2, "big") + b"\0\0\0\0\0\0"
    block = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]
