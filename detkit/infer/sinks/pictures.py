"""Annotated pictures of photos in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.draw import draw
from detkit.errors import RunError
from detkit.images import write_image
from detkit.infer.frames import Ended, Frame, Item, Unreadable
from detkit.infer.records import Record
from detkit.infer.sinks.names import OutputNames
from detkit.infer.sinks.workers import Workers

# Called in the order of the frames; what it gives is called once, in any thread, and gives the picture.
Painter = Callable[[Frame, Detections], Callable[[], NDArray[np.uint8]]]

_WRITTEN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def plain_painter(class_names: Sequence[str], point_edges: Sequence[tuple[int, int]] = ()) -> Painter:
    """Draws what each frame holds, and nothing of the frames before it."""

    def paint(frame: Frame, detections: Detections) -> Callable[[], NDArray[np.uint8]]:
        return lambda: draw(frame.image_rgb, detections, class_names, point_edges)

    return paint


class PictureFolder:
    """Writes annotated pictures below one folder, under the names the photos have below theirs.

    Photos of a kind that cannot be written become .jpg; frames of videos are passed over.
    """

    def __init__(
        self, folder: Path, names: OutputNames, painter: Painter, workers: Workers, items: Sequence[Item] = ()
    ) -> None:
        """Make sure that no picture of the items to be read would replace one of them.

        Args:
            folder: made when the first picture is written; pictures of an earlier run are replaced.
            names: of all items.
            painter: draws, in the threads of `workers`.
            items: what will be read.
        Raises:
            UsageError: a picture would replace one of the photos.
        """
        self.folder, self._names, self._painter, self._workers = folder, names, painter, workers
        for item in items if folder.exists() else ():
            names.refuse_input(self._target(item))

    def target(self, frame: Frame) -> Path | None:
        """Where the picture of a frame goes; None where there is none."""
        return self._target(frame.item) if frame.number is None else None

    def write(self, frame: Frame, detections: Detections, record: Record) -> Future[None] | None:
        """Draw and write, in another thread.

        Raises:
            RunError: an earlier picture could not be written.
        """
        target = self.target(frame)
        if target is None:
            return None
        self._names.refuse_input(target)
        drawing = self._painter(frame, detections)
        return self._workers.submit(lambda: write_into_place(target, drawing()))

    def unreadable(self, item: Unreadable, record: Record) -> None:
        """There is no picture."""

    def ended(self, ended: Ended, record: Record) -> None:
        """Videos are not written here."""

    def close(self) -> None:
        """Every picture is a file of its own."""

    def abort(self) -> None:
        """Every picture is a file of its own."""

    def _target(self, item: Item) -> Path:
        suffix = item.relative.suffix
        return self._names.below(self.folder, item, None, suffix if suffix.lower() in _WRITTEN_SUFFIXES else ".jpg")


def write_into_place(target: Path, image_rgb: NDArray[np.uint8]) -> None:
    """Write an image into a folder that may have to be made."""
    make_parent(target)
    write_image(target, image_rgb)


def make_parent(target: Path) -> None:
    """Make the folder a file will lie in.

    Raises:
        RunError: it cannot be made.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError("cannot be made", file=target.parent, found=error.strerror) from error
