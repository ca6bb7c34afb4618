"""Several pictures as one: captions above, notes with coloured chips below; what the `explain` commands draw."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from detkit.draw import Color, put_text, text_width
from detkit.images import Image
from detkit.opencv import load_cv2

Note = tuple[Color | None, str]

TEXT_PX = 16
_LINE_PX = 28
_GAP_PX = 14
_PAPER: Color = (250, 250, 248)
_INK: Color = (25, 25, 25)


def side_by_side(panels: Sequence[tuple[str, Image]], notes: Sequence[Note] = ()) -> Image:
    """Pictures of one height next to each other.

    Args:
        panels: caption and picture, uint8 [H, W, 3] each; a caption is broken into lines as wide as its picture.
        notes: colour of a chip (None: no chip) and a line of text, listed below in as many columns as fit.
    Returns:
        uint8 [H', W', 3].
    """
    heads = [wrapped(caption, image.shape[1]) for caption, image in panels]
    head_px = max(map(len, heads)) * _LINE_PX + _GAP_PX
    width = sum(image.shape[1] for _, image in panels) + _GAP_PX * (len(panels) + 1)
    height = head_px + max(image.shape[0] for _, image in panels) + _GAP_PX
    listed = _listed(notes, width - 2 * _GAP_PX)
    picture = np.full((height + listed.shape[0], width, 3), _PAPER, np.uint8)
    left = _GAP_PX
    for lines, (_, image) in zip(heads, panels, strict=True):
        for number, line in enumerate(lines):
            put_text(picture, line, (left, _GAP_PX // 2 + number * _LINE_PX + TEXT_PX), TEXT_PX, _INK)
        picture[head_px : head_px + image.shape[0], left : left + image.shape[1]] = image
        left += image.shape[1] + _GAP_PX
    picture[height:, _GAP_PX : width - _GAP_PX] = listed
    return picture


def wrapped(text: str, room_px: int) -> list[str]:
    """The text in lines no wider than the room, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, TEXT_PX) > room_px:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def faded(photo: Image) -> Image:
    """The photo paler and greyer, so that colours on it are seen."""
    grey = photo.mean(axis=2, keepdims=True)
    return np.asarray((0.35 * photo + 0.35 * grey + 0.12 * 255).round(), np.uint8)


def shaded(picture: Image, mask_xyxy: Sequence[float], color: Color, strength: float) -> None:
    """Tint a rectangle of a picture, in place."""
    left, top, right, bottom = (round(value) for value in mask_xyxy)
    part = picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    part[:] = (part * (1 - strength) + np.array(color) * strength).round().astype(np.uint8)


def dashed_box(picture: Image, box_xyxy: Sequence[float], color: Color, line_px: int = 2, dash_px: int = 10) -> None:
    """A dashed rectangle, in place; it may reach beyond the picture."""
    cv2 = load_cv2()
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]])
    for start, end in itertools.pairwise(corners):
        length = float(np.hypot(*(end - start)))
        for at in np.arange(0, length, 2 * dash_px):
            ends = [start + (end - start) * min(at + step, length) / max(length, 1e-6) for step in (0, dash_px)]
            low, high = (tuple(np.clip(point, -30_000, 30_000).round().astype(int).tolist()) for point in ends)
            cv2.line(picture, low, high, color, line_px, cv2.LINE_AA)


def _listed(notes: Sequence[Note], width: int) -> Image:
    """The notes as a picture of this width, column after column."""
    if not notes:
        return np.full((0, width, 3), _PAPER, np.uint8)
    widest = max(text_width(text, TEXT_PX) for _, text in notes) + _LINE_PX + 10
    columns = max(1, min(len(notes), width // widest))
    rows = -(-len(notes) // columns)
    picture = np.full((rows * _LINE_PX + _GAP_PX, width, 3), _PAPER, np.uint8)
    for number, (color, text) in enumerate(notes):
        column, row = divmod(number, rows)
        left, top = column * (width // columns), row * _LINE_PX
        if color is not None:
            picture[top + 5 : top + _LINE_PX - 5, left : left + _LINE_PX - 10] = color
            left += _LINE_PX
        put_text(picture, text, (left, top + TEXT_PX + 1), TEXT_PX, _INK)
    return picture
