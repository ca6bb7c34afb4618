"""What passes along the pipeline: an `Item` to read, the `Frame`s it gives, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DataError

Kind = Literal["photo", "video", "stream"]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to read: a photo, a video file, or a live stream.

    Args:
        name: how results call it: the path as it was given, `ARCHIVE/MEMBER`, the URL, or "-" for bytes on stdin.
        relative: its path below the folder or archive it was found in (its file name, for a file): names its outputs.
        kind: "photo" gives one frame; "video" is a file with an end; "stream" is live and is read as it comes.
        path: the file it lies in (the archive, for a member); None for bytes and streams.
        member: its name inside the archive at `path`.
        data: the bytes of a photo that has no file.
        url: what to open for a stream: a URL, or the device of a camera.
    """

    name: str
    relative: Path
    kind: Kind = "photo"
    path: Path | None = None
    member: str | None = None
    data: bytes | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)  # it may hold a password


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video says of itself; its frames share one.

    Args:
        size_hw: height and width of the frames as they are given: upright.
        fps: frames per second of the source, as a ratio; the mean one where it varies.
        time_base: seconds per tick of `Frame.pts`.
        frame_count: as the file claims, or None.
        duration_s: as the file claims, or None.
        rotation_deg: clockwise turn that was applied to make the frames upright: 0, 90, 180 or 270.
        every: each how many-th frame is given.
        start_s, end_s: the part of the video asked for; None for its start and its end.
    """

    size_hw: tuple[int, int]
    fps: Fraction
    time_base: Fraction
    frame_count: int | None = None
    duration_s: float | None = None
    rotation_deg: int = 0
    every: int = 1
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture from a source.

    Args:
        image_rgb: uint8 [H, W, 3], upright.
        index: 0-based position of its item among all items of the run, unreadable ones included.
        time_s: seconds since the start of its video; None for a photo.
        name: its item's name.
        item: where it comes from.
        number: 0-based position among all frames of its video, those left out by `every` counted; None for a photo.
        pts: its time in ticks of `video.time_base`; None for a photo.
        video: of a video or stream; None for a photo.
    """

    image_rgb: NDArray[np.uint8]
    index: int
    time_s: float | None
    name: str
    item: Item
    number: int | None = None
    pts: int | None = None
    video: VideoInfo | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An item that gave no picture, and why."""

    name: str
    index: int
    error: DataError
    item: Item


@dataclass(frozen=True, slots=True)
class Ended:
    """A video or stream that was read to its end, or to where it is damaged.

    Args:
        name, index, item: whose end it is.
        frames: how many frames it gave.
        warning: what went wrong on the way ("damaged after frame 412"), or None.
        dropped: frames of a live stream that came faster than they could be looked at.
    """

    name: str
    index: int
    item: Item
    frames: int
    warning: str | None = None
    dropped: int = 0
