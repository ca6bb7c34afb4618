"""Where results go: any number of sinks, and the lines of JSON that say what is done.

An item's line is written once everything else of the item is on disk, and in the order of the items: `--resume` relies
on that. COCO and CSV files are made from those lines at the end of the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from detkit.detections import Detections
from detkit.errors import RunError
from detkit.infer.frames import Ended, Frame, Unreadable
from detkit.infer.journal import read_records
from detkit.infer.records import Record
from detkit.infer.sinks.jsonl import JsonlFile
from detkit.infer.sinks.workers import Workers

Export = Callable[[Callable[[], Iterator[Record]]], None]
_LONGEST_QUEUE = 256  # records that wait for a slow picture before them


class Sink(Protocol):
    """One kind of output. All calls come from one thread, in the order of the items; frames of streams interleave."""

    def write(self, frame: Frame, detections: Detections, record: Record) -> Future[None] | None:
        """One picture; what is not written when this returns is when the future is done."""
        ...

    def unreadable(self, item: Unreadable, record: Record) -> None:
        """An item gave no picture."""
        ...

    def ended(self, ended: Ended, record: Record) -> None:
        """A video or stream came to its end."""
        ...

    def close(self) -> None:
        """The run is over: finish what is open."""
        ...

    def abort(self) -> None:
        """The run was broken off: leave only whole files."""
        ...


class Sinks:
    """All outputs of a run as one; a context manager that closes them, or aborts them when an error leaves it."""

    def __init__(
        self,
        sinks: Sequence[Sink] = (),
        lines: Sequence[JsonlFile] = (),
        workers: Workers | None = None,
        *,
        exports: Sequence[Export] = (),
        picture_of: Callable[[Frame], Path | None] | None = None,
    ) -> None:
        """Take the outputs, which are closed with this.

        Args:
            sinks: what writes pictures, videos and label files.
            lines: where records go; the first is the journal.
            workers: the threads that the sinks use.
            exports: what makes files from the journal at the end of the run.
            picture_of: where the annotated picture of a frame goes; its record says so.
        """
        if exports and (not lines or lines[0].file is None):
            raise ValueError("exports are made from a journal, and there is none")
        self._sinks, self._lines, self._exports = tuple(sinks), tuple(lines), tuple(exports)
        self._workers, self._picture_of = workers, picture_of
        self._waiting: deque[tuple[Record, list[Future[None]]]] = deque()
        self._is_writing = False

    def write(self, frame: Frame, detections: Detections, record: Record) -> Record:
        """Write one picture's results; gives the record with the picture's place in it.

        Raises:
            RunError: this or an earlier output cannot be written.
            BrokenPipeError: the reader of stdout is gone.
        """
        picture = None if self._picture_of is None else self._picture_of(frame)
        if picture is not None:
            record = {**record, "picture": str(picture)}
        given = [sink.write(frame, detections, record) for sink in self._sinks]
        self._queue(record, [future for future in given if future is not None])
        return record

    def unreadable(self, item: Unreadable, record: Record) -> None:
        """Say in its place that an item could not be read."""
        for sink in self._sinks:
            sink.unreadable(item, record)
        self._queue(record, [])

    def ended(self, ended: Ended, record: Record) -> None:
        """Finish the outputs of a video or stream."""
        for sink in self._sinks:
            sink.ended(ended, record)
        self._queue(record, [])

    def flush(self) -> None:
        """Wait until everything that was handed over is on disk."""
        while self._waiting:
            self._write_first()

    def close(self) -> None:
        """The run is over: finish all files and make those that hold all results."""
        self.flush()
        if self._workers is not None:
            self._workers.close()
        for sink in self._sinks:
            sink.close()
        for lines in self._lines:
            lines.close()
        for export in self._exports:
            export(self._records)

    def abort(self) -> None:
        """The run was broken off: leave only whole files, and no thread; what is done is in the journal."""
        with ExitStack() as every:  # each is called, in the opposite order, whatever the others raise
            for lines in self._lines:
                every.callback(lines.close)
            every.callback(self._write_what_is_done)
            for sink in self._sinks:
                every.callback(sink.abort)
            if self._workers is not None:
                every.callback(self._workers.abort)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise

    def _queue(self, record: Record, futures: list[Future[None]]) -> None:
        self._waiting.append((record, futures))
        while self._waiting and (
            len(self._waiting) > _LONGEST_QUEUE or all(future.done() for future in self._waiting[0][1])
        ):
            self._write_first()

    def _write_first(self) -> None:
        record, futures = self._waiting[0]
        for future in futures:
            future.result()
        self._is_writing = True  # stays so where a line cannot be written: none may follow it
        self._waiting.popleft()
        for lines in self._lines:
            lines.write(record)
        self._is_writing = False

    def _write_what_is_done(self) -> None:
        with suppress(RunError, BrokenPipeError):
            while not self._is_writing and self._waiting and all(map(_went_well, self._waiting[0][1])):
                self._write_first()

    def _records(self) -> Iterator[Record]:
        journal = self._lines[0].file
        return iter(()) if journal is None else read_records(journal)


def _went_well(future: Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
