"""Draw detections on a copy of an image: boxes, labels, points, track numbers and trails, and lines that count."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.opencv import load_cv2

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels, right and bottom exclusive

_PALETTE: tuple[Color, ...] = (
    (255, 77, 79), (33, 150, 255), (67, 213, 101), (255, 196, 0), (187, 107, 255), (0, 209, 209),
    (255, 128, 20), (255, 110, 190), (176, 228, 20), (98, 110, 255), (0, 160, 130), (190, 140, 100),
)  # fmt: skip
_DARK: Color = (20, 20, 20)
_LIGHT: Color = (255, 255, 255)
_GREY: Color = (160, 160, 160)
_FONT_WEIGHT = 450  # 400 is regular, 600 semibold
_SMALLEST_TEXT_PX = 9


class LineMark(NamedTuple):
    """A line at which objects are counted: its two points in pixels, and rows of text for its plate."""

    start_xy: tuple[float, float]
    end_xy: tuple[float, float]
    caption: tuple[str, ...] = ()


def draw(
    image_rgb: NDArray[np.uint8],
    detections: Detections,
    class_names: Sequence[str],
    point_edges: Sequence[tuple[int, int]] = (),
    *,
    trails: Mapping[int, Sequence[tuple[float, float]]] | None = None,
    lines: Sequence[LineMark] = (),
) -> NDArray[np.uint8]:
    """Draw detections on a copy of an image; better scores come on top, crowd boxes are dashed.

    Args:
        image_rgb: uint8 [H, W, 3]; it is not changed.
        detections: boxes on this image, with whatever they carry of scores, points, track ids and crowd flags.
            With track ids each track has its own colour, and a box without a number is grey; else each class has.
        class_names: names by label, in any script the font of OpenCV 5 knows.
        point_edges: pairs of point indices to join by a line. Likely hidden points have a small core.
        trails: by track id, x and y of where it was lately, the oldest first; they lie below the boxes.
        lines: each with an arrow towards the right hand of who walks it, which is the way counted as "in".
    Returns:
        uint8 [H, W, 3], a new image.
    Raises:
        ValueError: the detections belong to an image of another size, or a label has no name.
    """
    _check(image_rgb, detections, class_names)
    picture = np.ascontiguousarray(image_rgb).copy()
    scores = np.zeros(len(detections)) if detections.scores is None else detections.scores
    order = np.argsort(scores, kind="stable").tolist()  # the best last
    colors = [_color(detections, row) for row in range(len(detections))]
    corners = [_corners(box, detections.size_hw) for box in detections.boxes_xyxy]
    for line in lines:
        _draw_line(picture, line)
    for track_id, places_xy in (trails or {}).items():
        _draw_trail(picture, places_xy, track_color(track_id))
    for row in order:
        crowd = detections.crowd is not None and bool(detections.crowd[row])
        _draw_box(picture, corners[row], colors[row], crowd)
    if detections.points_xyv is not None:
        for row in order:
            _draw_points(picture, detections.points_xyv[row], point_edges, predicted=detections.scores is not None)
    captions, plates = {row: _caption(detections, row, class_names) for row in order}, _plates(picture, lines)
    _draw_captions(picture, corners, captions, colors, plates)
    for place, rows in plates.items():
        _draw_plate(picture, place, rows)
    return picture


def _check(image_rgb: NDArray[np.uint8], detections: Detections, class_names: Sequence[str]) -> None:
    if detections.size_hw != image_rgb.shape[:2]:
        raise ValueError(f"detections lie on {detections.size_hw}, the image is {image_rgb.shape[:2]}")
    if len(detections) and not 0 <= detections.labels.min() <= detections.labels.max() < len(class_names):
        raise ValueError(f"labels go up to {detections.labels.max()}, there are {len(class_names)} class names")


def class_color(label: int) -> Color:
    """The RGB colour of a class, the same in every picture: twelve hues, then the same darker and paler."""
    red, green, blue = _PALETTE[label % len(_PALETTE)]
    shade = label // len(_PALETTE) % 3
    if shade == 1:
        return red * 5 // 8, green * 5 // 8, blue * 5 // 8
    if shade == 2:
        return (red + 255) // 2, (green + 255) // 2, (blue + 255) // 2
    return red, green, blue


def track_color(track_id: int) -> Color:
    """The RGB colour of a track, counted from 1: neighbours differ; grey below 1, where a box has no number."""
    return class_color(track_id - 1) if track_id > 0 else _GREY


def _color(detections: Detections, row: int) -> Color:
    if detections.track_ids is None:
        return class_color(int(detections.labels[row]))
    return track_color(int(detections.track_ids[row]))


def _line_px(picture: NDArray[np.uint8]) -> int:
    """Line width that grows with the square root of the picture's side: 1 at 100 pixels, 2 at 400, 4 at 2,000."""
    return max(1, round(0.1 * float(np.sqrt(_side_px(picture)))))


def _text_px(picture: NDArray[np.uint8]) -> int:
    return max(_SMALLEST_TEXT_PX, round(0.66 * float(np.sqrt(_side_px(picture)))))


def _side_px(picture: NDArray[np.uint8]) -> float:
    return float(np.sqrt(picture.shape[0] * picture.shape[1]))


def _corners(box_xyxy: NDArray[np.float32], size_hw: tuple[int, int]) -> Rectangle:
    """The box in whole pixels, at least one pixel large and within the picture."""
    height, width = size_hw
    finite = np.nan_to_num(np.clip(box_xyxy, -1, [width + 1, height + 1, width + 1, height + 1]))
    x1, y1, x2, y2 = (round(float(value)) for value in finite)
    left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return left, top, min(max(x2, left + 1), width), min(max(y2, top + 1), height)


def _draw_box(picture: NDArray[np.uint8], corners: Rectangle, color: Color, dashed: bool) -> None:
    """The frame lies inside the box, with a thin dark line on either side so that it shows on any background."""
    line = _line_px(picture)
    left, top, right, bottom = corners
    frame = np.zeros((bottom - top, right - left), np.uint8)
    edge = max(1, line // 3)
    for depth, value in ((line + edge, 1), (line, 2)):
        frame[:depth], frame[-depth:], frame[:, :depth], frame[:, -depth:] = value, value, value, value
    if dashed:
        dash = 4 * line + 4
        y, x = np.indices(frame.shape, sparse=True)
        frame[(x + y) // dash % 2 == 1] = 0
    for side in _sides(frame.shape, line + edge):  # masks of a whole large box would take ten times as long
        shades, pixels = frame[side], picture[top:bottom, left:right][side]
        pixels[shades == 1] //= 2
        pixels[shades == 2] = color


def _sides(size_hw: tuple[int, ...], depth: int) -> tuple[tuple[slice, slice], ...]:
    """The strip along the edge of a rectangle, so many pixels deep, as four parts that share no pixel."""
    low, far = (max(depth, side - depth) for side in size_hw)
    every, first, middle = slice(None), slice(depth), slice(depth, low)
    return (first, every), (slice(low, None), every), (middle, first), (middle, slice(far, None))


def _draw_trail(picture: NDArray[np.uint8], places_xy: Sequence[tuple[float, float]], color: Color) -> None:
    """A line through the places, the thinner the longer ago, with a dark edge."""
    cv2, thickest = load_cv2(), 2 * _line_px(picture)
    joints = _sixteenths(places_xy)
    ends = [round(part * (len(joints) - 1) / thickest) for part in range(thickest + 1)]
    for shade, more in ((_DARK, 2), (color, 0)):
        for thickness, (first, last) in enumerate(itertools.pairwise(ends), start=1):
            if first < last:
                cv2.polylines(picture, [joints[first : last + 1]], False, shade, thickness + more, cv2.LINE_AA, 4)


def _draw_line(picture: NDArray[np.uint8], mark: LineMark) -> None:
    """The line with its end points, and an arrow from its middle towards "in"."""
    cv2, line = load_cv2(), _line_px(picture)
    (x1, y1), (x2, y2) = mark.start_xy, mark.end_xy
    length_px, arrow_px = float(np.hypot(x2 - x1, y2 - y1)), 10 * line
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    tip = middle_x - (y2 - y1) / length_px * arrow_px, middle_y + (x2 - x1) / length_px * arrow_px
    start, end, middle, tip = _sixteenths([(x1, y1), (x2, y2), (middle_x, middle_y), tip]).tolist()
    for shade, more in ((_DARK, 2), (_LIGHT, 0)):
        cv2.line(picture, start, end, shade, line + more, cv2.LINE_AA, 4)
        for point in (start, end):
            cv2.circle(picture, point, 16 * (2 * line + more // 2), shade, -1, cv2.LINE_AA, 4)
        cv2.arrowedLine(picture, middle, tip, shade, line + more, cv2.LINE_AA, 4, 0.4)


def _plates(picture: NDArray[np.uint8], lines: Sequence[LineMark]) -> dict[Rectangle, list[str]]:
    """Where the rows of text of each line go: beside its first point, and over no other plate."""
    size_px, (height, width) = _text_px(picture), picture.shape[:2]
    margin = max(2, size_px // 4)
    plates: dict[Rectangle, list[str]] = {}
    for mark in lines:
        rows = [_shortened(text, size_px, width - 2 * margin) for text in mark.caption]
        plate_width = max((text_width(text, size_px) for text in rows), default=0) + 2 * margin
        plate_wh = min(plate_width, width), min(round(1.3 * size_px) * len(rows) + margin, height)
        x, y = (round(value) for value in mark.start_xy)
        beside = x - 2 * margin, y - 2 * margin, x + 2 * margin, y + 2 * margin
        if rows:
            plates[_free_place(beside, plate_wh, (height, width), plates)] = rows
    return plates


def _draw_plate(picture: NDArray[np.uint8], place: Rectangle, rows: list[str]) -> None:
    size_px, (left, top, right, bottom) = _text_px(picture), place
    picture[top:bottom, left:right] = _DARK
    for number, text in enumerate(rows):
        origin_xy = left + max(2, size_px // 4), top + number * round(1.3 * size_px) + size_px
        put_text(picture, text, origin_xy, size_px, _LIGHT)


def _sixteenths(places_xy: Sequence[tuple[float, float]]) -> NDArray[np.int32]:
    """Places as OpenCV takes them, int32 [N, 2] with four fractional bits."""
    places = np.asarray(places_xy, np.float64).reshape(-1, 2)
    return np.round(places.clip(-30_000, 30_000) * 16).astype(np.int32)


def _draw_points(
    picture: NDArray[np.uint8], points_xyv: NDArray[np.float32], edges: Sequence[tuple[int, int]], *, predicted: bool
) -> None:
    """Edges, then points; visibility is a probability where `predicted`, else COCO's 0, 1 (hidden) or 2."""
    cv2, radius = load_cv2(), _line_px(picture)
    height, width = picture.shape[:2]
    shown: dict[int, tuple[int, int]] = {}
    for index, (x, y, visibility) in enumerate(points_xyv.tolist()):
        if visibility > 0 and 0 <= x <= width and 0 <= y <= height:
            shown[index] = round(x * 16), round(y * 16)  # four fractional bits
    for a, b in edges:
        if a in shown and b in shown:
            cv2.line(picture, shown[a], shown[b], _LIGHT, max(1, radius // 2), cv2.LINE_AA, 4)
    hidden_up_to = 0.5 if predicted else 1.0
    for index, centre in shown.items():
        cv2.circle(picture, centre, (radius + 1) * 16, _DARK, -1, cv2.LINE_AA, 4)
        colored = radius * (8 if points_xyv[index, 2] <= hidden_up_to else 16)
        cv2.circle(picture, centre, colored, class_color(index), -1, cv2.LINE_AA, 4)


def _caption(detections: Detections, row: int, class_names: Sequence[str]) -> str:
    parts = [class_names[int(detections.labels[row])]]
    if detections.track_ids is not None and detections.track_ids[row] > 0:
        parts.insert(0, f"#{detections.track_ids[row]}")
    if detections.scores is not None:
        parts.append(f"{detections.scores[row]:.2f}")
    return " ".join(parts)


def _draw_captions(
    picture: NDArray[np.uint8],
    corners: list[Rectangle],
    captions: dict[int, str],
    colors: list[Color],
    taken: Iterable[Rectangle],
) -> None:
    """Each caption on a filled plate; `captions` has the best row last, which chooses first and lies on top."""
    size_px, height, width = _text_px(picture), *picture.shape[:2]
    margin = max(2, size_px // 4)
    places: dict[int, Rectangle] = {}
    for row, text in reversed(captions.items()):
        captions[row] = _shortened(text, size_px, width - 2 * margin)
        plate_wh = min(text_width(captions[row], size_px) + 2 * margin, width), min(round(1.3 * size_px), height)
        places[row] = _free_place(corners[row], plate_wh, (height, width), [*taken, *places.values()])
    for row, text in captions.items():
        left, top, right, bottom = places[row]
        picture[top:bottom, left:right] = colors[row]
        put_text(picture, text, (left + margin, top + size_px), size_px, _text_color(colors[row]))


def _free_place(
    corners: Rectangle, plate_wh: tuple[int, int], size_hw: tuple[int, int], taken: Iterable[Rectangle]
) -> Rectangle:
    """The first place that hides no other plate: above the box, inside its top, below it, inside its bottom."""
    box_left, box_top, box_right, box_bottom = corners
    width, height = plate_wh
    tops = [box_top - height, box_top, box_bottom, box_bottom - height]
    tops = [top for top in tops if 0 <= top <= size_hw[0] - height] or [0]
    lefts = [max(0, min(left, size_hw[1] - width)) for left in (box_left, box_right - width)]
    places = [(left, top, left + width, top + height) for left in lefts for top in tops]
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text_color(background: Color) -> Color:
    """Dark or light, whichever contrasts more (relative luminance, WCAG 2)."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _DARK if luminance > 0.179 else _LIGHT


def _shortened(text: str, size_px: int, room_px: int) -> str:
    """The text, cut with an ellipsis where it is wider than the room."""
    if text_width(text, size_px) <= room_px:
        return text
    while text and text_width(text + "..", size_px) > room_px:
        text = text[:-1]
    return text + ".." if text else ""


def _font(cv2: Any) -> Any:
    """OpenCV 5's built-in TrueType font, or None in OpenCV 4, whose line font writes ASCII only."""
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def text_width(text: str, size_px: int) -> int:
    """Pixels a text takes along its line."""
    cv2 = load_cv2()
    font = _font(cv2)
    if font is None:
        return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size_px / 30, 1)[0][0])
    left, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), font, size_px, _FONT_WEIGHT)
    return int(left + width)


def put_text(picture: NDArray[np.uint8], text: str, origin_xy: tuple[int, int], size_px: int, color: Color) -> None:
    """Write a text into a picture, in place; `origin_xy` is the left end of its baseline."""
    cv2 = load_cv2()
    font = _font(cv2)
    if font is None:
        cv2.putText(picture, text, origin_xy, cv2.FONT_HERSHEY_SIMPLEX, size_px / 30, color, 1, cv2.LINE_AA)
    else:
        cv2.putText(picture, text, origin_xy, color, font, size_px, _FONT_WEIGHT)
