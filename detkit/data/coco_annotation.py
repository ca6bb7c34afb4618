"""One entry of COCO's `annotations`, checked: its box, class, crowd flag and area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from detkit.data.findings import Fault
from detkit.data.label_files import short, wrong

NUMBERS = frozenset({int, float})
_LIMIT_PX = 10**9  # no photo's coordinate is beyond; NaN and infinity are not below it either
_Entry = Mapping[str, Any]  # one JSON object


def read_annotation(
    annotation: _Entry, place_of: Mapping[int, tuple[int, int, int] | None], label_of: Mapping[int, int]
) -> tuple[float, ...] | None:
    """Photo, label, x, y, w, h, crowd and area of one annotation; None where its photo is left out."""
    number, category, crowd = annotation.get("image_id"), annotation.get("category_id"), annotation.get("iscrowd", 0)
    if type(number) is not int or number not in place_of:
        what = "a label for a photo that is not in the list"
        raise wrong(what, None, number, "an image's id", code="labels-orphan")
    if (place := place_of[number]) is None:
        return None
    if type(category) is not int or category not in label_of:
        raise wrong("unknown category_id", None, category, f"one of {short(list(label_of))}", code="class-unknown")
    if crowd not in (0, 1):
        raise wrong("iscrowd is wrong", None, crowd, "0 or 1")
    photo, height, width = place
    fault = None
    try:
        box = _box_xywh(annotation, width, height)
    except Fault as error:
        if error.mended is None:
            raise
        box, fault = error.mended, error
    area = annotation.get("area")
    if fault is None and area is not None and (type(area) not in NUMBERS or not 0 <= area < _LIMIT_PX**2):
        fault = wrong("the area is wrong", None, area, "square pixels", code="area-wrong")
    area = box[2] * box[3] if area is None or fault is not None else area
    row = photo, label_of[category], *box, crowd, area
    if fault is not None:
        fault.mended = row
        raise fault
    return row


def _box_xywh(annotation: _Entry, width: int, height: int) -> Sequence[float]:
    box = annotation["bbox"] if "bbox" in annotation else _polygon_box_xywh(annotation.get("segmentation"))
    if not box and annotation.get("keypoints"):
        raise wrong("there are keypoints but no bbox", None, box, "[x, y, width, height] in pixels, around the object")
    if type(box) is not list or len(box) != 4 or not NUMBERS.issuperset(map(type, box)):
        raise wrong("the bbox is wrong", None, box, "[x, y, width, height] in pixels")
    x, y, w, h = box
    if not all(-_LIMIT_PX < value < _LIMIT_PX for value in box):
        raise wrong("the bbox is not finite", None, box, "[x, y, width, height] in pixels", code="box-not-finite")
    if not (np.float32(x + w) > np.float32(x) and np.float32(y + h) > np.float32(y)):
        raise _no_area(box, width, height)
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        what = f"the bbox lies outside its {width}x{height} photo"
        raise wrong(what, None, [x, y, w, h], "a box on the photo", code="box-outside")
    if x + w <= 1 and y + h <= 1 and not all(value == int(value) for value in box):
        mended = x * width, y * height, w * width, h * height
        what, expected = "the bbox is in fractions of the photo", "[x, y, width, height] in pixels"
        raise wrong(what, None, box, expected, code="box-in-fractions", mended=mended)
    return box


def _no_area(box_xywh: Sequence[float], width: int, height: int) -> Fault:
    """A box whose corners are swapped, which can be mended, or that has no area at all."""
    x, y, w, h = box_xywh
    if w >= 0 and h >= 0:
        return wrong("the bbox has no area", None, box_xywh, "width and height above 0", code="box-empty")
    x, y, w, h = mended = min(x, x + w), min(y, y + h), abs(w), abs(h)
    sound = w * h > 0 and 0 < x + w and x < width and 0 < y + h and y < height
    what = "the bbox has a negative side, so no area"
    expected = "width and height above 0"
    return wrong(what, None, box_xywh, expected, code="box-inverted", mended=mended if sound else None)


def _polygon_box_xywh(segmentation: Any) -> list[float] | None:
    """The box around COCO polygons [[x, y, x, y, ...], ...]; None when they are none."""
    if type(segmentation) is not list or not all(type(ring) is list and len(ring) % 2 == 0 for ring in segmentation):
        return None
    values = list(chain.from_iterable(segmentation))
    if len(values) < 6 or not NUMBERS.issuperset(map(type, values)):
        return None
    xs, ys = values[0::2], values[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
