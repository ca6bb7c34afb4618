"""A threshold for each class, in a JSON file: what `detkit eval` chooses and `detkit detect` applies."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from detkit.errors import DataError
from detkit.files import replacing

FORMAT_VERSION = 1
KIND = "thresholds"

_MAX_FILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class ClassThreshold:
    """The score from which on boxes of one class count, and what that gave on the data it was chosen on.

    Args:
        conf: 0-1; None where there was nothing to choose by.
        low, high: the interval that `conf` came to lie in when the photos were drawn again.
        precision, recall, f1: at `conf`.
        truths: labelled boxes of the class.
    """

    conf: float | None
    low: float | None = None
    high: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    truths: int | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of a model's classes and how they were chosen; only `classes` matters for detecting.

    Args:
        classes: class name -> its threshold.
        rule: what they were chosen by: "F1", or "precision 0.95".
        iou: overlap from which on a box counted as right.
        model, data: file of the model and name of the data set, for people.
    """

    classes: Mapping[str, ClassThreshold]
    rule: str | None = None
    iou: float | None = None
    model: str | None = None
    data: str | None = None

    def to_json(self) -> str:
        """The thresholds as one JSON object, which `from_json` reads back to equal ones."""
        about = {"version": FORMAT_VERSION, "kind": KIND, "model": self.model, "data": self.data}
        classes = {name: asdict(threshold) for name, threshold in self.classes.items()}
        tree = about | {"rule": self.rule, "iou": self.iou, "classes": classes}
        return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, file: Path | str | None = None) -> Thresholds:
        """Read what `to_json` wrote, or somebody by hand: needed are `version`, `kind` and a `conf` for each class.

        Args:
            text: the JSON.
            file: where it comes from, for messages.
        Raises:
            DataError: no such file of thresholds: broken JSON, unknown or missing keys, a value out of its range.
        """
        tree = _object(_parsed(text, file), "the file", file)
        if tree.get("kind") != KIND:
            found = _brief(tree["kind"]) if "kind" in tree else "no 'kind'"
            raise DataError("is no file of thresholds", file=file, found=found, expected=f"'kind': '{KIND}'")
        if type(tree.get("version")) is not int or tree["version"] != FORMAT_VERSION:
            expected = f"{FORMAT_VERSION} (a newer detkit may read it)"
            raise DataError("'version'", file=file, found=_brief(tree.get("version")), expected=expected)
        _check_keys(tree, ("version", "kind", *(field.name for field in fields(cls))), "", file)
        if "classes" not in tree:
            raise DataError("has no 'classes'", file=file)
        entries = _object(tree["classes"], "'classes'", file)
        classes = {_class_name(name, file): _class_threshold(name, entry, file) for name, entry in entries.items()}
        if not classes:
            raise DataError("'classes'", file=file, found="no class", expected="one or more")
        rest = {key: _value(key, tree[key], _TOP[key], "", file) for key in _TOP if key in tree}
        return cls(classes, **rest)

    def for_classes(self, names: Sequence[str], default: float, *, file: Path | str | None = None) -> tuple[float, ...]:
        """The threshold of each of a model's classes, in label order.

        Args:
            names: the model's class names.
            default: for a class that there was nothing to choose by.
            file: where the thresholds come from, for the message.
        Raises:
            DataError: the names are not those of the thresholds; it says which the one or the other lacks.
        """
        strange = [name for name in self.classes if name not in names]
        missing = [name for name in names if name not in self.classes]
        if strange or missing:
            both = [
                *([f"the model has no class {_listed(strange)}"] if strange else []),
                *([f"the thresholds have no class {_listed(missing)}"] if missing else []),
            ]
            message = f"the thresholds are of another model: {' and '.join(both)}"
            raise DataError(message, file=file, expected=f"one for each of {_listed(names)}")
        chosen = (self.classes[name].conf for name in names)
        return tuple(default if conf is None else conf for conf in chosen)


def read_thresholds(path: Path) -> Thresholds:
    """Read a file of thresholds.

    Raises:
        DataError: it cannot be read, or is no such file; one line says what was found and what expected.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path, expected="a file of thresholds") from error
    if len(data) > _MAX_FILE_BYTES:
        raise DataError("is too large for a file of thresholds", file=path, expected="up to 16 MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", file=path, expected="a file of thresholds") from error
    return Thresholds.from_json(text, path)


def write_thresholds(path: Path, thresholds: Thresholds) -> None:
    """Write a file of thresholds, whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(thresholds.to_json(), encoding="utf-8")


def _parsed(text: str, file: Path | str | None) -> Any:
    """Strict JSON: no NaN, and no key twice in an object, of which one would be lost."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key, value in pairs:
            if key in tree:
                raise ValueError(f"the key {_brief(key)} comes twice")
            tree[key] = value
        return tree

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        found = str(error)[:80]
        raise DataError("is not JSON", file=file, line=line, found=found, expected="thresholds") from error


def _class_threshold(name: str, entry: Any, file: Path | str | None) -> ClassThreshold:
    of_class = f" of class {_brief(name)}"
    values = _object(entry, f"class {_brief(name)}", file)
    _check_keys(values, tuple(_OF_CLASS), of_class, file)
    if "conf" not in values:
        raise DataError(f"no 'conf'{of_class}", file=file, expected="0 to 1, or null")
    numbers = {key: _value(key, value, _OF_CLASS[key], of_class, file) for key, value in values.items()}
    low, high = numbers.get("low"), numbers.get("high")
    if low is not None and high is not None and low > high:
        raise DataError(f"'low' is above 'high'{of_class}", file=file, found=f"{low} and {high}")
    return ClassThreshold(**numbers)


def _class_name(name: str, file: Path | str | None) -> str:
    try:
        return str(_text(name))
    except (ValueError, TypeError):
        raise DataError("a name of a class", file=file, found=_brief(name), expected="a text") from None


def _object(value: Any, what: str, file: Path | str | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{what} is not an object", file=file, found=_brief(value), expected="a JSON object, {...}")
    return value


def _check_keys(values: Mapping[str, Any], known: Sequence[str], where: str, file: Path | str | None) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise DataError(f"unknown key {_brief(key)}{where}{hint}", file=file, expected=", ".join(known))


_Check = tuple[Callable[[Any], Any], str]


def _value(key: str, value: Any, check: _Check, where: str, file: Path | str | None) -> Any:
    """A checked value; null stays None."""
    convert, expected = check
    try:
        return None if value is None else convert(value)
    except (ValueError, TypeError, OverflowError):
        raise DataError(f"'{key}'{where}", file=file, found=_brief(value), expected=f"{expected}, or null") from None


def _share(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1 or math.isnan(value):
        raise ValueError
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    value.encode("utf-8")  # half a surrogate pair cannot be printed or written
    return value


def _brief(value: object) -> str:
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except (RecursionError, ValueError):  # nested too deep, or an integer of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(repr(name) for name in names[:10]) + more


_SHARE: _Check = (_share, "0 to 1")
_TEXT: _Check = (_text, "a text")
_TOP: dict[str, _Check] = {"rule": _TEXT, "iou": _SHARE, "model": _TEXT, "data": _TEXT}
_OF_CLASS: dict[str, _Check] = dict.fromkeys(("conf", "low", "high", "precision", "recall", "f1"), _SHARE)
_OF_CLASS["truths"] = (_count, "a whole number, 0 or more")
