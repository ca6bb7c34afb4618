"""JSONL: a record a line, each written at once, so that a killed run leaves whole lines."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from detkit.errors import RunError
from detkit.infer.journal import Journal
from detkit.infer.records import Record, json_line

_COPIED_BYTES = 1 << 20


class JsonlFile:
    """Lines of JSON in a file or a pipe. What was written stays when the run is broken off."""

    def __init__(self, stream: BinaryIO, file: Path | None = None) -> None:
        """Write to an open stream.

        Args:
            stream: without a buffer, or one that is flushed after every line, like stdout's.
            file: where it lies, for a file on disk, which is closed at the end.
        """
        self.file, self._stream = file, stream

    @classmethod
    def new(cls, file: Path, header: Record | None = None) -> JsonlFile:
        """A file with the "run" record as its first line, where one is given; one of an earlier run is replaced.

        Raises:
            RunError: it cannot be written.
        """
        lines = cls(_opened(file, "wb"), file)
        if header is not None:
            lines.write(header)
        return lines

    @classmethod
    def resumed(cls, journal: Journal) -> JsonlFile:
        """The file of a run that was broken off, cut after its last complete item, to be gone on with.

        Raises:
            RunError: it cannot be written.
        """
        stream = _opened(journal.file, "r+b")
        stream.truncate(journal.size)
        stream.seek(0, os.SEEK_END)
        return cls(stream, journal.file)

    def write(self, record: Record) -> None:
        """Write one line; all of it or, on a full disk, nothing.

        Raises:
            RunError: it cannot be written.
            BrokenPipeError: the reader of the pipe is gone.
        """
        self._write(json_line(record))

    def replay(self, journal: Journal) -> None:
        """Write the lines of what a resumed run has done already; the journal is another file."""
        left = journal.size
        with journal.file.open("rb") as source:
            while left and (lines := source.read(min(left, _COPIED_BYTES))):
                self._write(lines)
                left -= len(lines)

    def close(self) -> None:
        """Close the file; a pipe stays open."""
        if self.file is not None:
            self._stream.close()

    def _write(self, data: bytes) -> None:
        start = self._stream.tell() if self.file is not None and self._stream.seekable() else None
        try:
            view = memoryview(data)
            while view:
                written = self._stream.write(view)
                view = view[len(view) if written is None else written :]
            self._stream.flush()
        except BaseException as error:
            if start is not None:
                with suppress(OSError):  # the rest of a line that was not written as a whole
                    self._stream.truncate(start)
                    self._stream.seek(start)
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise RunError("cannot be written", file=self.file or "stdout", found=error.strerror) from error
            raise


def _opened(file: Path, mode: str) -> BinaryIO:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open(mode, buffering=0)  # type: ignore[return-value]
    except OSError as error:
        raise RunError("cannot be written", file=file, found=error.strerror) from error
