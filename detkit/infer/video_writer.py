"""Writing annotated video: H.264 in .mp4 that plays in a browser, with the times and the sound of its source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from detkit.errors import MissingExtraError, RunError
from detkit.files import Partial
from detkit.infer.frames import Item, VideoInfo
from detkit.infer.video_audio import AudioTracks
from detkit.infer.video_pixels import BT709, colors_by_size
from detkit.infer.video_traits import Traits, read_traits

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_ENCODERS = ("libx264", "libopenh264")
_QUALITY = {"libx264": {"preset": "veryfast", "crf": "23", "bf": "0"}, "libopenh264": {"rc_mode": "quality"}}
_KEY_FRAME_EVERY_S = 4  # a player can jump to these
_LIMITED_RANGE = 1
_LEAD_IN_S = Fraction(1, 10)  # sound that starts so little before the film is the run-up of its coder
_EDIT_TICK_S = Fraction(1, 500)  # an .mp4 with B-frames tells its duration to a millisecond or two
_MOVIE_TICKS = 48000  # in a second: where sound starts is written to the sample
_PRIMARIES = {True: 1, False: 6}  # BT.709, SMPTE 170M: as ffmpeg numbers them, and the transfer functions likewise


class VideoWriter:
    """Writes one video; `close` puts it in its place, `abort` leaves nothing.

    Every frame keeps its time in the source, the first one (or the sound, where that starts earlier) being at 0. A
    constant frame rate that the source's clock can only approximate (milliseconds in .mkv) is written exactly. H.264
    needs even sides: an odd one gets its last row or column twice. Colours are BT.709 from HD on, BT.601 below, and
    marked so. Audio tracks are copied, cut to the part that was read; subtitles are left out. Of a live stream
    (`source` None) there are pictures only. Encoded by libx264, preset veryfast, CRF 23, without B-frames.
    """

    def __init__(self, target: Path, source: Item | None, info: VideoInfo) -> None:
        """Open the file under a hidden name beside `target`.

        Args:
            target: an .mp4 file, in a folder that exists.
            source: the video file whose times, pixel shape and sound the copy gets.
            info: of the frames to come.
        Raises:
            RunError: the file cannot be written.
            MissingExtraError: this PyAV has no encoder for H.264.
        """
        self._info, self._partial = info, Partial(target)
        self._audio: AudioTracks | None = None
        self._held: Packet[VideoStream] | None = None  # whether it is the last shows when the next one comes
        self._origin: int | None = None  # of the copy's clock, in ticks of the source's
        self._last_pts: int | None = None
        self._open = True
        with self._failing():
            traits = self._traits = Traits() if source is None else read_traits(source, info)
            self._time_base = 1 / info.fps if traits.constant_rate else info.time_base
            self._container = _create(self._partial.path)
            self._stream = _add_film(self._container, info, self._time_base, traits.pixel_aspect)
            if source is not None:
                self._audio = AudioTracks(source, self._container)
            self._container.start_encoding()

    def write(self, image_rgb: NDArray[np.uint8], pts: int) -> None:
        """Add a frame.

        Args:
            image_rgb: uint8 [H, W, 3] of `info.size_hw`.
            pts: its time in ticks of `info.time_base`, later than that of the frame before.
        Raises:
            RunError: it cannot be written (full disk); nothing is left of the video.
            ValueError: another size, or a time that is not later.
        """
        if image_rgb.shape != (*self._info.size_hw, 3):
            raise ValueError(f"a frame is {image_rgb.shape}, the video is {self._info.size_hw}")
        if self._last_pts is not None and pts <= self._last_pts:
            raise ValueError(f"time {pts} does not come after {self._last_pts}")
        if not self._open:
            raise RunError("was given up and takes no more frames", file=self._partial.target)
        with self._failing():
            if self._origin is None:
                self._begin(pts)
            self._last_pts = pts
            frame = _to_yuv(image_rgb)
            frame.pts, frame.time_base = self._ticks(pts), self._time_base
            for packet in self._stream.encode(frame):
                self._mux(packet)

    def close(self) -> None:
        """Finish the file and rename it to its target; without a frame there is no file.

        Raises:
            RunError: it cannot be written; nothing is left of the video.
        """
        if self._last_pts is None or not self._open:
            self.abort()
            return
        with self._failing():
            for packet in self._stream.encode(None):
                self._mux(packet)
            end = self._last_pts + self._last_duration()
            if self._held is not None:
                self._held.duration = self._ticks(end) - self._ticks(self._last_pts)
                self._container.mux(self._held)
            if self._audio is not None:
                self._audio.up_to(None if self._info.end_s is None else end * self._info.time_base)
                self._audio.finish()
            self._container.close()
        self._open = False
        self._close_source()
        self._partial.commit()

    def abort(self) -> None:
        """Leave no file; also after an error, and more than once."""
        import av

        self._partial.discard()  # also where an interruption came just before the file was put in its place
        if not self._open:
            return
        self._open = False  # the file goes before it is closed: there is nothing left to put in order
        with suppress(av.FFmpegError, OSError, AttributeError):
            self._container.close()
        self._close_source()
        self._partial.discard()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.abort()

    def _begin(self, pts: int) -> None:
        """Fix the zero of the copy's clock: the source's start, or the first frame of a part."""
        time_base = self._info.time_base
        self._origin = pts
        if self._audio is not None:
            if self._info.start_s is None:
                film_s = pts * time_base if self._traits.start_s is None else self._traits.start_s
                audio_s = self._audio.start_s()
                early = audio_s is not None and audio_s < film_s - _LEAD_IN_S
                self._origin = min(pts, (audio_s if early and audio_s is not None else film_s) // time_base)
            self._audio.begin(self._origin * time_base, cut=self._info.start_s is not None)

    def _ticks(self, pts: int) -> int:
        since = pts - (self._origin or 0)
        return (
            since if self._time_base == self._info.time_base else round(since * self._info.time_base / self._time_base)
        )

    def _last_duration(self) -> int:
        """Ticks for which the last frame is shown: to the end of the source, or one step of the frame rate."""
        info, last, traits = self._info, self._last_pts or 0, self._traits
        step = max(1, round(info.every / (info.fps * info.time_base)))
        if traits.end_pts is None or traits.last_dts is None or info.every > 1 or info.end_s is not None:
            return step
        rest = traits.end_pts - last
        rounded = abs(rest - step) * info.time_base <= _EDIT_TICK_S
        return step if last < traits.last_dts or rest <= 0 or rounded else rest

    def _mux(self, packet: Packet[VideoStream]) -> None:
        """Write the packet before this one, after the sound that comes before it."""
        held, self._held = self._held, packet
        if held is None or held.pts is None or packet.pts is None:
            return
        if self._audio is not None:
            self._audio.up_to(held.pts * held.time_base + (self._origin or 0) * self._info.time_base)
        self._container.mux(held)

    def _close_source(self) -> None:
        if self._audio is not None:
            self._audio.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Leave nothing behind when the block fails, and say it in one line."""
        import av

        try:
            yield
        except (OSError, av.FFmpegError) as error:
            self.abort()
            reason = getattr(error, "strerror", None) or str(error)
            raise RunError("cannot be written", file=self._partial.target, found=reason) from error
        except BaseException:
            self.abort()
            raise


def _create(path: Path) -> OutputContainer:
    import av

    options = {"movflags": "+faststart", "movie_timescale": str(_MOVIE_TICKS)}
    return av.open(f"file:{path}", "w", format="mp4", container_options=options)


def _add_film(
    container: OutputContainer, info: VideoInfo, time_base: Fraction, pixel_aspect: Fraction | None
) -> VideoStream:
    height, width = (side + side % 2 for side in info.size_hw)
    rate = info.fps / info.every
    encoder = _encoder()
    options = dict(_QUALITY[encoder])
    added = container.add_stream(encoder, rate, options, width=width, height=height, time_base=time_base)
    stream = cast("VideoStream", added)
    context = stream.codec_context
    context.pix_fmt = "yuv420p"
    context.gop_size = max(1, round(rate * _KEY_FRAME_EVERY_S))
    hd = colors_by_size(width, height) == BT709
    context.colorspace = context.color_primaries = context.color_trc = _PRIMARIES[hd]
    context.color_range = _LIMITED_RANGE
    if pixel_aspect is not None:
        context.sample_aspect_ratio = pixel_aspect
    return stream


def _encoder() -> str:
    import av

    for name in _ENCODERS:
        with suppress(av.codec.codec.UnknownCodecError):
            av.Codec(name, "w")
            return name
    raise MissingExtraError(
        "this build of PyAV cannot write H.264 video",
        found="neither " + " nor ".join(_ENCODERS),
        expected="the av wheel",
    )


def _to_yuv(image_rgb: NDArray[np.uint8]) -> VideoFrame:
    from av.video.frame import VideoFrame

    height, width = image_rgb.shape[:2]
    if height % 2 or width % 2:
        image_rgb = np.pad(image_rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = VideoFrame.from_numpy_buffer(np.ascontiguousarray(image_rgb), format="rgb24")
    matrix = colors_by_size(frame.width, frame.height)
    return frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=_LIMITED_RANGE, threads=1)
