"""From a decoded frame to an upright RGB picture in its true colours."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from detkit.opencv import load_cv2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from av.sidedata.sidedata import SideData
    from av.video.frame import VideoFrame

BT709, BT601 = 1, 5  # as ffmpeg numbers the ways to make RGB of YCbCr
_TOLD = frozenset(
    {0, 1, 4, 5, 6, 7, 9, 10}
)  # those ffmpeg converts; any other, 2 (unknown) above all, is chosen by size


def colors_by_size(width: int, height: int) -> int:
    """What players take for a film that does not say: BT.709 for HD, BT.601 below."""
    return BT709 if width >= 1280 or height > 576 else BT601


class Pixels:
    """Makes upright RGB pictures of the frames of one film, all of the size of the first.

    Colours follow what the frames say (matrix and range), else their size. Pixels that are not square stay as they
    are stored, so that coordinates are those of the film; the turn of the display matrix is applied, mirroring too.
    """

    def __init__(self, first: VideoFrame) -> None:
        self._width, self._height = first.width, first.height
        self._swap, self._flip_x, self._flip_y, self.rotation_deg = _orientation(first)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the upright pictures."""
        return (self._width, self._height) if self._swap else (self._height, self._width)

    def rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """The picture: uint8 [H, W, 3], its memory its own."""
        matrix = None if frame.colorspace in _TOLD else colors_by_size(frame.width, frame.height)
        size = (self._width, self._height)
        converted = frame.reformat(*size, format="rgb24", src_colorspace=matrix, threads=1)
        plane = converted.planes[0]  # its memory belongs to this picture alone, so it need not be copied
        rows = np.frombuffer(cast("Any", plane), np.uint8).reshape(self._height, plane.line_size)
        image = rows[:, : 3 * self._width].reshape(self._height, self._width, 3)
        if not (self._swap or self._flip_x or self._flip_y):
            return np.ascontiguousarray(image)
        cv2 = load_cv2()
        if self._swap:
            image = cv2.transpose(image)
        if self._flip_x or self._flip_y:
            image = cv2.flip(image, -1 if self._flip_x and self._flip_y else int(self._flip_x))
        return np.ascontiguousarray(image)


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool, int]:
    """Whether to swap rows and columns, then to mirror left to right and top to bottom; and the clockwise turn."""
    matrices = [
        bytes(data) for data in cast("Iterable[SideData]", frame.side_data) if data.type.name == "DISPLAYMATRIX"
    ]
    if not matrices or len(matrices[0]) < 36:
        return False, False, False, 0
    a, b, _, c, d, *_ = struct.unpack("=9i", matrices[0][:36])  # x' = a x + c y, y' = b x + d y
    degrees = round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360
    if abs(b) > abs(a):
        return True, c < 0, b < 0, degrees
    return False, a < 0, d < 0, degrees
