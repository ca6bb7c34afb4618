"""A whole run of detection: pictures through the predictor and the tracker into the sinks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from detkit.detections import Detections
from detkit.draw import draw
from detkit.files import sha256_of
from detkit.images import Image
from detkit.infer.crossings import Counts
from detkit.infer.follow import Tracked, Tracking
from detkit.infer.frames import Ended, Frame, Item, Unreadable
from detkit.infer.pipeline import Event
from detkit.infer.predictor import Predictor
from detkit.infer.reading import Reading
from detkit.infer.records import Record, ended_record, error_record, record, run_record
from detkit.infer.sinks import Sinks


@dataclass(slots=True)
class _Film:
    """What is known of a video by now."""

    item: Item
    until_s: float = 0.0


class Job:
    """Runs one predictor over items into sinks: `for record in job.run(items, reading, sinks): ...`."""

    def __init__(
        self,
        predictor: Predictor,
        tracking: Tracking | None = None,
        *,
        show: Callable[[Image], bool] | None = None,
        strict: bool = False,
    ) -> None:
        """Prepare a run.

        Args:
            predictor: finds the objects; with tracking, its confidence is lowered to what the tracker wants to see.
            tracking: numbers and counts them.
            show: is given every annotated picture; the run ends when it says False.
            strict: an item that cannot be read ends the run with its DataError.
        """
        self._class_names, self._edges = predictor.class_names, predictor.points_card.point_edges
        self._point_names = predictor.points_card.point_names
        self.predictor = predictor if tracking is None else predictor.with_conf(tracking.conf_floor)
        self._tracking, self._show, self._strict = tracking, show, strict
        self._tracked: Tracked | None = None  # of the frame that is being written
        self._films: dict[int, _Film] = {}
        self._last: Detections | None = None  # of the frame that was written last
        self._leave = threading.Event()

    def paint(self, frame: Frame, detections: Detections) -> Callable[[], Image]:
        """How the frame is drawn, with the trails and counts it has now; what `open_sinks` takes as `painter`."""
        tracked = self._tracked
        trails, marks = (None, ()) if tracked is None else (tracked.trails, tracked.marks)
        return lambda: draw(frame.image_rgb, detections, self._class_names, self._edges, trails=trails, lines=marks)

    def run(self, items: Sequence[tuple[int, Item]], reading: Reading, sinks: Sinks) -> Generator[Record]:
        """Work through the items; gives the record of each picture, each error and each video's end.

        Args:
            items: with their positions among all of the run.
            reading: how they are read.
            sinks: where results go. They are closed at the end, and aborted where an error ends the run.
        Raises:
            DataError: with `strict`, what could not be read.
            RunError: an output cannot be written.
        """
        with sinks, closing(self.predictor.events(items, reading, self._leave)) as events:
            yield from self._each(events, sinks)

    def leave(self) -> bool:
        """End the live streams where they are; all they gave is written, and their ends. False where none has begun.

        It may be called from a signal's handler.
        """
        begun = any(film.item.kind == "stream" for film in list(self._films.values()))
        if begun:
            self._leave.set()
        return begun

    def counts_of_photos(self) -> Counts:
        """Crossings counted over photos that are a film's frames; {} where there were none."""
        return {} if self._tracking is None else self._tracking.counts_of_photos()

    def _each(self, events: Iterable[Event], sinks: Sinks) -> Iterator[Record]:
        for event in events:
            yield self._take(event, sinks)
            if isinstance(event, tuple) and self._show is not None and not self._leave.is_set():
                stays = self._show(self._painted(event[0]))
                if not stays and not self.leave():
                    return

    def _take(self, event: Event, sinks: Sinks) -> Record:
        if isinstance(event, Unreadable):
            if self._strict:
                raise event.error
            values = error_record(event)
            sinks.unreadable(event, values)
            return values
        if isinstance(event, Ended):
            return self._end(event, sinks)
        frame, detections = event
        if self._tracking is not None:
            self._tracked = self._tracking.follow(frame, detections)
            detections = self._tracked.detections
        if frame.video is not None and frame.time_s is not None:
            film = self._films.setdefault(frame.index, _Film(frame.item))
            film.until_s = frame.time_s + float(frame.video.every / frame.video.fps)
        self._last = detections
        return sinks.write(frame, detections, record(frame, detections, self._class_names, self._point_names))

    def _end(self, ended: Ended, sinks: Sinks) -> Record:
        film = self._films.pop(ended.index, None)
        counts = None if self._tracking is None else self._tracking.end(ended.index) or None
        values = ended_record(ended, None if film is None else film.until_s, counts)
        sinks.ended(ended, values)
        return values

    def _painted(self, frame: Frame) -> Image:
        assert self._last is not None
        return self.paint(frame, self._last)()


def header_of(predictor: Predictor, reading: Reading, settings: dict[str, Any]) -> Record:
    """The "run" record: the model, and everything that decides which boxes are found.

    Args:
        predictor: as the user asked for it.
        reading: how items are read.
        settings: what else decides: tracking, lines, shard.
    """
    chosen = predictor.selection
    labels = range(len(predictor.class_names)) if chosen.classes is None else chosen.classes
    own: dict[str, Any] = {
        "conf": chosen.conf
        if chosen.class_conf is None
        else dict(zip(predictor.class_names, chosen.class_conf, strict=True)),
        "iou": chosen.iou,
        "max_det": chosen.max_det,
        "nms": chosen.nms,
        "classes": [predictor.class_names[label] for label in labels],
        "size": list(predictor.canvas_hw),
        "tile": None if predictor.tiling is None else [predictor.tiling.side_px, predictor.tiling.overlap],
        "batch": reading.batch,
        "every": reading.every,
        "start_s": reading.start_s,
        "end_s": reading.end_s,
    }
    if predictor.landmarks is not None:
        path = predictor.landmarks.path
        own["landmarks"] = None if path is None else sha256_of(path)
    return run_record(
        file=None if predictor.path is None else predictor.path.name,
        sha256=None if predictor.path is None else sha256_of(predictor.path),
        engine=predictor.engine.name,
        class_names=predictor.class_names,
        point_names=predictor.points_card.point_names,
        settings=own | settings,
    )
