"""The picture of the ladder: windows over the photo, the map of scores as heat, and the boxes that are left."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import clip
from detkit.detections import Detections
from detkit.draw import Color, class_color, draw, put_text
from detkit.images import Image, stretch
from detkit.infer.explain_ladder import LadderExplanation, Rung
from detkit.infer.panels import TEXT_PX, Note, dashed_box, faded, shaded, side_by_side
from detkit.infer.pyramid import Level
from detkit.infer.sliding import LevelScores
from detkit.opencv import load_cv2

_SIDE_PX = 760  # longer side of a panel, about
_STEPS_SHOWN = 4  # windows in a row, to show how far they move
_WINNERS = 12  # windows framed
_BAR_WH = 150, 14  # the key of the colours
_LEAST_HEAT = 0.02  # scores below it are left out of the map
_WHITE: Color = (255, 255, 255)
_BLACK: Color = (0, 0, 0)
_STEPS: Color = (255, 196, 0)


def draw_ladder(explained: LadderExplanation, image_rgb: Image) -> Image:
    """Three panels and a line for each level.

    Args:
        explained: of `image_rgb`, uint8 [H, W, 3].
    Returns:
        uint8 [H', W', 3].
    """
    zoom = _SIDE_PX / max(image_rgb.shape[:2])
    shown_hw = max(1, round(image_rgb.shape[0] * zoom)), max(1, round(image_rgb.shape[1] * zoom))
    photo = stretch(image_rgb, shown_hw)[0]
    panels = [
        (_said_of_windows(explained), _windows(photo, explained, zoom)),
        (_said_of_convolution(explained), _heat(photo, explained, zoom)),
        (_said_of_boxes(explained), _boxes(photo, explained, zoom)),
    ]
    return side_by_side(panels, [_note(rung) for rung in explained.rungs])


def winners(explained: LadderExplanation) -> list[tuple[int, int, int]]:
    """Level, row and column of the window behind each detection."""
    found, places = explained.detections, []
    assert found.scores is not None, "they are predictions"
    for label, score, box_xyxy in zip(found.labels, found.scores, found.boxes_xyxy, strict=True):
        nearest: tuple[float, tuple[int, int, int]] = (np.inf, (0, 0, 0))
        for index, rung in enumerate(explained.rungs):
            for row, column in np.argwhere(rung.conv.scores[..., label] == score).tolist():
                on_photo = clip(rung.conv.boxes_xyxy[row, column][None], found.size_hw)[0]
                nearest = min(nearest, (float(np.abs(on_photo - box_xyxy).max()), (index, row, column)))
        places.append(nearest[1])
    return places


def score_map(explained: LadderExplanation, shown_hw: tuple[int, int], zoom: float) -> NDArray[np.float32]:
    """For each pixel of the enlarged photo the best score of the windows whose middle is nearest, over all levels.

    Returns:
        float32 [H, W].
    """
    best = np.zeros(shown_hw, np.float32)
    for rung in explained.rungs:
        scores, level = rung.conv.scores.max(axis=2, initial=0), rung.conv.level
        rows, columns = _cells(level, 0, shown_hw[0], zoom), _cells(level, 1, shown_hw[1], zoom)
        row_fits, column_fits = (rows >= 0) & (rows < scores.shape[0]), (columns >= 0) & (columns < scores.shape[1])
        own = scores[np.clip(rows, 0, scores.shape[0] - 1)][:, np.clip(columns, 0, scores.shape[1] - 1)]
        np.maximum(best, own, out=best, where=row_fits[:, None] & column_fits)
    return best


def _cells(level: Level, axis: int, count: int, zoom: float) -> NDArray[np.int64]:
    """The row (axis 0) or column (axis 1) of the window whose middle is nearest, for each of `count` pixels."""
    at_px = (np.arange(count) + 0.5) / zoom * level.placement.scale_xy[1 - axis] + level.placement.offset_xy[1 - axis]
    return np.floor((at_px - level.window_px / 2) / level.step_px + 0.5).astype(np.int64)


def _said_of_windows(explained: LadderExplanation) -> str:
    level, count = explained.rungs[0].conv.level, explained.evaluations["window"]
    size = f"{count:,} windows of {level.window_px} px, {level.step_px} px apart, at {len(explained.rungs)} scales"
    cost = f"as many runs of the network, {explained.seconds['window']:.2f} s"
    return f"Window by window: {size}; {cost}. Dots: the middles of one scale's windows; frames: those that won"


def _said_of_convolution(explained: LadderExplanation) -> str:
    cost = f"{explained.evaluations['conv']} runs, {explained.seconds['conv']:.2f} s"
    largest = explained.max_score_difference
    difference = f"they differ by up to {largest:.0e}" if largest else "not one differs"
    times = f"{explained.speedup:.0f} times as fast"
    return f"As a convolution: the same scores in {cost}, {times}; {difference}"


def _said_of_boxes(explained: LadderExplanation) -> str:
    left = f"{len(explained.detections)} of {_above(explained):,} windows with a score above the threshold"
    return f"After non-max suppression: {left} are left"


def _windows(photo: Image, explained: LadderExplanation, zoom: float) -> Image:
    """The middles of one level's windows, how they move, and the windows that won."""
    cv2, picture, found = load_cv2(), faded(photo), winners(explained)[:_WINNERS]
    windows = explained.rungs[found[0][0] if found else 0].conv.windows_xyxy * zoom  # [rows, columns, 4]
    for x, y in ((windows[..., :2] + windows[..., 2:]) / 2).reshape(-1, 2).tolist():
        cv2.circle(picture, (round(x), round(y)), 1, _WHITE, -1, cv2.LINE_AA)
    _draw_steps(picture, windows)
    for (level, row, column), label in zip(found, explained.detections.labels.tolist(), strict=False):
        _frame(picture, explained.rungs[level].conv.windows_xyxy[row, column] * zoom, class_color(label))
    return picture


def _draw_steps(picture: Image, windows_xyxy: NDArray[np.float32]) -> None:
    """The first window that lies on the photo, those that come after it, and an arrow."""
    cv2 = load_cv2()
    row, column = int(np.argmax(windows_xyxy[:, 0, 1] >= 0)), int(np.argmax(windows_xyxy[0, :, 0] >= 0))
    for frame in windows_xyxy[row, column + 1 : column + _STEPS_SHOWN]:
        dashed_box(picture, frame, _STEPS, 1, 6)
    _frame(picture, windows_xyxy[row, column], _STEPS)
    x1, y1, x2, y2 = (round(float(side)) for side in windows_xyxy[row, column])
    start, end = ((x1 + x2) // 2, (y1 + y2) // 2), (x2, (y1 + y2) // 2)
    for shade, line_px in ((_BLACK, 5), (_STEPS, 2)):
        cv2.arrowedLine(picture, start, end, shade, line_px, cv2.LINE_AA, 0, 0.2)


def _frame(picture: Image, window_xyxy: NDArray[np.float32], color: Color) -> None:
    cv2 = load_cv2()
    x1, y1, x2, y2 = (round(float(side)) for side in window_xyxy)
    for shade, line_px in ((_BLACK, 4), (color, 2)):
        cv2.rectangle(picture, (x1, y1), (x2, y2), shade, line_px, cv2.LINE_AA)


def _heat(photo: Image, explained: LadderExplanation, zoom: float) -> Image:
    """The best score at each place, from blue over green to red, over the faded photo, and the key of the colours."""
    pale, best = faded(photo), score_map(explained, (photo.shape[0], photo.shape[1]), zoom)
    strength = np.where(best < _LEAST_HEAT, 0, 0.25 + 0.5 * best)[..., None]
    picture = np.ascontiguousarray((pale * (1 - strength) + _colours(best) * strength).round().astype(np.uint8))
    width, height = _BAR_WH
    bar = _colours(np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1)))
    top, left = picture.shape[0] - 2 * height, TEXT_PX + 4
    if left + width + TEXT_PX < picture.shape[1] and top > 0:
        shaded(picture, (0, top - 8, left + width + TEXT_PX + 8, picture.shape[0]), _BLACK, 0.6)
        picture[top : top + height, left : left + width] = bar
        for text, x in (("0", 8), ("1", left + width + 6)):
            put_text(picture, text, (x, top + height), TEXT_PX, _WHITE)
    return picture


def _colours(scores: NDArray[np.float32]) -> Image:
    """Scores 0-1 as colours, without the darkest of either end."""
    cv2 = load_cv2()
    levels = np.rint(20 + np.clip(scores, 0, 1) * 205).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[..., ::-1], np.uint8)


def _boxes(photo: Image, explained: LadderExplanation, zoom: float) -> Image:
    found = explained.detections
    shown = Detections((photo.shape[0], photo.shape[1]), found.boxes_xyxy * zoom, found.labels, found.scores)
    return draw(photo, shown, explained.class_names)


def _above(explained: LadderExplanation) -> int:
    """Windows that enter non-max suppression."""
    limits = explained.selection.thresholds(len(explained.class_names))
    return sum(int((rung.conv.scores >= limits).sum()) for rung in explained.rungs)


def _note(rung: Rung) -> Note:
    found: LevelScores = rung.conv
    (rows, columns), (height, width) = found.level.grid_hw, found.level.canvas.shape[:2]
    best = float(found.scores.max(initial=0))
    return None, f"scale {found.level.scale:.2f}: {width} x {height} px, {columns} x {rows} windows, best {best:.2f}"
