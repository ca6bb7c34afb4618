"""Counting what crosses a line: `--count` and its lines, and who went over which of them, and which way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.draw import LineMark
from detkit.errors import UsageError

Direction = Literal["in", "out"]
Counts = dict[str, dict[str, dict[str, int]]]  # line -> class -> {"in": how often, "out": how often}
XY = tuple[float, float]

_SYNTAX = "[NAME=]X1,Y1,X2,Y2 in pixels (door=0,300,768,300) or all in percent of the picture (0%,70%,100%,70%)"
_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?(%?)")
_NAME = re.compile(r"[\w][\w .-]*")
_MARGIN = 0.05  # of the box's size across the line: so far a foot must go beyond the line to have crossed it
_FORGET_AFTER = 1000  # updates without the track


@dataclass(frozen=True, slots=True)
class CountLine:
    """A line to count at, from point 1 to point 2; it ends at them.

    "in" is from the left hand to the right hand of someone who walks from point 1 to point 2:

                      left                        For a line drawn from the left of the picture
                       | in                       to its right, "in" is downwards, mostly towards
        1 -----------> | ------------> 2          the camera, and "out" is upwards. The other way
                       v                          round: swap the points.
                     right

    Args:
        name: how the counts call it.
        points: x1, y1, x2, y2.
        percent: they are 0-100 % of the picture's width and height, not pixels.
    """

    name: str
    points: tuple[float, float, float, float]
    percent: bool = False

    def on_picture(self, size_hw: tuple[int, int]) -> tuple[XY, XY]:
        """Point 1 and point 2 in the pixels of a picture.

        Raises:
            UsageError: no part of the line can lie in a picture of this size.
        """
        height, width = size_hw
        x1, y1, x2, y2 = self.points
        if self.percent:
            x1, y1, x2, y2 = x1 * width / 100, y1 * height / 100, x2 * width / 100, y2 * height / 100
        if min(x1, x2) > width or min(y1, y2) > height:
            found = f"{x1:g},{y1:g},{x2:g},{y2:g}"
            raise UsageError(
                f"count line {self.name!r} lies outside the picture", found=found, expected=f"within {width}x{height}"
            )
        return (x1, y1), (x2, y2)


def parse_count_lines(texts: Iterable[str]) -> tuple[CountLine, ...]:
    """The lines that `--count` was given; those without a name are called line1, line2 … by their position.

    Raises:
        UsageError: a text is no line, or two lines have one name.
    """
    lines = tuple(_parse(text, f"line{number}") for number, text in enumerate(texts, start=1))
    for name, times in Counter(line.name for line in lines).items():
        if times > 1:
            raise UsageError("count lines need names of their own", found=f"{times} called {name!r}")
    return lines


def _parse(text: str, unnamed: str) -> CountLine:
    before, equals, after = text.rpartition("=")
    name = before.strip() if equals else unnamed
    numbers = [_NUMBER.fullmatch(part.strip()) for part in after.split(",")]
    if not _NAME.fullmatch(name) or len(numbers) != 4 or None in numbers:
        raise UsageError("--count needs a line", found=repr(text), expected=_SYNTAX)
    units = {match[2] for match in numbers if match}
    if len(units) > 1:
        raise UsageError("--count mixes pixels and percent", found=repr(text), expected=_SYNTAX)
    x1, y1, x2, y2 = (float(match[0].rstrip("%")) for match in numbers if match)
    percent = units == {"%"}
    if percent and max(x1, y1, x2, y2) > 100:
        raise UsageError("--count goes beyond the picture", found=repr(text), expected="0% to 100%")
    if (x1, y1) == (x2, y2):
        raise UsageError("--count needs two different points", found=repr(text), expected=_SYNTAX)
    return CountLine(name, (x1, y1, x2, y2), percent)


def feet_xy(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float64]:
    """Where objects stand: the middle of each box's bottom edge, float64 [N, 2] from float [N, 4]."""
    boxes = np.asarray(boxes_xyxy, np.float64)
    return np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]], axis=1)


@dataclass(frozen=True, slots=True)
class Crossing:
    """One object went over one line."""

    line: str
    track_id: int
    label: int
    direction: Direction


@dataclass(slots=True)
class _Walk:
    """How one track stands to one line: where it was last, and on which side it was for sure (0: not known yet)."""

    offset_px: float
    share: float
    seen: int
    side: int = 0
    crossed_at: float = 0.0  # share of the line at which it last changed sides


class Crossings:
    """Counts the tracks of one video that cross its lines, by line, class and direction.

    A track crosses when its foot (see `feet_xy`) goes from one side to the other between the line's two points, and
    5 % of its box's size beyond: standing, trembling or walking on the line, or turning back on it, is no crossing.
    A foot that jumps over the line from one frame to the next has crossed it. One that comes back is counted again.
    """

    def __init__(self, lines: Sequence[CountLine], class_names: Sequence[str]) -> None:
        """Start at zero; a video takes one `Crossings` of its own."""
        self.lines, self._class_names = tuple(lines), tuple(class_names)
        self._totals: Counter[tuple[str, int, Direction]] = Counter()
        self._walks: dict[tuple[str, int], _Walk] = {}
        self._size_hw: tuple[int, int] | None = None
        self._segments: list[_Segment] = []
        self._updates = 0

    @property
    def counts(self) -> Counts:
        """The counts so far as plain values: {"door": {"person": {"in": 3, "out": 1}}}."""
        labels = sorted({label for _, label, _ in self._totals})
        found: Counts = {line.name: {} for line in self.lines}
        for line in self.lines:
            for label in labels:
                both = {way: self._totals[line.name, label, way] for way in ("in", "out")}
                if any(both.values()):
                    found[line.name][self._class_names[label]] = both
        return found

    def update(self, detections: Detections) -> tuple[Crossing, ...]:
        """Take the next frame, and tell who crossed a line in it. Boxes without a track (id below 1) do not count.

        Raises:
            ValueError: the detections carry no track ids.
            UsageError: a line lies outside the picture.
        """
        if detections.track_ids is None:
            raise ValueError("crossings are counted of tracked detections, these have no track_ids")
        self._fit(detections.size_hw)
        self._updates += 1
        feet, crossed = feet_xy(detections.boxes_xyxy), []
        sizes_wh = detections.boxes_xyxy[:, 2:] - detections.boxes_xyxy[:, :2]
        tracks = zip(detections.track_ids.tolist(), detections.labels.tolist(), strict=True)
        for (track_id, label), foot, size_wh in zip(tracks, feet.tolist(), sizes_wh.tolist(), strict=True):
            for segment in self._segments if track_id > 0 else ():
                direction = self._step(segment, track_id, foot, size_wh)
                if direction is not None:
                    crossed.append(Crossing(segment.name, track_id, label, direction))
        self._totals.update((each.line, each.label, each.direction) for each in crossed)
        self._forget()
        return tuple(crossed)

    def marks(self, size_hw: tuple[int, int]) -> list[LineMark]:
        """The lines with their counts so far, for `draw`."""
        counts = self.counts
        return [LineMark(*line.on_picture(size_hw), _caption(line.name, counts[line.name])) for line in self.lines]

    def _fit(self, size_hw: tuple[int, int]) -> None:
        """Lay the lines on pictures of this size; where the size changes, what was seen before is forgotten."""
        if size_hw != self._size_hw:
            self._segments = [_Segment(line.name, *line.on_picture(size_hw)) for line in self.lines]
            self._size_hw = size_hw
            self._walks.clear()

    def _step(self, segment: _Segment, track_id: int, foot: XY, size_wh: XY) -> Direction | None:
        offset_px, share = segment.place(foot)
        walk = self._walks.setdefault((segment.name, track_id), _Walk(offset_px, share, self._updates))
        if (walk.offset_px > 0) != (offset_px > 0):
            passed = walk.offset_px / (walk.offset_px - offset_px)
            walk.crossed_at = walk.share + passed * (share - walk.share)
        walk.offset_px, walk.share, walk.seen = offset_px, share, self._updates
        if abs(offset_px) < segment.margin_px(size_wh):
            return None
        before, walk.side = walk.side, 1 if offset_px > 0 else -1
        if before in (0, walk.side) or not 0 <= walk.crossed_at <= 1:
            return None
        return "in" if walk.side > 0 else "out"

    def _forget(self) -> None:
        """Drop tracks that ended long ago, so that memory stays flat."""
        if self._updates % _FORGET_AFTER == 0:
            oldest = self._updates - _FORGET_AFTER
            self._walks = {key: walk for key, walk in self._walks.items() if walk.seen > oldest}


class _Segment:
    """A line on a picture, as seen walking along it."""

    def __init__(self, name: str, start_xy: XY, end_xy: XY) -> None:
        self.name, self._start_xy = name, start_xy
        along_x, along_y = end_xy[0] - start_xy[0], end_xy[1] - start_xy[1]
        self._length_px = (along_x**2 + along_y**2) ** 0.5
        self._along_xy = along_x / self._length_px, along_y / self._length_px

    def place(self, xy: XY) -> tuple[float, float]:
        """Pixels to the right of the line (negative: left), and how far along it as a share of its length."""
        x, y = xy[0] - self._start_xy[0], xy[1] - self._start_xy[1]
        along_x, along_y = self._along_xy
        return along_x * y - along_y * x, (along_x * x + along_y * y) / self._length_px

    def margin_px(self, size_wh: XY) -> float:
        """How far beyond the line the foot of a box of this size is for sure on the other side."""
        return _MARGIN * (abs(self._along_xy[1]) * size_wh[0] + abs(self._along_xy[0]) * size_wh[1])


def _caption(name: str, by_class: dict[str, dict[str, int]]) -> tuple[str, ...]:
    """Rows of text: the line's name with its total, then each class where there are several."""
    rows = [f"{label} in {ways['in']}, out {ways['out']}" for label, ways in by_class.items()]
    if len(rows) == 1:
        return (f"{name}: {rows[0]}",)
    entered, left = (sum(ways[way] for ways in by_class.values()) for way in ("in", "out"))
    return (f"{name}: in {entered}, out {left}", *rows)
