"""Films for the benchmarks, made of a real clip: scaled to a size, or looped to so many frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av


def scaled(source: Path, target: Path, size_wh: tuple[int, int], frames: int) -> Path:
    """The first frames of a clip in another size, as H.264."""
    with av.open(str(source)) as container, av.open(str(target), "w") as copy:
        film = container.streams.video[0]
        added = cast("Any", copy.add_stream("libx264", film.average_rate, {"preset": "veryfast", "crf": "23"}))
        added.width, added.height, added.pix_fmt = *size_wh, "yuv420p"
        for number, frame in enumerate(container.decode(film)):
            if number == frames:
                break
            smaller = frame.reformat(*size_wh, format="yuv420p", interpolation="BICUBIC")
            smaller.pts, smaller.time_base = number, 1 / Fraction(film.average_rate or 25)
            copy.mux(added.encode(smaller))
        copy.mux(added.encode(None))
    return target


def looped(source: Path, target: Path, frames: int) -> Path:
    """A clip's packets over and over, until there are so many frames; nothing is decoded."""
    with av.open(str(source)) as container:
        film = container.streams.video[0]
        packets: list[Any] = [packet for packet in container.demux(film) if packet.size]
        length = max(packet.pts + packet.duration for packet in packets) - min(packet.dts for packet in packets)
        times = [(packet.pts, packet.dts) for packet in packets]
        with av.open(str(target), "w") as copy:
            added = copy.add_stream_from_template(film)
            for number in range(frames):
                turn, at = divmod(number, len(packets))
                packet = packets[at]
                packet.stream = added
                packet.time_base = film.time_base
                packet.pts, packet.dts = (time + turn * length for time in times[at])
                copy.mux(packet)
    return target
