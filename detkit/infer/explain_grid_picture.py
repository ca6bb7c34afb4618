"""The picture of `explain_grid`: who answered for each object on the left, who yielded to whom on the right."""

from __future__ import annotations

import numpy as np

from detkit.detections import Detections
from detkit.draw import Color, class_color, draw, put_text, text_width
from detkit.images import Image, place
from detkit.infer.explain_grid import GridExplanation
from detkit.infer.panels import Note, dashed_box, faded, shaded, side_by_side
from detkit.opencv import load_cv2

_SIDE_PX = 900  # of a panel, about; canvas pixels are enlarged by a whole number
_LISTED = 12  # objects in the notes
_IOU_TEXT_PX = 15
_GRID_ROOM = 1.5  # cells of the grid drawn around a box
_FADE = 0.45
_PLATE_WH = 110, 30
_WHITE: Color = (255, 255, 255)
_BLACK: Color = (0, 0, 0)


def draw_grid(explained: GridExplanation, image_rgb: Image, fit: str, pad_value: int) -> Image:
    """Two panels on the network's canvas, enlarged, and a line for each object.

    Args:
        explained: what `explain_grid` said of `image_rgb`. fit, pad_value: the model card's.
    Returns:
        uint8 [H, W, 3].
    """
    zoom = max(1, round(_SIDE_PX / max(explained.placement.canvas_hw)))
    canvas_hw = tuple(side * zoom for side in explained.placement.canvas_hw)
    photo = place(image_rgb, canvas_hw, fit, pad_value)[0]  # type: ignore[arg-type]
    objects = explained.objects.tolist()
    gone = len(explained.suppressed)
    left = f"{_count(len(objects), 'object')}: the cell that answered is filled, its anchor dashed"
    right = f"{_count(len(explained.before), 'box')} before suppression: the {gone} thin ones went, with their IoU"
    seen = _photo_on_canvas(explained, zoom)
    panels = [(left, _answers(photo, explained, zoom)[seen]), (right, _suppression(photo, explained, zoom)[seen])]
    return side_by_side(panels, _notes(explained))


def _photo_on_canvas(explained: GridExplanation, zoom: int) -> tuple[slice, slice]:
    """Rows and columns of the enlarged canvas that show the photo, and one coarse cell more on each side."""
    placement, room = explained.placement, explained.levels[-1].stride
    (height, width), (offset_x, offset_y) = placement.image_hw, placement.offset_xy
    ends = [
        (offset_y, offset_y + height * placement.scale_xy[1], placement.canvas_hw[0]),
        (offset_x, offset_x + width * placement.scale_xy[0], placement.canvas_hw[1]),
    ]
    rows, columns = (slice(round(max(a - room, 0)) * zoom, round(min(b + room, end)) * zoom) for a, b, end in ends)
    return rows, columns


def _count(number: int, what: str) -> str:
    """ "1 box", "2 boxes"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('x') else 's'}"


def _answers(photo: Image, explained: GridExplanation, zoom: int) -> Image:
    """Grids lightly where an object answers from them, its cell filled, its anchor dashed, its box on top."""
    picture = faded(photo)
    for index in explained.objects.tolist()[::-1]:
        _draw_lines(picture, explained, index, zoom)
    for number, index in reversed(list(enumerate(explained.objects.tolist()))):
        slot, color = explained.slots[index], class_color(number)
        shaded(picture, [zoom * side for side in slot.cell_xyxy], color, 0.75)
        dashed_box(picture, [zoom * side for side in slot.anchor_xyxy], _BLACK, 4)
        dashed_box(picture, [zoom * side for side in slot.anchor_xyxy], color, 2)
    return _with_objects(picture, explained, zoom)


def _draw_lines(picture: Image, explained: GridExplanation, index: int, zoom: int) -> None:
    """The grid of an object's level around its box and its cell, as thin white lines."""
    slot = explained.slots[index]
    level, side = explained.levels[slot.level], slot.stride * zoom
    both = np.array([explained.before.boxes_xyxy[index], slot.cell_xyxy], np.float64)
    low = np.floor(both[:, :2].min(axis=0) / slot.stride - _GRID_ROOM).astype(int).clip(0)
    high = np.ceil(both[:, 2:].max(axis=0) / slot.stride + _GRID_ROOM).astype(int)
    right, bottom = min(int(high[0]), level.columns), min(int(high[1]), level.rows)
    part = picture[low[1] * side : bottom * side, low[0] * side : right * side]
    for offset in range(0, part.shape[1], side):
        shaded(part, (offset, 0, offset + 1, part.shape[0]), _WHITE, _FADE)
    for offset in range(0, part.shape[0], side):
        shaded(part, (0, offset, part.shape[1], offset + 1), _WHITE, _FADE)


def _suppression(photo: Image, explained: GridExplanation, zoom: int) -> Image:
    """Suppressed boxes thin, in the colour of the one that suppressed them, with their IoU where there is room."""
    cv2, picture = load_cv2(), faded(photo)
    taken = _plates(explained, zoom)
    reserved = len(taken)
    texts: list[tuple[str, tuple[int, int], Color]] = []
    for number, index in enumerate(explained.objects.tolist()):
        for other in explained.suppressed_for(index).tolist():
            x1, y1, x2, y2 = (round(float(side) * zoom) for side in explained.before.boxes_xyxy[other])
            cv2.rectangle(picture, (x1, y1), (x2, y2), class_color(number), 1, cv2.LINE_AA)
            text = f"{explained.overlaps[other]:.2f}"
            place_xyxy = _free_corner((x1, y1, x2, y2), text, picture.shape, taken)
            if place_xyxy is not None:
                taken.append(place_xyxy)
                texts.append((text, (place_xyxy[0] + 2, place_xyxy[3] - 4), class_color(number)))
    picture = _with_objects(picture, explained, zoom)
    for (text, origin_xy, color), (left, top, right, bottom) in zip(texts, taken[reserved:], strict=True):
        shaded(picture, (left, top, right, bottom), _BLACK, 0.75)
        put_text(picture, text, origin_xy, _IOU_TEXT_PX, color)
    return picture


def _plates(explained: GridExplanation, zoom: int) -> list[tuple[int, int, int, int]]:
    """About where the names of the objects will stand: above the left end of their boxes."""
    corners = (explained.before.boxes_xyxy[explained.objects, :2] * zoom).astype(int).tolist()
    return [(x - 4, y - _PLATE_WH[1], x + _PLATE_WH[0], y) for x, y in corners]


def _free_corner(
    box_xyxy: tuple[int, int, int, int],
    text: str,
    shape: tuple[int, ...],
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int] | None:
    """A corner of the box where the text covers no other; None where there is none."""
    x1, y1, x2, y2 = box_xyxy
    width, height = text_width(text, _IOU_TEXT_PX) + 4, _IOU_TEXT_PX + 4
    for left, top in ((x2 - width, y2 - height), (x1, y2 - height), (x2 - width, y1), (x1, y1)):
        left, top = min(max(left, 0), shape[1] - width), min(max(top, 0), shape[0] - height)
        place_xyxy = left, top, left + width, top + height
        if not any(left < c and a < left + width and top < d and b < top + height for a, b, c, d in taken):
            return place_xyxy
    return None


def _with_objects(picture: Image, explained: GridExplanation, zoom: int) -> Image:
    """The boxes that stayed, numbered from the best."""
    objects = explained.objects.tolist()
    names = [f"{number} {explained.name_of(index)}" for number, index in enumerate(objects, start=1)]
    boxes_xyxy = explained.before.boxes_xyxy[explained.objects] * zoom
    found = Detections((picture.shape[0], picture.shape[1]), boxes_xyxy, np.arange(len(objects)))
    return draw(picture, found, names)


def _notes(explained: GridExplanation) -> list[Note]:
    """A line for each object, the best first."""
    objects = explained.objects.tolist()
    notes: list[Note] = []
    for number, index in enumerate(objects[:_LISTED]):
        slot, gone = explained.slots[index], explained.suppressed_for(index)
        assert explained.before.scores is not None, "they are predictions"
        width, height = slot.anchor_wh_px
        text = (
            f"{number + 1} {explained.name_of(index)} {explained.before.scores[index]:.2f}: stride {slot.stride}, row "
            f"{slot.row}, column {slot.column}, anchor {slot.anchor} ({width:.0f}x{height:.0f} px)"
        )
        ious = explained.overlaps[gone]
        span = f", suppressed {len(gone)}, IoU {ious.min():.2f}-{ious.max():.2f}" if len(gone) else ""
        notes.append((class_color(number), text + span))
    if len(objects) > _LISTED:
        notes.append((None, f"and {len(objects) - _LISTED} more objects: see the table"))
    if not objects:
        score, name = explained.highest
        notes.append(
            (None, f"no object: no slot scores enough to count; the highest score is {score:.2f}, of a {name}")
        )
    return notes
