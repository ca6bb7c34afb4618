"""Reading video: files, stream URLs and cameras, one upright RGB frame after the other with its exact time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from detkit.errors import DataError
from detkit.infer.frames import Ended, Frame, Item, VideoInfo
from detkit.infer.video_decode import Decoder
from detkit.infer.video_pixels import Pixels

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_FALLBACK_FPS = Fraction(25)  # what cameras mean that do not say
_FASTEST_FPS = 1000  # above, it is a clock and no frame rate
_BREAK_S = 1.0  # times that go back by more begin anew: two recordings in one file, a camera that restarted


def probe(path: Path) -> VideoInfo:
    """What a video file says of itself; its first frame is decoded, no more.

    Raises:
        DataError: it is no video, or not a frame of it can be decoded.
    """
    with VideoReader(Item(str(path), Path(path.name), "video", path), 0) as reader:
        return reader.info


class VideoReader:
    """Iterates over the frames of a video file, stream or camera, once.

    Times are counted from the film's first frame: `time_s` 0 is its start, whatever clock the file has. A part begins
    at the first frame not before `start_s` and ends before the first at `end_s` or later; `every` counts from the
    first frame of the part. Numbers are always those of the whole film: where the file's index makes them certain the
    reader goes to the key frame before the start, else all before it is decoded. Frames that change their size
    midway get that of the first; pixels that are not square stay as stored; the turn of the film is applied.
    """

    def __init__(
        self, item: Item, index: int, *, every: int = 1, start_s: float | None = None, end_s: float | None = None
    ) -> None:
        """Open it and decode the first frame; a stream is waited for (Ctrl-C is heard), up to a time limit.

        Args:
            item: of kind "video" or "stream".
            index: its position among all items of the run.
            every: give each how many-th frame.
            start_s, end_s: the part to give, in seconds since the first frame.
        Raises:
            DataError: it cannot be opened, or not a frame of it can be decoded.
            ValueError: `every` below 1, or a part that is empty or begins before 0.
        """
        if every < 1 or (start_s or 0) < 0 or (end_s is not None and end_s <= (start_s or 0)):
            raise ValueError(f"every {every}, start {start_s}, end {end_s}: the part to read is empty")
        self._item, self._index, self._every = item, index, every
        self._start_s, self._end_s = start_s or 0.0, end_s
        self._frames, first = self._open()
        self._pixels = Pixels(first)
        self.info = self._describe(every, start_s, end_s)
        self._clock = _Clock(self.info)
        self._given = 0
        self._last_s = 0.0
        self._ended: Ended | None = None

    def __iter__(self) -> Iterator[Frame]:
        if self._ended is not None:
            return
        warning = yield from self._part()
        self._ended = Ended(self._item.name, self._index, self._item, self._given, warning)
        self.close()

    def ended(self) -> Ended:
        """How it ended: how many frames it gave, and what was wrong with it.

        Raises:
            RuntimeError: the iteration is not through.
        """
        if self._ended is None:
            raise RuntimeError("the video has frames left")
        return self._ended

    def close(self) -> None:
        """Let go of the file or camera."""
        self._decoder.container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> tuple[Iterator[tuple[int, VideoFrame]], VideoFrame]:
        """The numbered frames, and the first of them."""
        self._decoder = Decoder(self._item)
        jumped = self._start_s > 0 and self._item.kind == "video" and self._decoder.jump(self._start_s)
        if self._start_s > 0 and not jumped:
            self.close()
            self._decoder = Decoder(self._item)
        frames = self._numbered()
        first = next(frames, None)
        if jumped and (first is None or not first[1].key_frame):  # the index is wrong
            self.close()
            self._decoder = Decoder(self._item)
            frames = self._numbered()
            first = next(frames, None)
        if first is None:
            self.close()
            found = f"{self._decoder.stream.name} data that cannot be decoded"
            raise DataError("not a frame of it can be read", file=self._item.name, found=found, expected="a video")
        return _with_first(first, frames), first[1]

    def _numbered(self) -> Iterator[tuple[int, VideoFrame]]:
        decoder = self._decoder
        for frame in decoder:
            yield decoder.position - 1, frame

    def _describe(self, every: int, start_s: float | None, end_s: float | None) -> VideoInfo:
        stream, container = self._decoder.stream, self._decoder.container
        time_base = stream.time_base or Fraction(1, 1000)
        duration_s = float(stream.duration * time_base) if stream.duration else (container.duration or 0) / 1e6
        return VideoInfo(
            size_hw=self._pixels.size_hw,
            fps=_frame_rate(stream),
            time_base=time_base,
            frame_count=stream.frames or None,
            duration_s=duration_s if duration_s > 0 else None,
            rotation_deg=self._pixels.rotation_deg,
            every=every,
            start_s=start_s,
            end_s=end_s,
        )

    def _part(self) -> Generator[Frame, None, str | None]:
        """The frames asked for; returns what was wrong."""
        offset: int | None = None  # of the first frame of the part
        for number, frame in self._frames:
            pts = self._clock.pts(frame.pts)
            time_s = self._time_s(pts)
            if self._end_s is not None and time_s >= self._end_s:
                return None
            self._last_s = time_s
            if time_s < self._start_s:
                continue
            offset = number if offset is None else offset
            if (number - offset) % self._every:
                continue
            self._given += 1
            image_rgb = self._pixels.rgb(frame)
            yield Frame(
                image_rgb, self._index, time_s, self._item.name, self._item, number=number, pts=pts, video=self.info
            )
        return self._warning()

    def _time_s(self, pts: int) -> float:
        first = self._decoder.first_pts
        ticks = (pts - (first or 0)) * self.info.time_base.numerator
        return ticks / self.info.time_base.denominator  # one division: 0.4 s is the float 0.4

    def _warning(self) -> str | None:
        damage = self._decoder.damage(self._last_s)
        if self._given == 0:
            nothing = f"has no frame from {self._start_s:g} s on: its last one is at {self._last_s:.2f} s"
            return f"{nothing}; {damage}" if damage else nothing
        return damage


class _Clock:
    """Times that only go forward: a missing one is the next by the frame rate, one that goes back is corrected."""

    def __init__(self, info: VideoInfo) -> None:
        self._step = max(1, round(1 / (info.fps * info.time_base)))
        self._break = round(_BREAK_S / info.time_base)
        self._shift = 0
        self._last: int | None = None

    def pts(self, given: int | None) -> int:
        """The time of the next frame in ticks."""
        last = self._last
        if given is None:
            pts = 0 if last is None else last + self._step
        else:
            pts = given + self._shift
            if last is not None and pts <= last:
                if last - pts > self._break:
                    self._shift += last + self._step - pts
                    pts = last + self._step
                else:
                    pts = last + 1
        self._last = pts
        return pts


def _frame_rate(stream: VideoStream) -> Fraction:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate is not None and 0 < rate <= _FASTEST_FPS:
            return Fraction(rate)
    return _FALLBACK_FPS


def _with_first(
    first: tuple[int, VideoFrame], rest: Iterator[tuple[int, VideoFrame]]
) -> Iterator[tuple[int, VideoFrame]]:
    yield first
    yield from rest
