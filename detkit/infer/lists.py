"""Lists of paths, as a list file or a pipe holds them: one a line, or with NUL after each (`find -print0`)."""

from __future__ import annotations

import codecs
import os
import re
from typing import NamedTuple

from detkit.errors import DataError

LIST_SUFFIXES = frozenset({".txt", ".lst"})

_LONGEST_PATH = 32_767  # bytes; no system has longer ones
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # control characters but for white space and ESC
_EXPECTED = "one path a line, or paths with NUL after each"


class ListedPath(NamedTuple):
    """One entry of a list.

    Args:
        number: its line, from 1; among NULs its position.
        text: as it stands there, without the line's end.
        exact: it came with NULs: it means the file of just that name, blanks and a leading # included.
    """

    number: int
    text: str
    exact: bool


def parse_paths(data: bytes, name: str) -> list[ListedPath]:
    """The entries of a list of paths, blank lines left out.

    Args:
        data: the list, in the file system's encoding, or UTF-8 or UTF-16 with a byte order mark.
        name: what to call it in error messages.
    Raises:
        DataError: it is no text.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what PowerShell writes
        try:
            return _lines(data.decode("utf-16"))
        except UnicodeDecodeError as error:
            raise _binary(data, name) from error
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in data:
        paths = data.removesuffix(b"\0").split(b"\0")
        if not all(0 < len(path) <= _LONGEST_PATH for path in paths):
            raise _binary(data, name)
        return [ListedPath(number, os.fsdecode(path), exact=True) for number, path in enumerate(paths, start=1)]
    if _BINARY.search(data) or any(len(line) > _LONGEST_PATH for line in data.split(b"\n")):
        raise _binary(data, name)
    return _lines(os.fsdecode(data))


def _lines(text: str) -> list[ListedPath]:
    lines = enumerate(text.split("\n"), start=1)
    return [ListedPath(number, line.removesuffix("\r"), exact=False) for number, line in lines if line.strip()]


def _binary(data: bytes, name: str) -> DataError:
    return DataError("is no list of paths", file=name, found=f"bytes that start with {data[:8]!r}", expected=_EXPECTED)
