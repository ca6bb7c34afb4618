"""What was found, cut out: crops/CLASS/NAME-1.jpg, one picture for each detection."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.infer.frames import Ended, Frame, Unreadable
from detkit.infer.records import Record
from detkit.infer.sinks.names import OutputNames
from detkit.infer.sinks.pictures import write_into_place
from detkit.infer.sinks.workers import Workers

_UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*]|[. ]+$|^\.+')  # for a folder's name, on any system


class Crops:
    """Writes a picture of each detection, best first: crops/person/sub/photo-1.jpg."""

    def __init__(
        self,
        folder: Path,
        names: OutputNames,
        class_names: Sequence[str],
        workers: Workers,
        margin: float = 0.0,
    ) -> None:
        """`folder` gets a folder `crops`; crops are encoded in the threads of `workers`.

        Args:
            margin: room around the box on each side, as a share of its width and height.
        Raises:
            ValueError: the margin is not in 0-10.
        """
        if not 0 <= margin <= 10:
            raise ValueError(f"margin of crops is {margin}, expected 0 to 10")
        self._names, self._workers, self._margin = names, workers, margin
        self._folders = [folder / "crops" / (_UNSAFE.sub("_", name) or "_") for name in class_names]

    def write(self, frame: Frame, detections: Detections, record: Record) -> Future[None] | None:
        """Cut out and write, in another thread.

        Raises:
            RunError: an earlier picture could not be written.
        """
        targets = [
            self._names.below(self._folders[label], frame.item, frame.number, f"-{number}.jpg")
            for number, label in enumerate(detections.labels.tolist(), 1)
        ]
        for target in targets:
            self._names.refuse_input(target)
        return self._workers.submit(lambda: self._write(targets, frame.image_rgb, detections)) if targets else None

    def _write(self, targets: Sequence[Path], image_rgb: NDArray[np.uint8], detections: Detections) -> None:
        for target, box_xyxy in zip(targets, detections.boxes_xyxy.tolist(), strict=True):
            if all(map(math.isfinite, box_xyxy)):
                write_into_place(target, cut_out(image_rgb, box_xyxy, self._margin))

    def unreadable(self, item: Unreadable, record: Record) -> None:
        """There is nothing to cut out."""

    def ended(self, ended: Ended, record: Record) -> None:
        """Every crop is a file of its own."""

    def close(self) -> None:
        """Every crop is a file of its own."""

    def abort(self) -> None:
        """Every crop is a file of its own."""


def cut_out(image_rgb: NDArray[np.uint8], box_xyxy: Sequence[float], margin: float = 0.0) -> NDArray[np.uint8]:
    """The pixels a box touches, clipped to the image and at least one of them.

    Args:
        image_rgb: uint8 [H, W, 3].
        box_xyxy: finite, in pixels.
        margin: room on each side, as a share of the box's width and height.
    Returns:
        uint8 [h, w, 3], a view.
    """
    height, width = image_rgb.shape[:2]
    x1, y1, x2, y2 = box_xyxy
    room_x, room_y = margin * (x2 - x1), margin * (y2 - y1)
    left = min(max(math.floor(x1 - room_x), 0), width - 1)
    top = min(max(math.floor(y1 - room_y), 0), height - 1)
    right = min(max(math.ceil(x2 + room_x), left + 1), width)
    bottom = min(max(math.ceil(y2 + room_y), top + 1), height)
    return image_rgb[top:bottom, left:right]
