"""Annotated videos: one .mp4 for each video or stream, drawn and encoded beside the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.infer.frames import Ended, Frame, Item, Unreadable, VideoInfo
from detkit.infer.records import Record
from detkit.infer.sinks.names import OutputNames
from detkit.infer.sinks.pictures import Painter, make_parent
from detkit.infer.sinks.workers import Workers


class Writer(Protocol):
    """Writes one video; see `detkit.infer.video_writer`."""

    def write(self, image_rgb: NDArray[np.uint8], pts: int) -> None:
        """Add a frame at its time."""
        ...

    def close(self) -> None:
        """Finish the file and put it in its place."""
        ...

    def abort(self) -> None:
        """Leave no file."""
        ...


OpenWriter = Callable[[Path, Item | None, VideoInfo], Writer]


def open_video_writer(target: Path, source: Item | None, info: VideoInfo) -> Writer:
    """H.264 with the source's audio; PyAV is imported when the first video is written."""
    from detkit.infer.video_writer import VideoWriter

    return VideoWriter(target, source, info)


class VideoFolder:
    """Writes annotated videos below one folder, under the names the videos have below theirs, as .mp4."""

    def __init__(
        self,
        folder: Path,
        names: OutputNames,
        painter: Painter,
        items: Sequence[Item] = (),
        open_writer: OpenWriter = open_video_writer,
    ) -> None:
        """Make sure that no video to be written would replace an input; see `PictureFolder`.

        Raises:
            UsageError: it would.
        """
        self.folder, self._names, self._painter, self._open_writer = folder, names, painter, open_writer
        self._videos: dict[int, _OpenVideo] = {}
        for item in (item for item in items if item.kind != "photo" and folder.exists()):
            names.refuse_input(self.target(item))

    def target(self, item: Item) -> Path:
        """Where the annotated copy of a video goes."""
        return self._names.below(self.folder, item, None, ".mp4")

    def write(self, frame: Frame, detections: Detections, record: Record) -> Future[None] | None:
        """Draw and encode, in the video's own thread; photos are passed over.

        Raises:
            RunError: an earlier frame could not be written.
        """
        if frame.video is None or frame.pts is None:
            return None
        if frame.index not in self._videos:
            target = self.target(frame.item)
            self._names.refuse_input(target)
            source = frame.item if frame.item.kind == "video" else None
            self._videos[frame.index] = _OpenVideo(target, source, frame.video, self._open_writer)
        return self._videos[frame.index].write(self._painter(frame, detections), frame.pts)

    def unreadable(self, item: Unreadable, record: Record) -> None:
        """Of a video that broke no copy is left."""
        if (video := self._videos.pop(item.index, None)) is not None:
            video.abort()

    def ended(self, ended: Ended, record: Record) -> None:
        """Finish the video: when this returns, it is in its place; one without frames leaves no file."""
        if (video := self._videos.get(ended.index)) is not None:
            video.close()
            del self._videos[ended.index]

    def close(self) -> None:
        """Finish what is open: streams that were left."""
        while self._videos:
            next(iter(self._videos.values())).close()
            del self._videos[next(iter(self._videos))]

    def abort(self) -> None:
        """Leave nothing of what is open."""
        while self._videos:
            self._videos.popitem()[1].abort()


class _OpenVideo:
    """One video under way and its thread."""

    def __init__(self, target: Path, source: Item | None, info: VideoInfo, open_writer: OpenWriter) -> None:
        self._target, self._source, self._info, self._open_writer = target, source, info, open_writer
        self._workers = Workers(1)
        self._writer: Writer | None = None

    def write(self, drawing: Callable[[], NDArray[np.uint8]], pts: int) -> Future[None]:
        return self._workers.submit(lambda: self._write(drawing(), pts))

    def _write(self, image_rgb: NDArray[np.uint8], pts: int) -> None:
        if self._writer is None:
            make_parent(self._target)
            self._writer = self._open_writer(self._target, self._source, self._info)
        self._writer.write(image_rgb, pts)

    def close(self) -> None:
        self._workers.close()
        if self._writer is not None:
            self._writer.close()

    def abort(self) -> None:
        self._workers.abort()
        if self._writer is not None:
            self._writer.abort()
