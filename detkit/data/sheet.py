"""A contact sheet: labelled photos of a data set side by side, with their boxes, as one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detkit import boxes
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.draw import class_color, draw, put_text, text_width
from detkit.images import Image, read_image, stretch
from detkit.opencv import load_cv2

WIDTH_PX = 1800
_GAP_PX = 8
_BACKGROUND, _TEXT, _FAINT = (24, 26, 30), (235, 235, 235), (160, 165, 172)
_TITLE_PX, _LEGEND_PX = 30, 19
_CAPTIONS_UP_TO = 12  # boxes on a photo; on fuller ones colours speak for the classes
_CAPTION_SIDE_PX = 40  # of the median box on the sheet
_ROW_TO_WIDTH = 0.6  # a row is at most that high


def contact_sheet(dataset: Dataset, count: int = 25, seed: int = 0) -> Image:
    """Draw some photos of a data set with their boxes, in rows of one width under a legend of the classes.

    Args:
        dataset: the photos; each class is shown where there is room for it.
        count: how many photos, at most.
        seed: of the choice.
    Returns:
        uint8 [H, 1800, 3].
    Raises:
        DataError: a chosen photo cannot be read.
    """
    chosen = choose(dataset, count, seed)
    return np.concatenate([_head(dataset), *(_row(row, dataset) for row in _rows(chosen))])


def choose(dataset: Dataset, count: int, seed: int) -> list[Sample]:
    """Some photos at random, one of each class first, the rarest before all; in random order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(dataset)).tolist()
    showing: dict[int, list[int]] = {}
    for row in order:
        for label in set(dataset.samples[row].truth.labels.tolist()):
            showing.setdefault(label, []).append(row)
    rarest = sorted(showing, key=lambda label: (len(showing[label]), label))
    rows = list(dict.fromkeys([*(showing[label][0] for label in rarest), *order]))[:count]
    return [dataset.samples[row] for row in rng.permutation(rows).tolist()] if rows else []


def _rows(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """The photos in as many rows as there are in a column, of about the same summed shape each."""
    shapes = np.array([_shape(sample) for sample in samples])
    count = max(1, round(float(np.sqrt(shapes.sum() / 1.35)))) if len(shapes) else 0
    middles = np.cumsum(shapes) - shapes / 2
    row_of = np.minimum(middles / (shapes.sum() / max(count, 1)), count - 1).astype(np.int64)
    for row in range(count):
        if members := [samples[at] for at in np.flatnonzero(row_of == row).tolist()]:
            yield members


def _shape(sample: Sample) -> float:
    """Width / height, of a photo no longer than three times its other side."""
    height, width = sample.truth.size_hw
    return float(np.clip(width / height, 1 / 3, 3))


def _row(samples: Sequence[Sample], dataset: Dataset) -> Image:
    """Photos of one height beside each other, as wide as the sheet, with a gap around."""
    room_px = WIDTH_PX - _GAP_PX * (len(samples) + 1)
    height = min(round(room_px / sum(map(_shape, samples))), round(_ROW_TO_WIDTH * WIDTH_PX))
    row = np.full((height + _GAP_PX, WIDTH_PX, 3), _BACKGROUND, np.uint8)
    left = float(_GAP_PX)
    for sample in samples:
        right = left + height * _shape(sample)
        cell_wh = round(min(right, WIDTH_PX - _GAP_PX)) - round(left), height
        row[:height, round(left) : round(left) + cell_wh[0]] = _cell(sample, cell_wh[::-1], dataset)
        left = right + _GAP_PX
    return row


def _cell(sample: Sample, cell_hw: tuple[int, int], dataset: Dataset) -> Image:
    """The photo with its boxes, scaled before they are drawn so that lines and captions look alike on all."""
    picture, placement = stretch(read_image(sample.image_path), cell_hw)
    truth = sample.truth
    scale_xy = cell_hw[1] / truth.size_hw[1], cell_hw[0] / truth.size_hw[0]
    points_xyv = None if truth.points_xyv is None else truth.points_xyv * np.array([*scale_xy, 1], np.float32)
    boxes_xyxy = boxes.scale(truth.boxes_xyxy, scale_xy).astype(np.float32)
    shown = replace(truth, size_hw=placement.canvas_hw, boxes_xyxy=boxes_xyxy, points_xyv=points_xyv)
    if _has_room(shown, dataset.class_names):
        return draw(picture, shown, dataset.class_names, dataset.point_edges)
    return _outlined(picture, shown)


def _has_room(truth: Detections, class_names: Sequence[str]) -> bool:
    """Whether captions say something and hide little: else the colours of the legend do."""
    if not len(truth) or len(truth) > _CAPTIONS_UP_TO:
        return False
    sides_px = truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]
    wanted = len(class_names) > 1 or truth.points_xyv is not None
    return wanted and float(np.median(sides_px)) >= _CAPTION_SIDE_PX


def _outlined(picture: Image, truth: Detections) -> Image:
    """Frames only."""
    cv2, picture = load_cv2(), picture.copy()
    for box, label in zip(truth.boxes_xyxy.tolist(), truth.labels.tolist(), strict=True):
        corners = [round(16 * value) for value in box]  # four fractional bits
        cv2.rectangle(picture, corners[:2], corners[2:], class_color(label), 2, cv2.LINE_AA, 4)
    return picture


def _head(dataset: Dataset) -> Image:
    """What the data set is, and the colour and count of each class, the frequent ones first."""
    counts = np.bincount(np.concatenate([s.truth.labels for s in dataset]), minlength=len(dataset.class_names))
    legend = [(f"{dataset.class_names[k]} {counts[k]:,}", class_color(k)) for k in np.argsort(-counts, kind="stable")]
    lines: list[list[tuple[str, tuple[int, int, int], int]]] = [[]]
    left = 2 * _GAP_PX
    for text, color in legend:
        wide_px = text_width(text, _LEGEND_PX) + 3 * _LEGEND_PX
        if left + wide_px > WIDTH_PX and lines[-1]:
            lines.append([])
            left = 2 * _GAP_PX
        lines[-1].append((text, color, left))
        left += wide_px
    line_px = round(1.7 * _LEGEND_PX)
    head = np.full((2 * _TITLE_PX + line_px * len(lines) + _GAP_PX, WIDTH_PX, 3), _BACKGROUND, np.uint8)
    _write_title(head, dataset)
    for number, line in enumerate(lines):
        base = 2 * _TITLE_PX + line_px * number + _LEGEND_PX
        for text, color, x in line:
            head[base - _LEGEND_PX + 5 : base + 1, x : x + _LEGEND_PX - 4] = color
            put_text(head, text, (x + round(1.2 * _LEGEND_PX), base), _LEGEND_PX, _FAINT)
    return head


def _write_title(head: NDArray[np.uint8], dataset: Dataset) -> None:
    title = f"{dataset.name} {dataset.split}".strip()
    put_text(head, title, (2 * _GAP_PX, round(1.4 * _TITLE_PX)), _TITLE_PX, _TEXT)
    what = f"{len(dataset):,} photos, {dataset.box_count:,} boxes"
    beside = 4 * _GAP_PX + text_width(title, _TITLE_PX)
    put_text(head, what, (beside, round(1.4 * _TITLE_PX)), _LEGEND_PX, _FAINT)
