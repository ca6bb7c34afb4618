"""Stored results: COCO's results format, or what `detkit detect` wrote; which of the two, the content says."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.data.label_files import read_bytes, short
from detkit.errors import DataError
from detkit.evaluate.columns import Results
from detkit.evaluate.detect_coco import by_name
from detkit.evaluate.detect_records import read_records
from detkit.evaluate.result_rows import NUMBERS, PhotoNames, Rows, as_floats, assemble, check_rows, listed

EXPECTED = "a list of {image_id, category_id, bbox, score}, or what `detkit detect` writes as JSONL or JSON"
RUN_FILE = "detections.jsonl"  # in a folder that `detkit detect` wrote

_RECORD = frozenset({"detections", "error"})  # a key that no result of COCO's format has
_KEYS = ("image_id", "category_id", "score")


def read_results(path: Path, dataset: Dataset) -> Results:
    """Read stored detections for a data set; coordinates and scores stay exactly as they are given.

    Args:
        path: COCO's results list (JSON), the JSONL or the JSON document of `detkit detect`, or its folder. Photos are
            told by image id in the first, by path or unique file name in the others; classes by id or by name.
        dataset: photos without results count as empty.
    Returns:
        One `Detections` per sample, in the data set's order, and notes on the file.
    Raises:
        DataError: the file is not results, or not of these photos and classes, or holds what nobody can score.
    """
    if path.is_dir():
        if not (path / RUN_FILE).is_file():
            raise DataError("no results in this folder", file=path, expected=RUN_FILE)
        path = path / RUN_FILE
    content = read_bytes(path)
    with _no_collection():
        rows, where, notes = _read(content, dataset, path)
    check_rows(rows, path, where)
    return assemble(rows, dataset, notes)


def _read(
    content: bytes, dataset: Dataset, path: Path
) -> tuple[Rows, Callable[[int], tuple[str, int | None]], list[str]]:
    """The detections, how to name each in a message, and notes."""
    lines = _as_lines(content, path)
    if lines is not None:
        return read_records(lines, dataset, path)
    document = _parsed(content, path)
    pictures = document.get("images") if type(document) is dict else document
    if type(pictures) is list and pictures and type(pictures[0]) is dict and _RECORD & pictures[0].keys():
        model = {"kind": "run", "model": document.get("model")} if type(document) is dict else {"kind": "run"}
        return read_records([(None, model), *((None, row) for row in pictures)], dataset, path)
    if type(document) is dict and {"annotations", "categories", "images"} & document.keys():
        found = f"an object with {listed(document)}"
        raise DataError("this is a label file, not results", file=path, found=found, expected=EXPECTED)
    if type(document) is not list:
        raise DataError("these are no results", file=path, found=short(document), expected=EXPECTED)
    return _coco_rows(by_name(document, path, dataset), dataset, path), lambda i: (f"results[{i}]", None), []


def _as_lines(content: bytes, path: Path) -> list[tuple[int, Any]] | None:
    """The records of a JSONL file with their line numbers; None where the file is no JSONL."""
    content = content.removeprefix(b"\xef\xbb\xbf").strip()
    if content[:1] != b"{":
        return None
    first, *rest = content.split(b"\n")
    try:
        head = json.loads(first)
    except ValueError:
        if rest:
            return None  # an object over several lines
        head = None
    if not rest and (type(head) is not dict or not {"kind", "detections"} & head.keys()):
        return None  # one object, and no record
    numbered = enumerate(content.split(b"\n"), start=1)
    return [(number, _parsed(line, path, number)) for number, line in numbered if line.strip()]


def _parsed(content: bytes, path: Path, line: int | None = None) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        at_end = error.msg.startswith("Unterminated string") or not error.doc[error.pos :].strip()
        what = "the JSON ends too early, a part is missing" if at_end else f"not valid JSON: {error.msg}"
        raise DataError(f"{what} (column {error.colno})", file=path, line=line or error.lineno) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, endless digits, endless nesting
        raise DataError(f"not valid JSON: {short(str(error))}", file=path, line=line, expected=EXPECTED) from error


def _coco_rows(entries: Sequence[Any], dataset: Dataset, path: Path) -> Rows:
    """COCO's results list as rows; all that is wrong with types and ids is refused here."""
    points_only = bool(entries and dataset.point_names and type(entries[0]) is dict and "bbox" not in entries[0])
    columns = _columns_of(entries, [*_KEYS, "keypoints" if points_only else "bbox"], path)
    images, categories, scores, boxes = columns
    _check_types(images, frozenset({int, str}), "image_id", "a whole number", path)
    _check_types(categories, frozenset({int}), "category_id", "a whole number", path)
    _check_types(scores, NUMBERS, "score", "a number from 0 to 1", path)
    points_xyv = None
    if dataset.point_names and any("keypoints" in entry for entry in entries):
        points_xyv = _points(boxes if points_only else [e.get("keypoints") for e in entries], dataset, path)
    if points_only and points_xyv is not None:
        low_xy, high_xy = points_xyv[..., :2].min(axis=1), points_xyv[..., :2].max(axis=1)
        boxes_xywh = np.hstack([low_xy, high_xy - low_xy])  # as pycocotools takes the box of points
    else:
        boxes_xywh = _numbers(boxes, 4, "bbox", "[x, y, width, height] in pixels", path)
    photos, labels = _photos(images, dataset, path), _labels(categories, dataset, path)
    return Rows(photos, labels, boxes_xywh, as_floats(scores), points_xyv)


def _points(rows: Sequence[Any], dataset: Dataset, path: Path) -> NDArray[np.float64]:
    count = len(dataset.point_names)
    expected = f"{3 * count} numbers: x, y and visibility of {count} points"
    return _numbers(rows, 3 * count, "keypoints", expected, path).reshape(len(rows), count, 3)


def _columns_of(entries: Sequence[Any], keys: Sequence[str], path: Path) -> list[list[Any]]:
    """The values of each key in turn."""
    try:
        return [list(map(itemgetter(key), entries)) for key in keys]
    except (KeyError, TypeError, IndexError):
        position, entry = next(
            (k, e) for k, e in enumerate(entries) if type(e) is not dict or not set(keys) <= e.keys()
        )
    if type(entry) is not dict:
        raise DataError(f"results[{position}] is no result", file=path, found=short(entry), expected=EXPECTED)
    missing = ", ".join(key for key in keys if key not in entry)
    what = f"results[{position}] has no {missing}"
    raise DataError(what, file=path, found=listed(entry) or "nothing", expected=", ".join(keys))


def _check_types(values: Sequence[Any], allowed: frozenset[type], key: str, expected: str, path: Path) -> None:
    if not allowed.issuperset(map(type, values)):
        first = next(k for k, value in enumerate(values) if type(value) not in allowed)
        raise DataError(f"results[{first}]: {key} is wrong", file=path, found=short(values[first]), expected=expected)


def _numbers(rows: Sequence[Any], width: int, key: str, expected: str, path: Path) -> NDArray[np.float64]:
    """Lists of `width` numbers each, [N, width]."""
    _check_types(rows, frozenset({list}), key, expected, path)
    flat = list(chain.from_iterable(rows))
    if not NUMBERS.issuperset(map(type, flat)) or not {width}.issuperset(map(len, rows)):
        wrong = (k for k, row in enumerate(rows) if len(row) != width or not NUMBERS.issuperset(map(type, row)))
        first = next(wrong)
        raise DataError(f"results[{first}]: {key} is wrong", file=path, found=short(rows[first]), expected=expected)
    return as_floats(flat).reshape(-1, width)


def _photos(images: Sequence[int | str], dataset: Dataset, path: Path) -> NDArray[np.int64]:
    """The position of each image id; text is looked up as a file name, with or without its suffix."""
    position_of: dict[int | str, int] = {sample.image_id: k for k, sample in enumerate(dataset)}
    texts = {image for image in images if type(image) is str}
    if texts:
        names = PhotoNames(dataset)
        stems = [Path(sample.name).stem for sample in dataset]
        often = Counter(stems)
        position_of |= {stem: k for k, stem in enumerate(stems) if often[stem] == 1}
        position_of |= {text: found[0] for text in texts if len(found := names.find(text)) == 1}
    photos = list(map(position_of.get, images))
    if None in photos:
        unknown = dict.fromkeys(image for image, photo in zip(images, photos, strict=True) if photo is None)
        what = "1 image" if len(unknown) == 1 else f"{len(unknown)} images"
        ids = [sample.image_id for sample in dataset]
        raise DataError(
            f"results for {what} that the data do not have (first in results[{photos.index(None)}])",
            file=path,
            found=f"image_id {listed(map(short, unknown))}",
            expected=f"the image ids of {dataset.source.name}: {listed(ids) or 'none'}",
        )
    return np.array(photos, np.int64)


def _labels(categories: Sequence[int], dataset: Dataset, path: Path) -> NDArray[np.int64]:
    label_of = {category_id: label for label, category_id in enumerate(dataset.category_ids)}
    labels = list(map(label_of.get, categories))
    if None in labels:
        used = sorted(set(categories))
        unknown = [category for category in used if category not in label_of]
        what = "a category" if len(unknown) == 1 else f"{len(unknown)} categories"
        named = (f"{i} ({name})" for i, name in zip(dataset.category_ids, dataset.class_names, strict=True))
        first = f"first in results[{labels.index(None)}]"
        raise DataError(
            f"results of {what} that the data do not have ({first}){_shift(used, dataset)}",
            file=path,
            found=f"category_id {listed(map(short, unknown))}",
            expected=listed(named),
        )
    return np.array(labels, np.int64)


def _shift(used: Sequence[int], dataset: Dataset) -> str:
    """What mistake would explain category ids that are not the data's, or nothing."""
    known, count = set(dataset.category_ids), len(dataset.category_ids)
    if all(category + 1 in known for category in used):
        return ": each id is one too low, as if classes were counted from 0; add 1"
    if all(category - 1 in known for category in used):
        return ": each id is one too high, as if classes were counted from 1; subtract 1"
    for first in (0, 1):
        if used[0] >= first and used[-1] < first + count:
            return f": they look like class numbers from {first} on; write the label file's category ids instead"
    return ""


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the search for reference cycles, which makes a large JSON file take twice as long or longer."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
