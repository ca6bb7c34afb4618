"""What the annotated copy of a video needs to know of its source, besides the frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from detkit.infer.frames import Item, VideoInfo
from detkit.infer.video_decode import INDEXED
from detkit.infer.video_source import open_source, video_stream


@dataclass(slots=True)
class Traits:
    """What only the source file tells.

    Args:
        pixel_aspect: width by height of a pixel, upright.
        start_s: when the film starts by the source's clock.
        last_dts: decoding time of its last frame in ticks, where the file has an index.
        end_pts: where its last frame ends, in ticks.
        constant_rate: its frame rate is constant, but ticks only come near it.
    """

    pixel_aspect: Fraction | None = None
    start_s: Fraction | None = None
    last_dts: int | None = None
    end_pts: int | None = None
    constant_rate: bool = False


def read_traits(source: Item, info: VideoInfo) -> Traits:
    """Look into the source of a copy; all its packets are read where its clock cannot tell the frame rate.

    Raises:
        DataError: it cannot be opened or has no film.
    """
    traits = Traits()
    with open_source(source) as container:
        stream = video_stream(container, source)
        start, time_base = stream.start_time, stream.time_base or info.time_base
        if start is not None:
            traits.start_s = start * time_base
            traits.end_pts = start + stream.duration if stream.duration else None
        if container.format.name == INDEXED and len(stream.index_entries):
            traits.last_dts = stream.index_entries[len(stream.index_entries) - 1].timestamp
        aspect = stream.sample_aspect_ratio
        if aspect is not None and aspect > 0:
            traits.pixel_aspect = 1 / aspect if info.rotation_deg in (90, 270) else aspect
        if (info.fps * info.time_base).numerator != 1:  # a frame is not a whole number of ticks
            traits.constant_rate = _has_constant_rate((packet.pts for packet in container.demux(stream)), info)
    return traits


def _has_constant_rate(times: Iterator[int | None], info: VideoInfo) -> bool:
    """Whether all times are those of the frame rate, as near as ticks can tell."""
    import av

    first: int | None = None
    steps = info.time_base * info.fps
    try:
        for time in times:
            if time is None:
                continue
            first = time if first is None else first
            number = round((time - first) * steps)
            if abs((time - first) - number / steps) > 1:
                return False
    except (av.FFmpegError, OSError, EOFError):  # damaged: what was read counts
        return first is not None
    return first is not None
