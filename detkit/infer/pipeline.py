"""The pipeline: reading, the network and the choice of boxes overlap in threads; results keep the order of the items.

    items -> feeder -> reading pool -> network pool -> bounded queue -> whoever iterates

Photos are read and laid on canvases by several threads, a video's frames are decoded by one. Live streams are read side
by side, see `detkit.infer.live`. The queue is bounded: a slow consumer slows the reading down, and memory stays flat.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from detkit.detections import Detections
from detkit.errors import DataError
from detkit.images import Image
from detkit.infer.frames import Ended, Frame, Item, Unreadable
from detkit.infer.live import LiveStreams

Canvases = TypeVar("Canvases")
Event = tuple[Frame, Detections] | Unreadable | Ended
Indexed = tuple[int, Item]

_PATIENCE_S = 0.05  # how often a thread with a full queue before it looks whether the run was broken off


class FrameReader(Protocol):
    """The frames of one video or stream, and how it ended."""

    def __iter__(self) -> Iterator[Frame]: ...

    def ended(self) -> Ended:
        """What to say of it, once its frames are through."""
        ...


@dataclass(frozen=True, slots=True)
class Stages(Generic[Canvases]):
    """What is done to each picture; every function may be called from several threads at once.

    Args:
        read_photo: the pixels for the network, the photo's full height and width, and the picture to hand on.
        open_video: a reader of a video or stream, given its index among the items.
        prepare: pixels and full height and width -> what the network gets to see.
        detect: that of several pictures, and the pictures -> their detections.
        batch: pictures to hand to `detect` together.
        parallel: calls of `detect` at a time.
    """

    read_photo: Callable[[Item], tuple[Image, tuple[int, int], Image]]
    open_video: Callable[[Item, int], FrameReader]
    prepare: Callable[[Image, tuple[int, int]], Canvases]
    detect: Callable[[Sequence[Canvases], Sequence[Image]], list[Detections]]
    batch: int = 1
    parallel: int = 1


def run(items: Sequence[Indexed], stages: Stages[Canvases], leave: threading.Event | None = None) -> Generator[Event]:
    """Detections on every picture of the items, in order; an item that cannot be read is reported in its place.

    Args:
        items: with each its position in the whole run. Streams come after all others, their frames as they arrive.
        stages: what is done.
        leave: ends live streams where they are, once it is set; their ends are reported like any other.
    """
    pipeline = _Pipeline(stages, leave or threading.Event())
    try:
        yield from pipeline.events(items)
    finally:
        pipeline.close()


class _Pipeline(Generic[Canvases]):
    """The threads of one run and the queues between them."""

    def __init__(self, stages: Stages[Canvases], leave: threading.Event) -> None:
        self._stages, self._leave = stages, leave
        self._readers = ThreadPoolExecutor(max(2, stages.parallel), "detkit-read")
        self._networks = ThreadPoolExecutor(stages.parallel, "detkit-network")
        self._done: queue.Queue[Future[list[Event]] | None] = queue.Queue(2 * stages.parallel + 2)
        self._stop = threading.Event()
        self._feeder: threading.Thread | None = None
        self._live: LiveStreams | None = None

    def events(self, items: Sequence[Indexed]) -> Iterator[Event]:
        self._feeder = threading.Thread(target=self._feed, args=(items,), name="detkit-feed", daemon=True)
        self._feeder.start()
        while (done := self._done.get()) is not None:
            yield from done.result()

    def close(self) -> None:
        """End all threads, whatever they are at."""
        self._stop.set()
        if self._live is not None:
            self._live.close()
        if self._feeder is not None:
            self._feeder.join()
        self._networks.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)

    def _feed(self, items: Sequence[Indexed]) -> None:
        """The feeder's work: hand every item on, then the end; a failure is raised where the results are taken."""
        try:
            group = _Group(self)
            for index, item in items:
                if self._stop.is_set():
                    return
                if item.kind == "photo":
                    group.add(self._readers.submit(self._photo, index, item))
                elif item.kind == "video":
                    self._feed_video(index, item, group)
            group.flush()
            self._feed_streams([(index, item) for index, item in items if item.kind == "stream"])
        except BaseException as error:  # noqa: BLE001  (raised again by whoever takes the result)
            self.put(_failed(error))
        self.put(None)

    def _feed_video(self, index: int, item: Item, group: _Group[Canvases]) -> None:
        try:
            reader = self._stages.open_video(item, index)
            for frame in reader:
                if self._stop.is_set():
                    return
                group.add(self._readers.submit(self._frame, frame))
        except DataError as error:
            group.add(_settled(Unreadable(item.name, index, error, item)))
            return
        group.add(_settled(reader.ended()))

    def _feed_streams(self, items: Sequence[Indexed]) -> None:
        if not items or self._stop.is_set():
            return
        self._live = LiveStreams(items, self._stages.open_video, self._leave)
        if self._stop.is_set():  # broken off meanwhile, by someone who saw no streams yet
            self._live.close()
        for arrived in self._live:
            group = _Group(self)
            for one in arrived:  # what the cameras have by now goes through the network together
                group.add(self._readers.submit(self._frame, one) if isinstance(one, Frame) else _settled(one))
            group.flush()

    def put(self, done: Future[list[Event]] | None) -> None:
        """Queue a result, waiting for room as long as the run goes on."""
        while not self._stop.is_set():
            try:
                self._done.put(done, timeout=_PATIENCE_S)
                return
            except queue.Full:
                continue

    def _photo(self, index: int, item: Item) -> tuple[Frame, Canvases] | Unreadable:
        try:
            pixels, full_hw, picture = self._stages.read_photo(item)
        except DataError as error:
            return Unreadable(item.name, index, error, item)
        return Frame(picture, index, None, item.name, item), self._stages.prepare(pixels, full_hw)

    def _frame(self, frame: Frame) -> tuple[Frame, Canvases]:
        height, width = frame.image_rgb.shape[:2]
        return frame, self._stages.prepare(frame.image_rgb, (height, width))

    def detect(self, parts: Sequence[Future[tuple[Frame, Canvases] | Unreadable | Ended]]) -> Future[list[Event]]:
        """Start the network on the pictures of a group, once they are read."""
        return self._networks.submit(self._detect, parts)

    def _detect(self, parts: Sequence[Future[tuple[Frame, Canvases] | Unreadable | Ended]]) -> list[Event]:
        read = [part.result() for part in parts]
        pictures = [one for one in read if isinstance(one, tuple)]
        found: list[Detections] = []
        if pictures:
            found = self._stages.detect([seen for _, seen in pictures], [frame.image_rgb for frame, _ in pictures])
        detections = iter(found)
        return [(one[0], next(detections)) if isinstance(one, tuple) else one for one in read]

    @property
    def batch(self) -> int:
        return self._stages.batch


class _Group(Generic[Canvases]):
    """Pictures on their way into the network together, with whatever lies between them."""

    def __init__(self, pipeline: _Pipeline[Canvases]) -> None:
        self._pipeline = pipeline
        self._parts: list[Future[tuple[Frame, Canvases] | Unreadable | Ended]] = []

    def add(self, part: Future[tuple[Frame, Canvases] | Unreadable | Ended]) -> None:
        """One more; a full group is sent off."""
        self._parts.append(part)
        if len(self._parts) >= self._pipeline.batch:
            self.flush()

    def flush(self) -> None:
        """Send off what there is."""
        if self._parts:
            parts, self._parts = self._parts, []
            self._pipeline.put(self._pipeline.detect(parts))


def _settled(event: Unreadable | Ended) -> Future[tuple[Frame, Canvases] | Unreadable | Ended]:
    future: Future[tuple[Frame, Canvases] | Unreadable | Ended] = Future()
    future.set_result(event)
    return future


def _failed(error: BaseException) -> Future[list[Event]]:
    future: Future[list[Event]] = Future()
    future.set_exception(error)
    return future
