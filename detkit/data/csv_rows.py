"""One CSV file of boxes, checked: one row per box, `image,x1,y1,x2,y2,label` in pixels.

The columns may come in any order and under the names other tools give them (`COLUMNS`); without a header they are
those six in that order, as RetinaNet's tools write them. Columns of any other name do not count.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import numpy as np

from detkit.data.findings import Fault
from detkit.data.label_files import placed, read_bytes, wrong
from detkit.errors import DataError

COLUMNS = {
    "image": ("image", "filename", "file_name", "image_path", "path"),
    "x1": ("x1", "xmin", "x_min"),
    "y1": ("y1", "ymin", "y_min"),
    "x2": ("x2", "xmax", "x_max"),
    "y2": ("y2", "ymax", "y_max"),
    "label": ("label", "class", "class_name", "label_name"),
    "width": ("width", "image_width"),
    "height": ("height", "image_height"),
    "crowd": ("crowd", "iscrowd", "difficult"),
}
PLAIN = ("image", "x1", "y1", "x2", "y2", "label")
_CORNERS = PLAIN[1:5]
_REFUSED = {"split": "one file per split", "score": "labels, not predictions", "confidence": "labels, not predictions"}
_MEANINGS = {name: meaning for meaning, names in COLUMNS.items() for name in names}
_FLAGS = {"": False, "0": False, "1": True, "false": False, "true": True}
_LIMIT_PX = 1e9


@dataclass(slots=True)
class CsvPhoto:
    """What the rows of one photo say: boxes [N, 4] with class names, flags and lines; the line of the first row."""

    line: int
    size_hw: tuple[int, int] | None
    boxes_xyxy: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    says_empty: bool = False


@dataclass(slots=True)
class CsvTable:
    """What a file says of each photo, by the name it gives it, in the order of their first rows; and its faults.

    A fault of a single row stands beside the name of the photo it concerns. `in_fractions`: all boxes lie within the
    first pixel, so they are fractions of the photo.
    """

    file: Path
    photos: dict[str, CsvPhoto] = field(default_factory=dict)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    in_fractions: bool = False


def looks_right(file: Path) -> bool:
    """Whether the first line is that of a table of boxes."""
    with file.open("rb") as stream:
        start = stream.readline(10_000).decode("utf-8-sig", errors="replace")
    try:
        cells = next(csv.reader([start]), [])
    except csv.Error:
        return False
    return _is_row(cells) or {_MEANINGS.get(cell.strip().lower()) for cell in cells}.issuperset(PLAIN)


def parse_csv(file: Path) -> CsvTable:
    """Read one label file.

    Raises:
        DataError: the file as a whole cannot be used.
    """
    try:
        text = read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text (byte {error.start})", file=file) from error
    table = CsvTable(file)
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            is_header = not columns and not _is_row(cells)
            columns = columns or _columns(cells)
            if not is_header:
                _add_row(table, cells, columns, reader.line_num)
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", file=file, line=reader.line_num) from error
    except Fault as fault:
        raise placed(fault, fault.message, file, reader.line_num) from None
    if not table.photos and not table.faults:
        raise DataError("no images", file=file, expected="at least one row")
    corners = [value for photo in table.photos.values() for box in photo.boxes_xyxy for value in box]
    table.in_fractions = bool(corners) and max(corners) <= 1 and not all(value.is_integer() for value in corners)
    return table


def _is_row(cells: Sequence[str]) -> bool:
    """Whether a first line is no header: six fields, the inner four numbers or empty."""
    corners = [cell.strip() for cell in cells[1:5]]
    return len(cells) == len(PLAIN) and (not any([*corners, cells[5].strip()]) or all(map(_is_number, corners)))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _columns(cells: Sequence[str]) -> list[str]:
    """The meaning of each column, "" for one that does not count, from a header; the six where there is none."""
    if _is_row(cells):
        return list(PLAIN)
    titles = [cell.strip().lower() for cell in cells]
    meanings = [_MEANINGS.get(title, "") for title in titles]
    for title in (title for title in titles if title in _REFUSED):
        raise wrong(f"a column {title!r}", None, list(cells), _REFUSED[title])
    missing = [name for name in PLAIN if name not in meanings]
    twice = [name for name in COLUMNS if meanings.count(name) > 1]
    if missing or twice:
        problem = f"no column {', '.join(missing)}" if missing else f"two columns for {twice[0]}"
        hint = "; fields are separated by commas" if len(cells) == 1 and ";" in cells[0] else ""
        raise wrong(f"not a table of boxes: {problem}", None, list(cells), ",".join(PLAIN) + hint)
    return meanings


def _add_row(table: CsvTable, cells: Sequence[str], columns: Sequence[str], line: int) -> None:
    """Add one row to its photo; a row that cannot be used becomes a fault."""
    row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
    name = row.get("image", "")
    try:
        if len(cells) != len(columns):
            raise wrong(f"a row of {len(cells)} fields", None, list(cells), f"{len(columns)}, like the first row")
        if not name:
            raise wrong("a row without an image", None, list(cells), "its path")
        size_hw = _size_hw(row.get("height", ""), row.get("width", ""))
        photo = table.photos.get(name)
        if photo is None:
            photo = table.photos[name] = CsvPhoto(line, size_hw)
        elif photo.says_empty or not any(row[part] for part in PLAIN[1:]):
            what = f"the image stands in line {photo.line} too, and one of the two says that it has no boxes"
            raise wrong(what, None, list(cells), "one of them")
        if size_hw != photo.size_hw:
            raise wrong(f"another size than in line {photo.line}", None, size_hw, f"{photo.size_hw} (height, width)")
        photo.says_empty = not any(row[part] for part in PLAIN[1:])
        if not photo.says_empty:
            _add_box(photo, row, line)
    except Fault as fault:
        lost = fault.mended is None and any(row.get(part) for part in PLAIN[1:])
        table.faults.append((name, placed(fault, fault.message, table.file, line, boxes=int(lost))))
        if fault.mended is not None and name in table.photos:
            row |= dict(zip(_CORNERS, map(str, fault.mended), strict=True))
            _add_box(table.photos[name], row, line)


def _size_hw(height: str, width: str) -> tuple[int, int] | None:
    if not height and not width:
        return None
    if not all(side.isascii() and side.isdigit() and len(side) < 7 and int(side) > 0 for side in (height, width)):
        raise wrong("the image's size is wrong", None, [height, width], "height and width in pixels")
    return int(height), int(width)


def _add_box(photo: CsvPhoto, row: dict[str, str], line: int) -> None:
    flag = row.get("crowd", "").lower()
    if flag not in _FLAGS or not row["label"]:
        raise wrong("the label or the crowd flag is wrong", None, [row["label"], flag], "a class name, and 0 or 1")
    photo.boxes_xyxy.append(_box_xyxy([row[name] for name in _CORNERS]))
    photo.names.append(row["label"])
    photo.crowd.append(_FLAGS[flag])
    photo.lines.append(line)


def _box_xyxy(texts: list[str]) -> list[float]:
    try:
        corners = [float(text.replace("_", "?")) for text in texts]  # Python would take 1_0 for 10
    except ValueError:
        raise wrong("the box is wrong", None, texts, "x1, y1, x2, y2 in pixels") from None
    if not all(abs(value) < _LIMIT_PX for value in corners):
        raise wrong("the box is not finite", None, texts, "x1, y1, x2, y2 in pixels", code="box-not-finite")
    x1, y1, x2, y2 = np.array(corners, np.float32).tolist()
    if x1 == x2 or y1 == y2:
        raise wrong("the box has no area", None, texts, "x2 and y2 above x1 and y1", code="box-empty")
    if x1 > x2 or y1 > y2:
        mended = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
        expected = "x2 and y2 above x1 and y1"
        raise wrong("the box's corners are swapped", None, texts, expected, code="box-inverted", mended=mended)
    return corners
