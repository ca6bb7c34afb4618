"""A window classifier slid over a photo: window by window, or all at once as a convolution; equal scores either way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from detkit import boxes
from detkit.detections import Detections
from detkit.engines import Engine
from detkit.errors import UsageError, WeightsError
from detkit.images import Image, Placement
from detkit.infer.pyramid import Level, Sliding, checked_scales, level_scales, network_stride, pyramid
from detkit.infer.selection import Selection, select
from detkit.weights import ModelCard

Float32 = NDArray[np.float32]
_BATCH = 64  # windows per run of the network


@dataclass(frozen=True, slots=True, eq=False)
class LevelScores:
    """What the network says of every window of one level.

    Args:
        level: the photo at one scale.
        scores: float32 [rows, columns, K], one cell for each window.
        boxes_xyxy: float32 [rows, columns, 4], the box to draw for each, in the photo's pixels and not clipped to it.
        evaluations: runs of the network: canvases in the mode "conv", windows in the mode "window".
        seconds: they took so long.
    """

    level: Level
    scores: Float32
    boxes_xyxy: Float32
    evaluations: int
    seconds: float

    @property
    def windows_xyxy(self) -> Float32:
        """The window under each cell, float32 [rows, columns, 4], in the photo's pixels."""
        corners = _corners_xy(self.level)  # [rows, columns, 2]
        windows = np.concatenate([corners, corners + self.level.window_px], axis=2)
        return _on_photo(windows.astype(np.float32), self.level.placement)


def conv_scores(engine: Engine, levels: Sequence[Level]) -> list[LevelScores]:
    """Run the network once on each level; what it says of each window stands in the window's cell.

    Args:
        engine: of a window model.
        levels: of one photo, see `pyramid`; their step is a multiple of the network's stride.
    Raises:
        WeightsError: the network gives another number of cells than its card says.
    """
    stride_px, found = network_stride(engine.card), []
    for level in levels:
        started = time.perf_counter()
        outputs = engine.run(level.canvas[None])
        seconds = time.perf_counter() - started
        height, width = level.canvas.shape[:2]
        rows, columns = (height - level.window_px) // stride_px + 1, (width - level.window_px) // stride_px + 1
        if outputs.scores.shape[1] != rows * columns:
            expected = f"{rows} x {columns}, for a stride of {stride_px} px"
            raise WeightsError("cells of the window model", found=outputs.scores.shape[1], expected=expected)
        each = level.step_px // stride_px
        scores = outputs.scores[0].reshape(rows, columns, -1)[::each, ::each]
        at_xyxy = outputs.boxes_xyxy[0].reshape(rows, columns, 4)[::each, ::each]
        found.append(LevelScores(level, scores, _on_photo(at_xyxy, level.placement), 1, seconds))
    return found


def window_scores(engine: Engine, levels: Sequence[Level], *, batch: int = _BATCH) -> list[LevelScores]:
    """Cut every window out of each level and run the network on it; `batch` of them at a time.

    Args:
        engine, levels: as for `conv_scores`; the step may be any.
    """
    found = []
    for level in levels:
        started = time.perf_counter()
        corners = _corners_xy(level)  # [rows, columns, 2]
        flat = corners.reshape(-1, 2)
        outputs = [engine.run(windows) for windows in _batches(level, flat, batch)]
        scores = np.concatenate([output.scores[:, 0] for output in outputs])[: len(flat)]
        own_xyxy = np.concatenate([output.boxes_xyxy[:, 0] for output in outputs])[: len(flat)]
        at_xyxy = own_xyxy + np.tile(flat, 2).astype(np.float32)
        seconds = time.perf_counter() - started
        grid = corners.shape[:2]
        boxes_xyxy = _on_photo(at_xyxy.reshape(*grid, 4), level.placement)
        found.append(LevelScores(level, scores.reshape(*grid, -1), boxes_xyxy, len(flat), seconds))
    return found


class WindowDetector:
    """Finds objects with a window model: windows at several scales, and non-max suppression over all of them."""

    def __init__(self, engine: Engine, sliding: Sliding | None = None) -> None:
        """Check that the model slides as it should.

        Raises:
            UsageError: a stride the network cannot be run at.
            WeightsError: a window that is not square.
        """
        self.engine, self.sliding = engine, sliding or Sliding()
        check_window_card(engine.card)
        self.sliding.step_px(engine.card)

    def scales(self, image_hw: tuple[int, int]) -> list[float]:
        """Pixels of each level for each pixel of a photo; none where it is too small for the window."""
        return level_scales(image_hw, self.engine.card, self.sliding)

    def check_photo(self, image_hw: tuple[int, int], name: str) -> None:
        """Refuse a photo that is too small for the window (DataError)."""
        checked_scales(image_hw, self.engine.card, self.sliding, name)

    def levels(self, image_rgb: Image) -> list[Level]:
        """A photo, uint8 [H, W, 3], at each scale; DataError where it is too small for the window."""
        return pyramid(image_rgb, self.engine.card, self.sliding)

    def scores(self, levels: Sequence[Level]) -> list[LevelScores]:
        """What the network says of every window, in the mode asked for."""
        return (conv_scores if self.sliding.mode == "conv" else window_scores)(self.engine, levels)

    def detections(self, levels: Sequence[Level], selection: Selection) -> Detections:
        """The photo's detections, best first, in its own pixels."""
        return choose(self.scores(levels), selection)


def choose(found: Sequence[LevelScores], selection: Selection) -> Detections:
    """The detections among the windows of all levels of a photo; see `Selection`."""
    image_hw = found[0].level.placement.image_hw
    scores = np.concatenate([one.scores.reshape(-1, one.scores.shape[2]) for one in found])  # [N, K]
    boxes_xyxy = np.concatenate([one.boxes_xyxy.reshape(-1, 4) for one in found])  # [N, 4]
    return select(boxes_xyxy, scores, Placement(image_hw, image_hw, (1.0, 1.0), (0.0, 0.0)), selection)


def check_window_card(card: ModelCard) -> None:
    """Refuse a model that does not classify square windows (WeightsError)."""
    stride = card.architecture.get("stride")
    if card.task != "window" or card.input_hw[0] != card.input_hw[1] or type(stride) is not int or stride < 1:
        found = f"task {card.task!r}, {card.input_hw[1]} x {card.input_hw[0]} px, stride {stride!r}"
        raise WeightsError("is no window model", found=found, expected="'window', square, and a stride in pixels")


def open_windows(engine: Engine, sliding: Sliding | None, *, tiled: bool = False) -> WindowDetector | None:
    """What slides the model over photos, where it is a window model.

    Raises:
        UsageError: settings for sliding where nothing slides, or tiles where everything is looked at anyway.
    """
    card = engine.card
    if card.task == "window":
        if tiled:
            raise UsageError("a window model looks at every part of a photo: tiles do nothing", expected="no tiles")
        return WindowDetector(engine, sliding)
    if sliding is not None:
        refuse_sliding(card.task)
    return None


def refuse_sliding(task: str) -> NoReturn:
    """Say that a model of another task does not slide (UsageError)."""
    raise UsageError(
        "--mode, --stride, --scale-step and --smallest are for window models",
        found=f"a model for {task}",
        expected="one trained with --task window",
    )


def _corners_xy(level: Level) -> NDArray[np.int64]:
    """The top-left corner of each window on its level's canvas, int64 [rows, columns, 2]."""
    rows, columns = level.grid_hw
    y, x = np.mgrid[:rows, :columns] * level.step_px
    return np.stack([x, y], axis=2)


def _batches(level: Level, corners_xy: NDArray[np.int64], batch: int) -> Iterator[NDArray[np.uint8]]:
    """The windows of a level, `batch` at a time; the last batch is filled up with black."""
    side = level.window_px
    every: NDArray[Any] = np.lib.stride_tricks.sliding_window_view(level.canvas, (side, side), axis=(0, 1))
    for start in range(0, len(corners_xy), batch):
        x, y = corners_xy[start : start + batch].T
        windows = np.zeros((batch, side, side, 3), np.uint8)
        windows[: len(x)] = every[y, x].transpose(0, 2, 3, 1)  # [n, 3, side, side] -> [n, side, side, 3]
        yield windows


def _on_photo(at_xyxy: Float32, placement: Placement) -> Float32:
    """Boxes [rows, columns, 4] on a canvas -> the same on the photo, not clipped to it."""
    (scale_x, scale_y), (offset_x, offset_y) = placement.scale_xy, placement.offset_xy
    moved = boxes.scale(boxes.shift(at_xyxy.reshape(-1, 4), (-offset_x, -offset_y)), (1 / scale_x, 1 / scale_y))
    return moved.astype(np.float32).reshape(at_xyxy.shape)
