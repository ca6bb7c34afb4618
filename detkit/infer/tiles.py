"""A large photo in overlapping tiles: each is a photo of its own to the network, so small objects stay large enough.

`windows` says where they lie, `crops` cuts them out, any predictor looks at each, and `merge` puts the photo together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import shift
from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.infer.selection import Selection
from detkit.nms import merge_tiles

Image = NDArray[np.uint8]
Float32 = NDArray[np.float32]

_EDGE_SHARE = 0.01  # a box ends at an edge when it comes this near, as a share of the window's side


@dataclass(frozen=True, slots=True)
class Tiling:
    """How photos are cut into tiles.

    Args:
        side_px: side of a tile in pixels of the photo; the tile is then fitted to the network's canvas like a photo.
        overlap: neighbours share at least this part of their side: what is smaller than that is whole in one of them.
    """

    side_px: int = 640
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.side_px < 32:
            raise UsageError("side of a tile", found=self.side_px, expected="32 px or more")
        if not 0 <= self.overlap <= 0.9:
            raise UsageError("overlap of tiles", found=self.overlap, expected="0 to 0.9")

    def windows(self, size_hw: tuple[int, int]) -> tuple[Window, ...]:
        """The whole photo, then the tiles that cover it, row by row; no tiles where one would be the whole photo.

        Every tile has the full side (or the photo's, where that is shorter); they are spread evenly, so they may share
        more than `overlap`, and none reaches out of the photo.
        """
        height, width = size_hw
        whole = Window(0, 0, width, height, size_hw)
        if max(size_hw) <= self.side_px:
            return (whole,)
        tops, lefts = self._starts(height), self._starts(width)
        tile_hw = min(height, self.side_px), min(width, self.side_px)
        tiles = (Window(left, top, left + tile_hw[1], top + tile_hw[0], size_hw) for top in tops for left in lefts)
        return (whole, *tiles)

    def _starts(self, length_px: int) -> list[int]:
        """Where the tiles along one side of the photo begin."""
        rest = length_px - self.side_px
        if rest <= 0:
            return [0]
        step = max(1, int(self.side_px * (1 - self.overlap)))
        count = -(-rest // step)
        return [rest * i // count for i in range(count + 1)]


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a photo that one pass of the network sees, in its pixels; x2 and y2 exclusive."""

    x1: int
    y1: int
    x2: int
    y2: int
    photo_hw: tuple[int, int]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.y2 - self.y1, self.x2 - self.x1

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Its box on the photo, xyxy."""
        return self.x1, self.y1, self.x2, self.y2

    def cut_sides(self, boxes_xyxy: Float32) -> NDArray[np.bool_]:
        """Which sides of boxes on the photo end at an edge of the window beyond which it goes on: bool [N, 4], xyxy."""
        height, width = self.photo_hw
        edges = np.array(self.edges, np.float32)
        inner = edges != (0, 0, width, height)
        return np.asarray((np.abs(boxes_xyxy - edges) <= _EDGE_SHARE * max(self.size_hw)) & inner)


def crops(image_rgb: Image, windows: Sequence[Window]) -> list[Image]:
    """What each window shows of a photo uint8 [H, W, 3], without copying a pixel."""
    return [image_rgb[window.y1 : window.y2, window.x1 : window.x2] for window in windows]


def for_windows(selection: Selection) -> Selection:
    """The selection for a single window: the limit on detections holds for the photo, once it is put together."""
    return replace(selection, max_det=max(selection.max_det, selection.max_candidates))


def merge(found: Sequence[Detections], windows: Sequence[Window], selection: Selection) -> Detections:
    """Put together what was found in each window of a photo: one box an object; see `nms.merge_tiles`.

    What neighbouring tiles share is seen whole, and larger, by one of them: of the whole photo only longer boxes count.

    Args:
        found: the detections in each window, in its pixels, clipped to it, selected by `for_windows(selection)`.
        windows: where they lie, as `Tiling.windows` gave them.
        selection: overlap, limit and whether classes suppress each other.
    Returns:
        Detections in the photo's pixels, best first. A box joined from parts keeps the points of its best part.
    """
    if len(windows) == 1:
        return found[0][: selection.max_det]
    found = [_longer(found[0], _shared_px(windows[1:])), *found[1:]]
    on_photo = [_on_photo(one, window) for one, window in zip(found, windows, strict=True)]
    boxes_xyxy, labels, scores = (np.concatenate(columns) for columns in zip(*on_photo, strict=True))
    cut = np.concatenate([window.cut_sides(boxes) for window, (boxes, *_) in zip(windows, on_photo, strict=True)])
    edges = np.repeat([window.edges for window in windows], [len(one) for one in found], axis=0)  # [N, 4]
    boxes_xyxy = np.where(cut, edges, boxes_xyxy)  # a cut object reaches the edge at least
    alike = None if selection.nms == "agnostic" else labels
    kept, joined_xyxy = merge_tiles(boxes_xyxy, scores, alike, cut, selection.iou)
    kept, joined_xyxy = kept[: selection.max_det], joined_xyxy[: selection.max_det]
    points = _points(found, windows)
    points = None if points is None else points[kept]
    return Detections(windows[0].photo_hw, joined_xyxy, labels[kept], scores[kept], points)


def _shared_px(tiles: Sequence[Window]) -> int:
    """What is not longer than this is whole in one of the tiles, wherever it lies."""
    lefts, tops = sorted({tile.x1 for tile in tiles}), sorted({tile.y1 for tile in tiles})
    steps = [b - a for starts in (lefts, tops) for a, b in pairwise(starts)]
    return max(tiles[0].size_hw) - max(steps)


def _longer(found: Detections, than_px: int) -> Detections:
    sides = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    return found[sides.max(axis=1, initial=0) > than_px]


def _on_photo(found: Detections, window: Window) -> tuple[Float32, NDArray[np.int64], Float32]:
    """Boxes on the photo, labels and scores of what was found in a window."""
    assert found.scores is not None
    return np.asarray(shift(found.boxes_xyxy, (window.x1, window.y1)), np.float32), found.labels, found.scores


def _points(found: Sequence[Detections], windows: Sequence[Window]) -> Float32 | None:
    """Points [N, P, 3] on the photo of all that was found."""
    moved = [
        one.points_xyv + np.array([window.x1, window.y1, 0], np.float32)
        for one, window in zip(found, windows, strict=True)
        if one.points_xyv is not None
    ]
    return np.concatenate(moved) if moved else None
