"""What `detkit detect` keeps of a run's records, and how it is printed at the end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any

from detkit.cli import terminal
from detkit.cli.detect import Request
from detkit.cli.detect_tables import Tables
from detkit.infer.frames import Item
from detkit.infer.job import Job
from detkit.infer.journal import Journal, read_records
from detkit.infer.predictor import Predictor
from detkit.infer.reading import Reading
from detkit.infer.records import RECORDS_VERSION, Record
from detkit.infer.sinks import Sinks


class Results:
    """Follows a run to its end.

    Args:
        of_items: how many items the run has.
        keep_records: for the one document of --json; otherwise memory is not for records.
    Attributes:
        errors: what was said of the items that could not be read.
        was_left: whether Ctrl-C ended the live streams.
    """

    def __init__(self, of_items: int, *, keep_records: bool) -> None:
        self._of_items = of_items
        self.errors: list[str] = []
        self.was_left = False
        self._keeps, self._records = keep_records, list[Record]()
        self._tables = Tables()
        self._took_s = 0.0

    def take_earlier(self, journal: Journal) -> None:
        """Take the records of what was done before the run was broken off; its file is cut already."""
        for record in read_records(journal.file):
            if record["kind"] != "run":
                self._take(record)
        self._tables.begin()

    def run(self, job: Job, todo: Sequence[tuple[int, Item]], reading: Reading, sinks: Sinks) -> None:
        """Work through the items, with a word on each that cannot be read."""
        total = len(todo) if all(item.kind == "photo" for _, item in todo) else None
        start_s = time.perf_counter()
        with self._leaving_streams(job, todo), closing(job.run(todo, reading, sinks)) as records:
            for record in terminal.progress(records, total=total, title="detecting"):
                self._take(record)
                if record["kind"] == "error" and self._of_items > 1:
                    terminal.warn(record["error"])
                elif record["kind"] == "video" and record["warning"]:
                    terminal.warn(f"{record['name']}: {record['warning']}")
        self._took_s = time.perf_counter() - start_s

    def print(self, request: Request, predictor: Predictor, counts_of_photos: Mapping[str, Any]) -> None:
        """Print what was found, and on stderr how much it was and where it went."""
        is_lone_error = bool(self.errors) and self._of_items == 1
        if request.json:
            terminal.print_json(self._document(predictor))
        elif request.jsonl != "-" and not is_lone_error:
            self._tables.print(counts_of_photos)
        if is_lone_error:
            return
        model = "model" if predictor.path is None else predictor.path.name
        terminal.say(f"{self._tables.summary(self._took_s)}, by {model} on {predictor.engine.name}")
        if request.folder is not None:
            terminal.say(f"{_listed(request.to)}: {request.folder}")

    def _take(self, record: Record) -> None:
        self._tables.add(record)
        if record["kind"] == "error":
            self.errors.append(record["error"])
        if self._keeps:
            self._records.append(record)

    def _document(self, predictor: Predictor) -> dict[str, Any]:
        used = predictor.selection
        model = {
            "file": None if predictor.path is None else predictor.path.name,
            "engine": predictor.engine.name,
            "class_names": list(predictor.class_names),
            "conf": used.conf,
            "iou": used.iou,
            "max_det": used.max_det,
        }
        if predictor.landmarks is not None and predictor.landmarks.path is not None:
            model["landmarks"] = predictor.landmarks.path.name
        return {"version": RECORDS_VERSION, "model": model, "images": self._records}

    @contextmanager
    def _leaving_streams(self, job: Job, todo: Sequence[tuple[int, Item]]) -> Iterator[None]:
        """Ctrl-C ends live streams in good order, their videos and counts whole; a second one breaks off."""
        earlier = signal.getsignal(signal.SIGINT)
        has_streams = any(item.kind == "stream" for _, item in todo)
        is_main = threading.current_thread() is threading.main_thread()
        if not has_streams or not is_main or earlier in (signal.SIG_IGN, None):
            yield
            return

        def leave(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, earlier)
            if not job.leave():
                raise KeyboardInterrupt
            self.was_left = True

        signal.signal(signal.SIGINT, leave)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, earlier)


def _listed(kinds: Sequence[str]) -> str:
    """The kinds as a phrase: pictures, coco and csv."""
    return " and ".join(part for part in (", ".join(kinds[:-1]), *kinds[-1:]) if part) or "records"
