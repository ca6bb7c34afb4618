"""One label file of Pascal VOC, checked.

VOC counts pixels from 1 and includes the last one: xmin = x1 + 1 and xmax = x2. That is undone here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from detkit.data.findings import Fault
from detkit.data.label_files import placed, read_bytes, short, wrong
from detkit.errors import DataError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"0": False, "1": True, "false": False, "true": True}
_LIMIT_PX = 1e9


@dataclass(frozen=True, slots=True)
class XmlLabels:
    """What one XML file says: boxes [N, 4] with their class names, flags and 1-based numbers in the file."""

    file: Path
    photo_name: str
    size_hw: tuple[int, int] | None
    names: list[str]
    boxes_xyxy: list[Sequence[float]]
    difficult: list[bool]
    numbers: list[int]
    faults: list[Fault]


def parse_xml(file: Path) -> XmlLabels:
    """Read one label file; what is wrong with single objects is in `faults`.

    Raises:
        DataError: the file as a whole cannot be used.
    """
    try:
        root = ElementTree.fromstring(read_bytes(file))
    except ElementTree.ParseError as error:
        raise DataError(f"not valid XML: {error.msg}", file=file, line=error.position[0]) from error
    except DefusedXmlException as error:
        raise Fault("xml-entities", "XML entities are refused", file=file) from error
    except (ValueError, LookupError) as error:  # an encoding nobody knows
        raise DataError(f"not valid XML: {short(str(error))}", file=file) from error
    if root.tag != "annotation":
        raise wrong("not a VOC label file", file, root.tag, "<annotation>")
    sides = [root.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    sized = all(side.isascii() and side.isdigit() and 0 < int(side[:7]) and len(side) < 7 for side in sides)
    size_hw = (int(sides[0]), int(sides[1])) if sized else None
    labels = XmlLabels(file, root.findtext("filename", ""), size_hw, [], [], [], [], [])
    for number, entry in enumerate(root.findall("object"), 1):
        name, flag = entry.findtext("name", "").strip(), entry.findtext("difficult", "0").strip().lower()
        box_xyxy: Sequence[float] | None = None
        try:
            box_xyxy = _box_xyxy(entry, size_hw)
            if flag not in _FLAGS or not name:
                raise wrong("its name or difficult is wrong", None, [name, flag], "a name, and 0 or 1")
        except Fault as fault:
            labels.faults.append(placed(fault, f"object {number} ({name}): {fault.message}", file, item=number))
            box_xyxy = fault.mended
        if box_xyxy is not None:
            labels.names.append(name)
            labels.boxes_xyxy.append(box_xyxy)
            labels.difficult.append(_FLAGS.get(flag, False))
            labels.numbers.append(number)
    return labels


def _box_xyxy(entry: Any, size_hw: tuple[int, int] | None) -> Sequence[float]:
    texts = [entry.findtext(f"bndbox/{corner}", "").strip() for corner in CORNERS]
    try:
        corners = [float(text.replace("_", "?")) for text in texts]  # Python would take 1_0 for 10
    except ValueError:
        raise wrong("its bndbox is wrong", None, texts, "xmin, ymin, xmax, ymax in pixels") from None
    if not all(abs(value) < _LIMIT_PX for value in corners):
        raise wrong("its bndbox is wrong", None, texts, "xmin, ymin, xmax, ymax in pixels", code="box-not-finite")
    x1, y1, x2, y2 = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
    if max(corners) <= 1 and not all(value.is_integer() for value in corners):
        height, width = size_hw or (0, 0)
        mended = corners[0] * width, corners[1] * height, corners[2] * width, corners[3] * height
        sound = mended[0] < mended[2] and mended[1] < mended[3]
        what, expected = "its bndbox is in fractions of the photo", "xmin, ymin, xmax, ymax in pixels"
        raise wrong(what, None, texts, expected, code="box-in-fractions", mended=mended if sound else None)
    if not (np.float32(x2) > np.float32(x1) and np.float32(y2) > np.float32(y1)):
        what, expected = "its bndbox has no area", "xmax and ymax not below xmin and ymin"
        if x2 >= x1 and y2 >= y1:
            raise wrong(what, None, texts, expected, code="box-empty")
        xs, ys = sorted(corners[::2]), sorted(corners[1::2])
        raise wrong(what, None, texts, expected, code="box-inverted", mended=(xs[0] - 1, ys[0] - 1, xs[1], ys[1]))
    return x1, y1, x2, y2
