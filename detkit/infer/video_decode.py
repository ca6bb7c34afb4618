"""Decoding a film in its order of presentation: what is damaged is noted, what can be read is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from detkit.infer.frames import Item
from detkit.infer.video_source import open_source, video_stream

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_LARGE_PX = 1280 * 720  # from here on several frames are decoded at a time
INDEXED = "mov,mp4,m4a,3gp,3g2,mj2"  # the index of these says what has to come
_TIMED = frozenset({"matroska,webm", "avi", "flv", "asf"})  # of these the header says when they end
_SEEKABLE_CODECS = frozenset({"h264", "hevc", "mjpeg", "vp9", "av1", "prores"})  # one packet is one frame
_SHORTAGE_S = 0.1


@dataclass(slots=True)
class _Health:
    """What went wrong so far; a mark is the number of the last good frame."""

    mark: int | None = None
    failed: int = 0
    lost: int = 0
    repaired: int = 0
    torn: bool = False  # the last packet is not whole
    broken: str | None = None


class Decoder:
    """Iterates over the frames of a video's film, from its start or from an exactly known place.

    Args:
        item: the video or stream.
        threads: False decodes one frame after the other.
    Raises:
        DataError: it cannot be opened or has no film.
    """

    def __init__(self, item: Item, *, threads: bool = True) -> None:
        self._item = item
        self.container = open_source(item)
        self.stream: VideoStream = video_stream(self.container, item)
        width, height = self.stream.codec_context.width, self.stream.codec_context.height
        live = item.kind == "stream"  # there, decoding several frames at a time would be a delay
        self._threaded = threads and not live and width * height >= _LARGE_PX
        self.stream.thread_type = "AUTO" if self._threaded else "SLICE"
        self.position = 0  # frames given, those jumped over included
        self._first_pts: int | None = None
        self._from_pts = -(1 << 63)  # of the key frame gone to
        self._last_dts: int | None = None
        self._end_s = 0.0  # where the last packet of all streams ends
        self._waiting: set[int] = set()  # times of packets whose frames have not come yet
        self._health = _Health()

    @property
    def first_pts(self) -> int | None:
        """The time of the film's first frame, jumped over or not."""
        return self._first_pts

    def __iter__(self) -> Iterator[VideoFrame]:
        for packet in self._packets():
            for frame in self._decode(packet):
                if frame.pts is None or frame.pts >= self._from_pts:
                    self._settle(frame)
                    yield frame
        if self._threaded and self._waiting:  # frames in flight at a damaged end: one by one they can be had
            yield from self._again()

    def jump(self, start_s: float) -> bool:
        """Go to the key frame before a time, if the numbers of the frames from there on are known for certain.

        The packets up to there are read, not decoded. False: nothing is jumped over, and the decoder must be replaced.
        """
        times, keys = self._times_up_to(start_s)
        if not times or not keys or len(set(times)) < len(times):
            return False
        first = min(times)
        key = max((time for time in keys if time <= first + start_s / float(self.stream.time_base or 1)), default=first)
        self.container.seek(key, stream=self.stream)
        self._first_pts, self._from_pts = first, key
        self.position = sum(time < key for time in times)
        return True

    def _times_up_to(self, start_s: float) -> tuple[list[int], list[int]]:
        """Times of all frames before the start, and of the key frames among them; nothing where that is unsure."""
        times: list[int] = []
        keys: list[int] = []
        if self.container.format.name not in (INDEXED, "matroska,webm") or self.stream.name not in _SEEKABLE_CODECS:
            return times, keys
        start = start_s / float(self.stream.time_base or 1)
        for packet in self.container.demux(self.stream):
            if packet.size == 0 or (times and (packet.dts or 0) > times[0] + start):
                break  # frames never come before their decoding time: all others are later
            if packet.pts is None or packet.is_discard or packet.is_corrupt:
                return [], []
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        return times, keys

    def _packets(self) -> Iterator[Packet[VideoStream] | None]:
        """The film's packets, then None; the other streams are watched for their times."""
        import av

        try:
            for packet in self.container.demux():
                if packet.pts is not None:
                    self._end_s = max(self._end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index == self.stream.index and packet.size:
                    yield cast("Packet[VideoStream]", packet)
        except (av.FFmpegError, OSError, EOFError) as error:
            self._health.broken = getattr(error, "strerror", None) or str(error)
        yield None

    def _decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        import av

        if packet is not None:
            self._last_dts = packet.dts if packet.dts is not None else self._last_dts
            self._health.torn = packet.is_corrupt
            sound = not (packet.is_discard or packet.is_corrupt)
            if packet.pts is not None and sound and packet.pts >= self._from_pts:
                self._waiting.add(packet.pts)
        try:
            return self.stream.decode(packet)
        except (av.FFmpegError, EOFError):
            self._health.failed += 1
            return []

    def _settle(self, frame: VideoFrame) -> None:
        """Note a frame: those still expected before it are lost."""
        health = self._health
        if frame.pts is not None:
            lost = {time for time in self._waiting if time < frame.pts}
            self._waiting -= lost | {frame.pts}
            health.lost += len(lost)
            if lost and health.mark is None:
                health.mark = self.position - 1
        if frame.is_corrupt:
            health.repaired += 1
            health.mark = self.position - 1 if health.mark is None else health.mark
        if self._first_pts is None:
            self._first_pts = frame.pts
        self.position += 1

    def _again(self) -> Iterator[VideoFrame]:
        careful = Decoder(self._item, threads=False)
        done = self.position
        for frame in careful:
            if careful.position > done:
                self.position += 1
                yield frame
        self._health, self._waiting, self._last_dts = careful._health, careful._waiting, careful._last_dts
        careful.container.close()

    def damage(self, last_s: float) -> str | None:
        """What was wrong with the video, said after its last frame, which is at `last_s`."""
        health, last = self._health, self.position - 1
        if self._item.kind == "stream" and health.broken:
            reason = "nothing came in time" if "xit requested" in health.broken else health.broken
            return f"broke off after frame {last} ({last_s:.2f} s): {reason}"
        missing = self._missing()
        mark = last if health.mark is None else health.mark
        said: list[str] = []
        if (health.failed or health.repaired) and not (missing and mark == last):
            counts = ((health.lost, "lost"), (health.repaired, "repaired"))
            losses = ", ".join(f"{n} {'frame' if n == 1 else 'frames'} {how}" for n, how in counts if n)
            where = f"after frame {mark}" if mark >= 0 else "from its start"
            said.append(f"damaged {where}" + (f" ({losses})" if losses else ""))
        if missing is not None:
            said.append(f"cut off after frame {last} ({last_s:.2f} s): {missing}")
        return "; ".join(said) or None

    def _missing(self) -> str | None:
        """What should have come after the last packet, or None."""
        name = self.container.format.name
        if name == INDEXED and self._last_dts is not None:
            entries = self.stream.index_entries
            rest = len(entries) - 1 - entries.search_timestamp(self._last_dts, any_frame=True) + self._health.torn
            if rest > 0 and len(entries) > 1:
                return f"{rest} {'frame is' if rest == 1 else 'frames are'} missing"
        elif name in _TIMED and (claimed_us := self.container.duration):
            start_s = (self.container.start_time or 0) / 1e6
            if claimed_us / 1e6 - (self._end_s - start_s) > _SHORTAGE_S:
                return f"it ends at {self._end_s - start_s:.2f} s of {claimed_us / 1e6:.2f} s"
        return f"the file breaks off ({self._health.broken})" if self._health.broken or self._health.torn else None
