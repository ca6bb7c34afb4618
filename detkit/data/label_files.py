"""What the readers share about label files: their bytes and lines, split and class names, and how a fault is named."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from detkit.data.findings import Fault, Report, stop
from detkit.errors import DataError

_SPLIT_WORD = re.compile(r"(?:^|[_.\- ])(train|training|val|valid|validation|dev|test|testing)(\d*)$", re.IGNORECASE)
_SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
T = TypeVar("T")


def split_word(stem: str) -> str:
    """The split a file or folder name ends in ("instances_train2017" -> "train", "valid" -> "val"), else ""."""
    match = _SPLIT_WORD.search(stem)
    if match is None:
        return ""
    word = match[1].lower()
    return _SPLIT_NAMES.get(word, word)


def choose_split(found: Mapping[str, T], split: str | None, source: Path) -> tuple[str, T]:
    """The split asked for (None: the only one) and where it lies; DataError lists the splits there are."""
    listed = ", ".join(name for name in found if name) or ("one set without splits" if found else "none")
    if split is None and len(found) == 1:
        return next(iter(found.items()))
    if split is None:
        raise DataError("several splits and none was asked for", file=source, found=listed, expected="one of them")
    if split not in found:
        raise DataError(f"no split {split!r}", file=source, found=listed, expected=split)
    return split, found[split]


def checked_class_names(names: Iterable[object], file: Path, report: Report = stop) -> tuple[str, ...]:
    """The class names, stripped; one that is no text, empty or there twice is a fault, as is there being none."""
    checked: dict[str, None] = {}
    for position, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or any(c < " " or "\ud800" <= c <= "\udfff" for c in name):
            report(wrong(f"class {position} has no usable name", file, name, "text", code="class-name-empty"))
            name = f"class_{position}"
        if name.strip() in checked:
            report(wrong("two classes have the same name", file, name, "distinct names", code="class-name-twice"))
            name = next(free for k in range(2, len(checked) + 3) if (free := f"{name.strip()} {k}") not in checked)
        checked[name.strip()] = None
    if not checked:
        raise DataError("no classes", file=file, expected="at least one class name")
    return tuple(checked)


def read_bytes(path: Path, *, may_be_empty: bool = False) -> bytes:
    """The file's bytes; DataError when it is missing, unreadable or (unless it may be) empty."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"cannot be read: {reason}", file=path) from error
    if not content.strip() and not may_be_empty:
        raise DataError("the file is empty", file=path)
    return content


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, each stripped, without empty ones at its end."""
    try:
        return [line.strip() for line in read_bytes(path).decode("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text (byte {error.start})", file=path) from error


def short(value: object) -> str:
    """A value as it stands in an error message: one line, bounded in length and depth."""
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits has no text
        return f"a {type(value).__name__}"


def wrong(
    what: str,
    file: Path | None,
    found: object,
    expected: str,
    line: int | None = None,
    *,
    code: str = "labels-wrong",
    mended: Sequence[float] | None = None,
) -> Fault:
    """The fault of one wrong value in a label file."""
    return Fault(code, what, file=file, line=line, found=short(found), expected=expected, mended=mended)


def placed(
    error: DataError,
    what: str,
    file: Path | str | None,
    line: int | None = None,
    *,
    photo: Path | None = None,
    item: int | None = None,
    boxes: int = 0,
) -> Fault:
    """The same error, now saying where."""
    code, mended = (error.code, error.mended) if isinstance(error, Fault) else ("labels-unreadable", None)
    place: dict[str, Any] = {"file": file, "line": line, "photo": photo, "item": item, "boxes": boxes}
    return Fault(code, what, found=error.found, expected=error.expected, mended=mended, **place)
