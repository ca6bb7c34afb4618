"""What a run has done: its JSONL file, read again so that an interrupted run goes on where it was.

A line is written when all other outputs of its item are on disk, in the order of the items. So everything up to the
last complete item is done, and the rest of the file can be cut off.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from detkit.errors import DataError, RunError, UsageError
from detkit.infer.records import RECORDS_VERSION, Record

_KINDS = frozenset({"photo", "frame", "video", "error"})
_FIRST = b'{"version": '  # how a file of results begins
_LONGEST_LINE = 1 << 28
_PART = "." + 32 * "[0-9a-f]" + ".part*"  # what `detkit.files.replacing` writes to


@dataclass(frozen=True, slots=True)
class Journal:
    """What a JSONL file of an earlier run says.

    Args:
        file: where it lies.
        header: its "run" record.
        done: the names of the items that are complete: a video only with its end.
        size: bytes up to the end of the last of them.
        errors: how many of them could not be read.
    """

    file: Path
    header: Record
    done: frozenset[str]
    size: int
    errors: int = 0

    def check_same_run(self, header: Record) -> None:
        """Make sure that a run would go on with what this one was made with.

        Args:
            header: the new run's "run" record; the model file may have another name.
        Raises:
            UsageError: something differs; says what.
        """
        then, now = _flat(self.header), _flat(header)
        differing = [key for key in {**now, **then} if key != "model.file" and then.get(key) != now.get(key)]
        if differing:
            found, expected = (", ".join(_text(key, flat) for key in differing) for flat in (then, now))
            what = "was made with other settings, so it cannot be resumed with these"
            raise UsageError(what, file=self.file, found=found, expected=expected)


def read_journal(file: Path) -> Journal | None:
    """Read the JSONL file of a run that was broken off; a last line that is not whole does not count.

    Returns:
        None where there is nothing to go on with: no file, or one without a whole first line.
    Raises:
        DataError: no file of results, or a damaged one. It is not touched.
    """
    header: Record | None = None
    done: set[str] = set()
    ended: list[Record] = []  # not counted yet: another video is still open
    open_names: set[str] = set()
    size = at = errors = 0
    for record, length in _records(file):
        at += length
        if header is None:
            header, size = record, at
        elif record["kind"] == "frame":
            open_names.add(record["name"])
        else:
            ended.append(record)
            open_names.discard(record["name"])
            if not open_names:
                size = at
                done.update(one["name"] for one in ended)
                errors += sum(one["kind"] == "error" for one in ended)
                ended.clear()
    return None if header is None else Journal(file, header, frozenset(done), size, errors)


def refuse_foreign(file: Path) -> None:
    """Raise UsageError where a file that is to be replaced by results holds something else: a list, a model."""
    try:
        if not file.is_file():
            return
        with file.open("rb") as stream:
            start = stream.read(len(_FIRST))
    except OSError:
        return  # whoever writes to it says so
    if not _FIRST.startswith(start):
        raise UsageError("is there already and holds no results of detkit; give another file", file=file)


def read_records(file: Path) -> Iterator[Record]:
    """The records of a JSONL file, the "run" record first; a last line that is not whole is left out.

    Raises:
        DataError: no file of results, or a damaged one.
    """
    return (record for record, _ in _records(file))


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed run was writing; no other run may be writing there.

    Raises:
        RunError: the folder cannot be listed, or a file not be removed.
    """
    try:
        for partial in folder.rglob(_PART):
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise RunError("cannot be tidied up", file=folder, found=error.strerror) from error


def _records(file: Path) -> Iterator[tuple[Record, int]]:
    """Each whole line's record and its length in bytes."""
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(_lines(stream), 1):
                if not line.endswith(b"\n"):
                    if number == 1 and not (_FIRST.startswith(line[: len(_FIRST)]) or line.startswith(_FIRST)):
                        raise _foreign(file, line)
                    return
                yield (_header(file, line) if number == 1 else _record(file, number, line)), len(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError("cannot be read", file=file, found=error.strerror) from error


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines that fit into memory, so that any file can be looked at."""
    while line := stream.readline(_LONGEST_LINE):
        yield line


def _header(file: Path, line: bytes) -> Record:
    record = _object(line)
    if record is None or record.get("kind") != "run" or not _has(record, model=dict, settings=dict):
        raise _foreign(file, line)
    if record.get("version") != RECORDS_VERSION:
        expected = f"version {RECORDS_VERSION}"
        raise DataError(
            "was written by another version of detkit", file=file, found=record.get("version"), expected=expected
        )
    return record


def _record(file: Path, number: int, line: bytes) -> Record:
    record = _object(line)
    if record is None or record.get("kind") not in _KINDS or not _has(record, name=str):
        what = "is damaged: a line is no record"
        raise DataError(
            what, file=file, line=number, found=reprlib.repr(line), expected="a JSON object of a known kind"
        )
    return record


def _object(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:  # also UnicodeDecodeError
        return None
    except RecursionError:
        return None
    return record if type(record) is dict else None


def _has(record: Record, **kinds: type) -> bool:
    return all(type(record.get(key)) is kind for key, kind in kinds.items())


def _foreign(file: Path, line: bytes) -> DataError:
    expected = 'a first line with "kind": "run"'
    return DataError("is no file of results", file=file, line=1, found=reprlib.repr(line), expected=expected)


def _flat(header: Record) -> dict[str, Any]:
    """The values of a "run" record, those of `model` and `settings` under names like "model.sha256"."""
    flat: dict[str, Any] = {}
    for key, value in header.items():
        flat |= {f"{key}.{inner}": own for inner, own in value.items()} if type(value) is dict else {key: value}
    return flat


def _text(key: str, flat: dict[str, Any]) -> str:
    value = flat.get(key)
    text = value if type(value) is str else json.dumps(value)
    return f"{key.removeprefix('settings.')} {text if len(text) <= 40 else text[:40] + '...'}"
