"""The pipeline's threads: order, errors in their places, a bounded distance to the consumer, and a clean end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from detkit.detections import Detections
from detkit.errors import DataError, WeightsError
from detkit.images import Image
from detkit.infer.frames import Ended, Frame, Item, Unreadable, VideoInfo
from detkit.infer.pipeline import Event, Stages, run

LIVE = VideoInfo((4, 6), Fraction(25), Fraction(1, 25))
FILM = VideoInfo((4, 6), Fraction(25), Fraction(1, 25), frame_count=3, duration_s=0.12)


def items_of(*names: str) -> list[tuple[int, Item]]:
    """bad* cannot be read; *.mp4 is a film of three frames; cam* is a live stream of three, net* one with an end."""
    kinds = {"mp4": "video", "cam": "stream", "net": "stream"}
    found = []
    for index, name in enumerate(names):
        kind = next((kind for key, kind in kinds.items() if key in name), "photo")
        found.append((index, Item(name, Path(name), kind)))  # type: ignore[arg-type]
    return found


class Film:
    """A reader of three frames."""

    def __init__(self, item: Item, index: int) -> None:
        if item.name.startswith("bad"):
            raise DataError("is no video", file=item.name)
        self.item, self.index, self.given = item, index, 0

    def __iter__(self) -> Iterator[Frame]:
        info = LIVE if "cam" in self.item.name else FILM
        for number in range(3):
            image = np.full((4, 6, 3), number, np.uint8)
            self.given += 1
            yield Frame(image, self.index, number / 25, self.item.name, self.item, number, number, info)

    def ended(self) -> Ended:
        return Ended(self.item.name, self.index, self.item, self.given)


class Work:
    """Stages that note what they are given; a photo's one score is its index / 100."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.batches: list[int] = []

    def read_photo(self, item: Item) -> tuple[Image, tuple[int, int], Image]:
        self.read.append(item.name)
        if item.name.startswith("bad"):
            raise DataError("is not an image", file=item.name)
        value = int(item.name) if item.name.isdecimal() else 7
        return np.full((2, 3, 3), value, np.uint8), (20, 30), np.full((20, 30, 3), value, np.uint8)

    def detect(self, seen: Sequence[tuple[int, tuple[int, int]]], pictures: Sequence[Image]) -> list[Detections]:
        assert len(seen) == len(pictures)
        self.batches.append(len(seen))
        box = np.array([[0, 0, 1, 1]], np.float32)
        return [Detections(hw, box, np.zeros(1, np.int64), np.array([value / 100])) for value, hw in seen]

    def stages(self, batch: int = 1, parallel: int = 1) -> Stages[tuple[int, tuple[int, int]]]:
        prepare = lambda pixels, full_hw: (int(pixels.max()), full_hw)  # noqa: E731
        return Stages(self.read_photo, Film, prepare, self.detect, batch, parallel)


def described(events: Sequence[Event]) -> list[str]:
    """One short text an event."""
    texts = []
    for event in events:
        if isinstance(event, tuple):
            frame, found = event
            number = "" if frame.number is None else f":{frame.number}"
            texts.append(f"{frame.index} {frame.name}{number} {round(100 * found.scores[0])}")
        else:
            texts.append(f"{event.index} {event.name} {type(event).__name__}")
    return texts


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("parallel", [1, 4])
def test_results_keep_the_order_and_errors_stand_in_their_places(batch: int, parallel: int) -> None:
    items = items_of("10", "bad", "11", "a.mp4", "bad.mp4", "12", "13")
    assert described(list(run(items, Work().stages(batch, parallel)))) == [
        "0 10 10", "1 bad Unreadable", "2 11 11",
        "3 a.mp4:0 0", "3 a.mp4:1 1", "3 a.mp4:2 2", "3 a.mp4 Ended", "4 bad.mp4 Unreadable", "5 12 12", "6 13 13",
    ]  # fmt: skip


def test_detections_lie_on_the_full_photo_and_the_picture_is_handed_on() -> None:
    [(frame, found)] = [event for event in run(items_of("9"), Work().stages()) if isinstance(event, tuple)]
    assert found.size_hw == frame.image_rgb.shape[:2] == (20, 30)


def test_pictures_go_through_the_network_in_full_batches() -> None:
    work = Work()
    list(run(items_of(*[str(k) for k in range(8)]), work.stages(batch=3)))
    assert sorted(work.batches) == [2, 3, 3]


def test_no_items_and_no_readable_items() -> None:
    work = Work()
    assert list(run([], work.stages())) == []
    assert described(list(run(items_of("bad1", "bad2"), work.stages(batch=4)))) == [
        "0 bad1 Unreadable",
        "1 bad2 Unreadable",
    ]
    assert work.batches == []


def test_a_slow_consumer_slows_the_reading_down() -> None:
    work = Work()
    events = run(items_of(*[str(k) for k in range(100)]), work.stages(parallel=2))
    next(events)
    for _ in range(50):  # let the threads run as far as they will
        threading.Event().wait(0.005)
    assert len(work.read) < 20
    assert len(list(events)) == 99


def test_leaving_early_ends_all_threads() -> None:
    before = threading.active_count()
    events = run(items_of(*[str(k) for k in range(100)], "cam0"), Work().stages(batch=2, parallel=3))
    next(events)
    events.close()
    assert threading.active_count() == before


def test_a_failure_of_the_network_is_raised_where_results_are_taken() -> None:
    work = Work()

    def broken(seen: object, pictures: object) -> list[Detections]:
        raise WeightsError("the network fails")

    stages = work.stages()
    events = run(items_of("1", "2"), Stages(stages.read_photo, stages.open_video, stages.prepare, broken))
    with pytest.raises(WeightsError, match="fails"):
        next(events)


def test_a_bug_in_a_reader_is_raised_too() -> None:
    stages = Work().stages()

    def broken(item: Item, index: int) -> Film:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run(items_of("a.mp4"), Stages(stages.read_photo, broken, stages.prepare, stages.detect)))


def test_streams_come_last_side_by_side_and_each_says_how_it_ended() -> None:
    events = list(run(items_of("cam0", "5", "net1", "badcam"), Work().stages()))
    assert described(events[:1]) == ["1 5 5"]
    of_net = [text for text in described(events) if " net1" in text]
    assert of_net == ["2 net1:0 0", "2 net1:1 1", "2 net1:2 2", "2 net1 Ended"]  # it has an end: nothing is dropped
    [camera] = [event for event in events if isinstance(event, Ended) and event.name == "cam0"]
    given = sum(isinstance(event, tuple) and event[0].name == "cam0" for event in events)
    assert (camera.frames, camera.frames + camera.dropped) == (given, 3)
    assert [type(event) for event in events if not isinstance(event, tuple) and event.name == "badcam"] == [Unreadable]
