"""The text of a Darknet cfg file as sections of `key=value` lines, each value checked when it is asked for."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from detkit.errors import WeightsError

MAX_CFG_BYTES = 1 << 20  # the longest published ones have 40 kB
_MAX_SECTIONS = 2000
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,15}\.?[0-9]{0,15}|\.[0-9]{1,15})([eE][+-]?[0-9]{1,2})?")


class Section:
    """One section: its kind, where it stands, and its values, of which `close` wants every one accounted for.

    Args:
        kind: the word in brackets. line: its line number. file: for messages.
    """

    def __init__(self, kind: str, line: int, file: Path | str | None) -> None:
        self.kind, self.line, self.file = kind, line, file
        self._values: dict[str, tuple[str, int]] = {}  # key -> text, line
        self._twice: dict[str, int] = {}  # keys given again with another value -> line
        self._used: dict[str, str] = {}

    def put(self, key: str, text: str, line: int) -> None:
        """Take a line in; of a key that comes again Darknet reads the first."""
        before = self._values.setdefault(key, (text, line))
        if before[0] != text:
            self._twice.setdefault(key, line)

    def refuse(self, problem: str, *, key: str = "", found: object = None, expected: object = None) -> NoReturn:
        """Raise a WeightsError at the line of `key`, or of the section."""
        line = self._values[key][1] if key in self._values else self.line
        raise WeightsError(f"[{self.kind}] {problem}", file=self.file, line=line, found=found, expected=expected)

    def has(self, key: str) -> bool:
        """Whether the section has a value for it."""
        return key in self._values

    def text(self, key: str, default: str) -> str:
        """A value as it stands there."""
        if key not in self._values:
            return default
        text, line = self._values[key]
        if key in self._twice:
            file, again = self.file, self._twice[key]
            raise WeightsError(f"[{self.kind}] {key} is given twice, first on line {line}", file=file, line=again)
        self._used[key] = text
        return text

    def word(self, key: str, default: str, choices: Mapping[str, object] | tuple[str, ...]) -> str:
        """A value that is one of some words."""
        text = self.text(key, default)
        if text not in choices:
            self.refuse(f"unknown {key}", key=key, found=repr(text[:40]), expected=" or ".join(choices))
        return text

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        text = self.text(key, str(default))
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            self.refuse(key, key=key, found=repr(text[:40]), expected=f"a whole number, {low} to {high}")
        return int(text)

    def flag(self, key: str, default: bool = False) -> bool:
        """0 or 1."""
        return self.whole(key, int(default), 0, 1) == 1

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        return self._number(key, self.text(key, str(default)), low, high)

    def wholes(self, key: str, default: str, low: int, high: int) -> tuple[int, ...]:
        """Whole numbers between commas."""
        texts = self.text(key, default).rstrip(",").split(",")
        for text in texts:
            if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
                expected = f"whole numbers, {low} to {high}, between commas"
                self.refuse(key, key=key, found=repr(text[:40]), expected=expected)
        return tuple(map(int, texts))

    def numbers(self, key: str, low: float, high: float) -> tuple[float, ...]:
        """Numbers between commas; none where the key is missing."""
        text = self.text(key, "").rstrip(",")
        return tuple(self._number(key, part, low, high) for part in text.split(",")) if text else ()

    def _number(self, key: str, text: str, low: float, high: float) -> float:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not low <= value <= high:
            self.refuse(key, key=key, found=repr(text[:40]), expected=f"a number, {low:g} to {high:g}")
        return value

    def close(self, harmless: frozenset[str], only: Mapping[str, tuple[str, ...]]) -> str:
        """Account for the keys nobody asked for, and give the section back as text, with those that matter.

        Args:
            harmless: keys that concern training alone, or what is done with boxes later.
            only: keys that change the network in ways not built here -> the values that leave it as it is.
        Raises:
            WeightsError: another key, or another value.
        """
        for key in [key for key in self._values if key not in self._used and key not in harmless]:
            if key not in only:
                near = difflib.get_close_matches(key, [*self._used, *only, *harmless], n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.refuse(f"unknown key {key[:40]!r}, which may change the network{hint}", key=key)
            if self._values[key][0] not in only[key]:
                found, expected = repr(self._values[key][0][:40]), " or ".join(only[key]) or "no such key"
                self.refuse(f"{key} is not supported", key=key, found=found, expected=expected)
        return "\n".join([f"[{self.kind}]", *(f"{key}={text}" for key, text in self._used.items())])


def read_sections(text: str, file: Path | str | None) -> list[Section]:
    """The sections of a cfg; white space and comments (from # or ; to the line's end) say nothing.

    Raises:
        WeightsError: a line that is neither a section nor key=value, or too much of it.
    """
    if len(text) > MAX_CFG_BYTES:
        raise WeightsError("is too long for a cfg", file=file, found=f"{len(text):,} characters")
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = "".join(re.split(r"[#;\0]", raw, maxsplit=1)[0].split())
        key, equals, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            sections.append(Section(line[1:-1][:40], number, file))
        elif line and not (equals and key and value and sections):
            expected = "key=value" if sections else "[net]"
            raise WeightsError(
                "is no line of a Darknet cfg", file=file, line=number, found=repr(raw[:40]), expected=expected
            )
        elif line:
            sections[-1].put(key, value, number)
        if len(sections) > _MAX_SECTIONS:
            raise WeightsError("has too many sections", file=file, line=number, expected=f"up to {_MAX_SECTIONS}")
    if not sections:
        raise WeightsError("holds no section", file=file, expected="a Darknet cfg, which begins with [net]")
    return sections


def read_cfg_text(path: Path) -> str:
    """The text of a cfg file.

    Raises:
        WeightsError: it cannot be read, is too large or is no text.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_CFG_BYTES + 1)
        if len(data) > MAX_CFG_BYTES:
            raise WeightsError("is too large for a cfg", file=path, expected=f"up to {MAX_CFG_BYTES:,} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", file=path) from error
    except UnicodeDecodeError as error:
        raise WeightsError("is not text, so no Darknet cfg; give the cfg first, then the weights", file=path) from error
