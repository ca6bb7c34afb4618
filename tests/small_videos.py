"""Small films made on the spot, whose every picture shows its number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from detkit.infer.frames import Frame, Item
from detkit.infer.video import VideoReader
from detkit.infer.video_writer import VideoWriter

BITS = 8
MS = Fraction(1, 1000)


def picture(number: int, size_hw: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """Grey noise that is new in each picture, and `BITS` upright stripes that tell its number."""
    image = np.random.default_rng(number).integers(100, 140, (*size_hw, 3)).astype(np.uint8)
    edges = np.linspace(0, size_hw[1], BITS + 1).astype(int)
    for bit in range(BITS):
        image[size_hw[0] // 4 : -size_hw[0] // 4, edges[bit] : edges[bit + 1]] = 255 if number >> bit & 1 else 0
    return image


def number_of(image_rgb: NDArray[np.uint8]) -> int:
    """The number a picture tells."""
    height, width = image_rgb.shape[:2]
    edges = np.linspace(0, width, BITS + 1).astype(int)
    middle = image_rgb[height // 2 - 2 : height // 2 + 2].mean(axis=(0, 2))
    return sum(1 << bit for bit in range(BITS) if middle[edges[bit] : edges[bit + 1]].mean() > 128)


def as_item(path: Path) -> Item:
    return Item(str(path), Path(path.name), "video", path)


def read(path: Path, **part: Any) -> tuple[list[Frame], VideoReader]:
    """All frames of a video, and its reader, which is through."""
    reader = VideoReader(as_item(path), 0, **part)
    return list(reader), reader


def copy(source: Path, target: Path, **part: Any) -> int:
    """Read and write frame by frame, as detection on a video does; how many there were."""
    with VideoReader(as_item(source), 0, **part) as reader, VideoWriter(target, as_item(source), reader.info) as writer:
        for frame in reader:
            assert frame.pts is not None
            writer.write(frame.image_rgb, frame.pts)
    return reader.ended().frames


def make_video(
    path: Path,
    times: Sequence[int] | int = 30,
    *,
    time_base: Fraction = Fraction(1, 25),
    fps: Fraction | int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size_hw: tuple[int, int] = (48, 64),
    options: dict[str, str] | None = None,
    sounds: Iterable[tuple[str, float]] = (),
    pixel_aspect: Fraction | None = None,
    turn: tuple[float, bool] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a film.

    Args:
        times: of each frame in ticks, or how many frames, one a tick.
        options: of the encoder; key frames every 10 frames and B-frames where not said otherwise.
        sounds: codec and seconds of each audio track.
        turn: degrees clockwise that a player has to turn it, and whether to mirror it left to right after that.
    """
    times = range(times) if isinstance(times, int) else times
    quick = {"preset": "ultrafast", "bf": "2", "g": "10"} if codec == "libx264" else {"g": "10"}
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        height, width = size_hw
        chosen = quick if options is None else options
        film: Any = container.add_stream(codec, fps, chosen, width=width, height=height, time_base=time_base)
        film.codec_context.pix_fmt = pix_fmt
        if pixel_aspect is not None:
            film.codec_context.sample_aspect_ratio = pixel_aspect
        if turn is not None:
            film.set_display_rotation(-turn[0], hflip=turn[1])
        tracks = [(container.add_stream(name, 48000, layout="stereo"), seconds) for name, seconds in sounds]
        for track, seconds in tracks:
            container.mux(_sound(track, seconds))
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, size_hw), "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, time_base
            container.mux(film.encode(frame))
        container.mux(film.encode(None))
    return path


def _sound(track: Any, seconds: float) -> list[av.Packet]:
    samples = np.arange(int(seconds * 48000))
    wave = (8000 * np.sin(samples * 2 * np.pi * 440 / 48000)).astype(np.int16)
    packets: list[av.Packet] = []
    for start in range(0, len(wave), 1024):
        chunk = np.repeat(wave[start : start + 1024], 2)[None]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk), "s16", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        packets += track.encode(frame)
    return packets + track.encode(None)


def film_times(path: Path) -> list[Fraction]:
    """When each frame is shown, in exact seconds."""
    with av.open(str(path)) as container:
        film = container.streams.video[0]
        return sorted(packet.pts * packet.time_base for packet in container.demux(film) if packet.pts is not None)


def sound_packets(path: Path, track: int = 0) -> list[tuple[Fraction, bytes]]:
    """When each packet of an audio track is heard, and its bytes."""
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio[track])
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets if packet.size]
