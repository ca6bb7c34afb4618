"""Which boxes of each photo are right, wrong or missing, and how they are drawn over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import xywh_to_xyxy
from detkit.evaluate.mistakes import FOREGROUND_IOU, MEANINGS, found_as_shown, missed_as_shown, tell_apart
from detkit.evaluate.overlaps import Conf, Overlaps, owners
from detkit.evaluate.report.svg import Markup, joined, number, tag

BoxKind = Literal["truth", "tp", "neither", "fp", "miss"]
BOX_NAMES: dict[BoxKind, str] = {
    "truth": "label",
    "tp": "true positive",
    "neither": "counts neither way",
    "fp": "false positive",
    "miss": "missed",
}
_ORDER: tuple[BoxKind, ...] = ("truth", "neither", "tp", "miss", "fp")  # the last lies on top
_LETTERS: dict[BoxKind, str] = {"fp": "F", "miss": "M"}


@dataclass(frozen=True, slots=True)
class Mark:
    """One box on a photo.

    Args:
        kind: what it is; "truth" is the label of an object that was found, or of a crowd.
        label: index of its class.
        box_xyxy: in the photo's pixels.
        score: of a detection; of a missed object the best one that was too low to be shown, None without one.
        error: type of error of what is wrong or missing, "" else.
        crowd: is it the label of a crowd?
        flip: is it what changed from one model to another?
    """

    kind: BoxKind
    label: int
    box_xyxy: tuple[float, float, float, float]
    score: float | None = None
    error: str = ""
    crowd: bool = False
    flip: bool = False


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and its marks, those to lie on top last; `error` as `PhotoErrors` has it."""

    position: int
    name: str
    size_hw: tuple[int, int]
    marks: tuple[Mark, ...]
    error: float

    def count(self, kind: BoxKind) -> int:
        """Marks of a kind."""
        return sum(mark.kind == kind for mark in self.marks)


def photos_of(table: Overlaps, conf: Conf) -> list[Photo]:
    """Every photo of a data set with what is right and wrong on it, the worst first, then in the data set's order.

    Args:
        table: from `find_overlaps`.
        conf: the working threshold, one for all classes or one for each.
    """
    rows: list[list[Mark]] = [[] for _ in table.positions]
    for photo, mark in _marks(table, table.shown(conf)):
        rows[photo].append(mark)
    photos = []
    for position, marks in zip(table.positions.tolist(), rows, strict=True):
        sample = table.dataset.samples[position]
        marks.sort(key=lambda mark: (_ORDER.index(mark.kind), mark.score or 0))
        error = sum(1.0 if m.kind == "miss" else (m.score or 0) for m in marks if m.kind in ("miss", "fp"))
        photos.append(Photo(position, sample.name, sample.truth.size_hw, tuple(marks), error))
    return sorted(photos, key=lambda photo: (-photo.error, photo.position))


def _marks(table: Overlaps, shown: NDArray[np.bool_]) -> list[tuple[int, Mark]]:
    """The marks of all photos, each with its photo's rank."""
    told = tell_apart(table)
    found = found_as_shown(table, told, shown)
    missed = missed_as_shown(table, told, found, shown)
    kinds = np.full(len(shown), "", object)
    for name, which in told.kinds.items():
        kinds[which] = name
    about = {int(told.target[d]): str(kinds[d]) for d in np.flatnonzero(shown & (told.target >= 0))}
    unseen = _too_low(table)
    marks = []
    boxes = xywh_to_xyxy(table.found.boxes_xywh)
    for d in np.flatnonzero(shown).tolist():
        kind: BoxKind = "tp" if told.hit[d] else "neither" if told.ignored[d] else "fp"
        score, label = float(table.found.scores[d]), int(table.found.categories[d]) - 1
        mark = Mark(kind, label, _four(boxes[d]), score, str(kinds[d]) if kind == "fp" else "")
        marks.append((int(table.found.images[d]) - 1, mark))
    boxes = xywh_to_xyxy(table.truths.boxes_xywh)
    for t in range(len(found)):
        photo, label = int(table.truths.images[t]) - 1, int(table.truths.categories[t]) - 1
        if table.counts[t] and not found[t]:
            error = "missed" if missed[t] else about.get(t, "missed")
            marks.append((photo, Mark("miss", label, _four(boxes[t]), unseen.get(t), error)))
        else:
            marks.append((photo, Mark("truth", label, _four(boxes[t]), crowd=bool(table.truths.crowd[t]))))
    return marks


def _too_low(table: Overlaps) -> dict[int, float]:
    """The score of the detection of any score that finds a truth."""
    owner = owners(table, FOREGROUND_IOU)
    return {int(owner[d]): float(table.found.scores[d]) for d in np.flatnonzero(owner >= 0)}


def _four(box_xyxy: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box_xyxy.tolist()
    return x1, y1, x2, y2


def words(mark: Mark, class_names: Sequence[str]) -> str:
    """What is said of a box: "person 0.83: false positive, on nothing"."""
    name = class_names[mark.label]
    if mark.kind == "miss":
        lower = "" if mark.score is None else f", found from score {mark.score:.2f}"
        return f"{name}: missed{lower}"
    if mark.kind == "truth":
        return f"{name}: {'crowd' if mark.crowd else 'label'}"
    what = BOX_NAMES[mark.kind] + (f", {mark.error}: {MEANINGS[mark.error]}" if mark.error else "")
    return f"{name} {mark.score:.2f}: {what}"


def overlay(
    photo: Photo,
    class_names: Sequence[str],
    behind: Markup | None = None,
    *,
    label: str,
    part_xyxy: Sequence[float] | None = None,
) -> Markup:
    """The boxes of a photo as a picture to lie over it, in the photo's own pixels.

    Args:
        photo: what to draw.
        class_names: in label order.
        behind: what lies below the boxes within the picture.
        label: what a screen reader says.
        part_xyxy: what the picture shows of the photo; None is all of it.
    """
    height, width = photo.size_hw
    x1, y1, x2, y2 = part_xyxy or (0, 0, width, height)
    text_px = _text_px(photo, max(x2 - x1, y2 - y1))
    marks = joined(_drawn(mark, photo.size_hw, text_px, class_names) for mark in photo.marks)
    box = f"{x1:g} {y1:g} {x2 - x1:g} {y2 - y1:g}"
    return tag("svg", behind, marks, viewBox=box, font_size=text_px, class_="boxes", role="img", aria_label=label)


def _text_px(photo: Photo, side_px: float) -> float:
    """The height of letters: as the picture is large, but smaller where the boxes they belong to are small."""
    heights = [m.box_xyxy[3] - m.box_xyxy[1] for m in photo.marks if m.kind in _LETTERS]
    return min(side_px / 21, max(side_px / 36, 0.6 * float(np.median(heights)))) if heights else side_px / 21


def _drawn(mark: Mark, size_hw: tuple[int, int], text_px: float, class_names: Sequence[str]) -> Markup:
    """A box with a dark edge, its letter, and its class and score for those who point at it."""
    x1, y1, x2, y2 = mark.box_xyxy
    frame = f"M{number(x1)} {number(y1)}H{number(x2)}V{number(y2)}H{number(x1)}z"
    kind = f"{mark.kind}{' crowd' if mark.crowd else ''}{' flip' if mark.flip else ''}"
    edge = None if mark.kind == "truth" else tag("path", d=frame, class_="edge")
    told = class_names[mark.label] + (f" {mark.score:.2f}" if mark.score is not None and mark.kind != "miss" else "")
    data: dict[str, object] = {}
    if mark.kind in ("tp", "fp", "miss"):  # what the filters look at
        score = None if mark.kind == "miss" else number(mark.score or 0)
        data = {"data_k": mark.kind, "data_c": mark.label, "data_s": score, "data_e": mark.error or None}
    top = y1 - 0.25 * text_px if y1 > 1.1 * text_px else y1 + 0.95 * text_px
    fits = x1 + 0.6 * text_px * (len(told) + 2) < size_hw[1]
    left, anchor = (max(x1, 0) + 0.15 * text_px, None) if fits else (min(x2, size_hw[1]) - 0.15 * text_px, "end")
    name = tag("tspan", f" {told}" if mark.kind in _LETTERS else told)
    caption = tag("text", _LETTERS.get(mark.kind), name, x=left, y=top, text_anchor=anchor)
    said = tag("title", words(mark, class_names))
    return tag("g", said, edge, tag("path", d=frame), caption, class_=f"b {kind}", **data)
