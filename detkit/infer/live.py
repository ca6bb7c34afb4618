"""Live streams, side by side: each is read by a thread of its own, and what is not fetched in time gives way.

A camera does not wait. Where the network is slower than the cameras together, each hands over its newest picture and
those before it are dropped and counted, so that what is shown is never seconds old. A stream that has an end (a film
read over HTTP) loses nothing: its reader waits. Whoever has seen enough says so, and every stream ends where it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from detkit.errors import DataError
from detkit.infer.frames import Ended, Frame, Item, Unreadable

if TYPE_CHECKING:
    from detkit.infer.pipeline import FrameReader

Arrived = Frame | Unreadable | Ended

_PATIENCE_S = 0.1  # how soon it is noticed that the user has seen enough


@dataclass(slots=True)
class _Slot:
    """What one stream has to hand over."""

    item: Item
    frame: Frame | None = None
    end: Unreadable | Ended | None = None
    arrived: int = 0
    given: int = 0
    fetched_all: bool = False


class LiveStreams:
    """Iterates over what several streams have at a time: lists of at most one picture of each, until all have ended."""

    def __init__(
        self,
        items: Sequence[tuple[int, Item]],
        open_video: Callable[[Item, int], FrameReader],
        leave: threading.Event | None = None,
    ) -> None:
        """Start a reading thread for each stream.

        Args:
            items: streams, each with its position in the run.
            open_video: opens one; DataError where that fails.
            leave: set by whoever has seen enough: each stream ends with the picture it has, and is said to have ended.
        """
        self._open = open_video
        self._leave = leave or threading.Event()
        self._changed = threading.Condition()
        self._stopped = False
        self._slots = {index: _Slot(item) for index, item in items}
        for index, item in items:  # daemons: a camera that hangs must not keep the program alive
            threading.Thread(target=self._read, args=(index, item), name=f"detkit-live-{index}", daemon=True).start()

    def __iter__(self) -> Iterator[list[Arrived]]:
        while arrived := self._wait():
            yield arrived

    def close(self) -> None:
        """Tell the threads to end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _wait(self) -> list[Arrived]:
        """What the streams have, as soon as one has something; nothing when all have ended."""
        with self._changed:
            while not self._changed.wait_for(self._is_something, _PATIENCE_S):
                pass
            if self._leave.is_set():
                self._end_all()
            return [] if self._stopped else self._fetch()

    def _is_something(self) -> bool:
        return self._stopped or self._leave.is_set() or self._waiting() or self._over()

    def _end_all(self) -> None:
        for index, slot in self._slots.items():
            if slot.end is None:
                slot.end = Ended(slot.item.name, index, slot.item, slot.arrived)

    def _waiting(self) -> bool:
        return any(
            slot.frame is not None or (slot.end is not None and not slot.fetched_all) for slot in self._slots.values()
        )

    def _over(self) -> bool:
        return all(slot.fetched_all for slot in self._slots.values())

    def _fetch(self) -> list[Arrived]:
        arrived: list[Arrived] = []
        for slot in self._slots.values():
            if slot.frame is not None:
                arrived.append(slot.frame)
                slot.frame, slot.given = None, slot.given + 1
            elif slot.end is not None and not slot.fetched_all:
                slot.fetched_all = True
                arrived.append(_counted(slot.end, slot.given))
        self._changed.notify_all()  # a reader may be waiting for its slot
        return arrived

    def _read(self, index: int, item: Item) -> None:
        """A thread's work: one stream from its start to its end."""
        try:
            reader = self._open(item, index)
            for frame in reader:
                if not self._hand_over(index, frame):
                    return
            end: Unreadable | Ended = reader.ended()
        except DataError as error:
            end = Unreadable(item.name, index, error, item)
        with self._changed:
            slot = self._slots[index]
            slot.end = slot.end or end
            self._changed.notify_all()

    def _hand_over(self, index: int, frame: Frame) -> bool:
        """Leave a frame in the stream's slot; False when nobody wants more."""
        has_an_end = frame.video is not None and frame.video.duration_s is not None
        slot = self._slots[index]
        with self._changed:
            if has_an_end:
                self._changed.wait_for(lambda: self._stopped or slot.end is not None or slot.frame is None)
            if self._stopped or slot.end is not None:
                return False
            slot.frame, slot.arrived = frame, slot.arrived + 1
            self._changed.notify_all()
            return True


def _counted(end: Unreadable | Ended, given: int) -> Unreadable | Ended:
    """The end with the frames that were handed over, and how many gave way."""
    if isinstance(end, Unreadable):
        return end
    dropped = end.frames - given
    return replace(end, frames=given, dropped=dropped)
