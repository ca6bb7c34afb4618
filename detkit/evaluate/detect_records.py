"""What `detkit detect` wrote, as results to be measured: its records, one per photo, matched by the photo's name."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.data.label_files import short
from detkit.errors import DataError
from detkit.evaluate.result_rows import NUMBERS, PhotoNames, Rows, as_floats, listed

CONF_TO_MEASURE = 0.05  # a run that kept only boxes above a higher confidence has a cut-off curve

_Line = tuple[int | None, Any]  # line number where there is one, and the record


class _Reader:
    """Collects the detections of records that come one after the other."""

    def __init__(self, dataset: Dataset, file: Path) -> None:
        self.dataset, self.file = dataset, file
        self.names = PhotoNames(dataset)
        self.label_of = {name: label for label, name in enumerate(dataset.class_names)}
        self.places: list[tuple[int, str, int | None]] = []  # first row, photo's name and line of each record
        self.seen: dict[int, str] = {}
        self.unknown: dict[str, int | None] = {}
        self.classes: list[Any] = []
        self.scores: list[Any] = []
        self.boxes: list[Any] = []
        self.points: list[Any] = []
        self.photos: list[int] = []
        self.unreadable = 0
        self.conf: float | None = None

    def wrong(self, what: str, line: int | None, found: object = None, expected: object = None) -> DataError:
        return DataError(what, file=self.file, line=line, found=found, expected=expected)

    def take(self, record: Any, line: int | None) -> None:
        """One record of any kind."""
        kind = record.get("kind", "error" if "error" in record else "photo") if type(record) is dict else None
        if kind == "run":
            self._take_run(record)
        elif kind == "error":
            self.unreadable += 1
        elif kind == "photo":
            self._take_photo(record, line)
        elif kind in ("frame", "video"):
            raise self.wrong("results of a video; labels belong to photos", line, record.get("name"), "photos")
        else:
            raise self.wrong("not a record of `detkit detect`", line, short(record), '{"kind": "photo", "name": ...}')

    def _take_run(self, record: dict[str, Any]) -> None:
        for values in (record.get("settings"), record.get("model")):
            conf = values.get("conf") if type(values) is dict else None
            self.conf = conf if type(conf) in NUMBERS else self.conf

    def _take_photo(self, record: dict[str, Any], line: int | None) -> None:
        name, found = record.get("name"), record.get("detections")
        if type(name) is not str or type(found) is not list or not all(type(row) is dict for row in found):
            raise self.wrong("a photo's record is wrong", line, short(record), "name and detections")
        positions = self.names.find(name)
        if len(positions) > 1:
            what = f"{name}: which photo is it? {len(positions)} of the data have this file name"
            raise self.wrong(what, line, expected="the path below the data set's folder")
        if not positions:
            self.unknown.setdefault(name, line)
            return
        if positions[0] in self.seen:
            raise self.wrong(f"{name}: results for this photo come twice", line, self.seen[positions[0]], "one record")
        self.seen[positions[0]] = name
        height, width = self.dataset.samples[positions[0]].truth.size_hw
        own = record.get("width", width), record.get("height", height)
        if own != (width, height):
            expected = f"{width}x{height} px"
            raise self.wrong(f"{name}: the photo has another size", line, f"{own[0]}x{own[1]} px", expected)
        self.places.append((len(self.classes), name, line))
        self._take_rows(found, name, line)
        self.photos += positions * len(found)

    def _take_rows(self, rows: Sequence[dict[str, Any]], name: str, line: int | None) -> None:
        for position, row in enumerate(rows):
            box, score = row.get("box_xyxy"), row.get("score")
            fits = type(box) is list and len(box) == 4 and NUMBERS.issuperset(map(type, box))
            if not fits or type(score) not in NUMBERS or type(row.get("class")) is not str:
                expected = "class, score (0 to 1) and box_xyxy (4 pixel values)"
                raise self.wrong(f"{name}, detections[{position}] is wrong", line, short(row), expected)
            self.classes.append(row["class"])
            self.scores.append(score)
            self.boxes.extend(row["box_xyxy"])
            self.points.append(row.get("points"))

    def where(self, row: int) -> tuple[str, int | None]:
        """The i-th detection in words, and its line."""
        first, name, line = self.places[bisect_right(self.places, row, key=lambda place: place[0]) - 1]
        return f"{name}, detections[{row - first}]", line

    def rows(self) -> Rows:
        """Everything taken, as a table."""
        self._check_known()
        labels = list(map(self.label_of.get, self.classes))
        if None in labels:
            self._refuse_classes(labels)
        boxes_xyxy = as_floats(self.boxes).reshape(-1, 4)
        with np.errstate(invalid="ignore"):  # what is not finite is refused by name
            boxes_xywh = np.hstack([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]])
        photos = np.array(self.photos, np.int64)
        return Rows(photos, np.array(labels, np.int64), boxes_xywh, as_floats(self.scores), self._points_xyv())

    def _check_known(self) -> None:
        if not self.unknown:
            return
        count = len(self.unknown)
        what = "a photo" if count == 1 else f"{count} photos"
        expected = f"photos of {self.dataset.source.name}: {listed(sample.name for sample in self.dataset)}"
        line = next(iter(self.unknown.values()))
        raise self.wrong(f"results for {what} that the data do not have", line, listed(self.unknown), expected)

    def _refuse_classes(self, labels: Sequence[int | None]) -> None:
        unknown = list(dict.fromkeys(name for name in self.classes if name not in self.label_of))
        folded = {name.casefold() for name in self.label_of}
        case = all(name.casefold() in folded for name in unknown)
        what = "the class names do not fit: " + (
            "they differ in upper and lower case" if case else "the data do not have all of them"
        )
        place, line = self.where(labels.index(None))
        raise self.wrong(f"{what} (first in {place})", line, listed(unknown), listed(self.dataset.class_names))

    def _points_xyv(self) -> NDArray[np.float64] | None:
        """Points in the data set's order, zeros where a detection has none; None where nothing has any."""
        names = self.dataset.point_names
        if not names or not any(self.points):
            return None
        table = np.zeros((len(self.points), len(names), 3))
        for row, points in enumerate(self.points):
            if points is None:
                continue
            try:
                table[row] = [points[name] for name in names]
            except (KeyError, TypeError, ValueError, OverflowError):
                place, line = self.where(row)
                expected = f"[x, y, visibility] for {listed(names)}"
                raise self.wrong(f"{place}: the points do not fit", line, short(points), expected) from None
        return table

    def notes(self) -> list[str]:
        """What a reader of the figures should know."""
        notes = []
        if self.unreadable:
            notes.append(f"{self.unreadable} photos could not be read when the results were made")
        if self.conf is not None and self.conf > CONF_TO_MEASURE:
            notes.append(
                f"the results hold only boxes of confidence {self.conf:g} and more, so AP and recall are lower than "
                "the model's: make them with --conf 0.001"
            )
        return notes


def read_records(
    lines: Sequence[_Line], dataset: Dataset, file: Path
) -> tuple[Rows, Callable[[int], tuple[str, int | None]], list[str]]:
    """The detections of records of `detkit detect`, how to name each in a message, and notes.

    Args:
        lines: each record and the line it stands on (None for one in a JSON document).
        dataset: whose photos they are of, told by path or unique file name, and whose class names they bear.
        file: for messages.
    Raises:
        DataError: an unknown photo or class, a photo that comes twice, or a record that is none.
    """
    reader = _Reader(dataset, file)
    for line, record in lines:
        reader.take(record, line)
    return reader.rows(), reader.where, reader.notes()
