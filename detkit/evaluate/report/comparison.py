"""The report on two models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detkit.boxes import iou_matrix
from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.evaluate.analysis import Analysis, analyse
from detkit.evaluate.coco import MAX_DET, evaluate
from detkit.evaluate.compare import ModelComparison, verdict
from detkit.evaluate.flips import Flip, PhotoFlips
from detkit.evaluate.overlaps import find_overlaps
from detkit.evaluate.report import charts, figures
from detkit.evaluate.report.gallery import Photo, overlay, photos_of
from detkit.evaluate.report.page import MAX_PHOTOS, TEXT_BYTES, check_jinja2, write_page
from detkit.evaluate.report.svg import Markup, number

FLIP_NAMES = {"lost": "lost", "found": "found", "new_false": "new false alarm", "gone_false": "false alarm gone"}
_CARD_BYTES = 900  # of a card without its boxes


@dataclass(frozen=True, slots=True)
class Item:
    """One change, in words and for the filters."""

    kind: str
    said: str
    label: int
    score: str


@dataclass(frozen=True, slots=True)
class PairCard:
    """A photo that flipped: the boxes of both models, and what changed."""

    photo: PhotoFlips
    rank: int
    sides: tuple[Markup, Markup]
    items: tuple[Item, ...]
    size_hw: tuple[int, int]


def write_comparison(
    target: Path,
    dataset: Dataset,
    predictions_a: Sequence[Detections],
    predictions_b: Sequence[Detections],
    *,
    comparison: ModelComparison,
    names: tuple[str, str] = ("A", "B"),
    max_det: int = MAX_DET,
) -> None:
    """Write a report on two models: what differs and how sure that is, and the photos that flipped.

    Args:
        target: the HTML file.
        dataset: the labelled photos; those that cannot be read are shown as empty frames.
        predictions_a, predictions_b: one per sample each, in the data set's order.
        comparison: what `compare` said of them.
        names: what the models are called.
        max_det: best boxes kept per photo and class.
    Raises:
        MissingExtraError: Jinja2 is not installed.
        DataError: predictions that do not fit the data set. RunError: the file cannot be written.
    """
    check_jinja2()
    flips = comparison.flips
    sides = []
    for predictions, confs in ((predictions_a, flips.confs_a), (predictions_b, flips.confs_b)):
        conf = [confs[name] for name in dataset.class_names]
        analysis = analyse(dataset, predictions, conf=conf, max_det=max_det)
        photos = {photo.position: photo for photo in photos_of(find_overlaps(dataset, predictions, max_det), conf)}
        sides.append((evaluate(dataset, predictions, max_det=max_det), analysis, photos))
    (result_a, analysis_a, photos_a), (result_b, analysis_b, photos_b) = sides
    cards = _cards(flips.photos, (photos_a, photos_b), dataset.class_names)
    curves_a, curves_b = analysis_a.curves, analysis_b.curves
    content = {
        **_words(comparison, dataset, names),
        "rules": result_a.rules(),
        "cards": cards,
        "curves": [charts.pr_comparison([(names[0], curves_a), (names[1], curves_b)], iou) for iou in curves_a.pr],
        "figures": figures.change_rows([comparison.AP, comparison.AP50, comparison.AP75], ["AP", "AP50", "AP75"]),
        "others": figures.side_rows(comparison, result_a, result_b),
        "classes": _class_rows(comparison),
        "errors": _error_rows(analysis_a, analysis_b),
    }
    paths = {card.photo.index: dataset.samples[card.photo.index].image_path for card in cards}
    write_page(target, "comparison.html.j2", content, paths, lambda _: 1)


def _words(comparison: ModelComparison, dataset: Dataset, names: tuple[str, str]) -> dict[str, Any]:
    """Headings, sentences and counts."""
    flips = comparison.flips
    return {
        "title": f"{names[0]} and {names[1]} on {dataset.name}{f', {dataset.split}' if dataset.split else ''}",
        "names": names,
        "dataset": dataset,
        "comparison": comparison,
        "level": f"{100 * comparison.level:g} %",
        "verdict": verdict(comparison.AP, comparison.images, comparison.level, a=names[0], b=names[1]),
        "counts": {kind: flips.count(kind) for kind in ("lost", "new_false", "found", "gone_false")},
        "flip_names": FLIP_NAMES,
        "flipped": len(flips.photos),
        "worse": len(flips.worse()),
        "better": len(flips.better()),
    }


def _class_rows(comparison: ModelComparison) -> list[figures.Row]:
    truths = [each.truths for each in comparison.per_class]
    rows = [comparison.per_class[at] for at in figures.most(range(len(truths)), truths)]
    return figures.change_rows([c.AP for c in rows], [c.name for c in rows], [c.truths for c in rows])


def _error_rows(a: Analysis, b: Analysis) -> list[figures.Row]:
    """What each type of error costs either model."""
    pairs = list(zip([*a.errors.types, *a.errors.totals], [*b.errors.types, *b.errors.totals], strict=True))
    dearest = max(max(mine.cost, other.cost) for mine, other in pairs)
    rows = []
    for mine, other in pairs:
        cells: list[str | Markup] = [mine.kind]
        for k, each in enumerate((mine, other)):
            cost = "–" if each.cost < 0 else f"{100 * each.cost:.1f}"
            cells += [cost, charts.cost_bar(each.cost, dearest, f"bar side{k}"), f"{each.shown:,}"]
        rows.append(figures.Row(tuple(cells)))
    return rows


def _cards(
    flips: Sequence[PhotoFlips], photos: tuple[dict[int, Photo], dict[int, Photo]], names: Sequence[str]
) -> list[PairCard]:
    """Cards of the photos that flipped most to the worse, then to the better: as many as are shown, and as fit."""
    cards, room = [], TEXT_BYTES
    by_change = sorted(flips, key=lambda photo: -abs(photo.harm))[:MAX_PHOTOS]
    kept = {photo.index for photo in by_change}
    for rank, changed in enumerate((photo for photo in flips if photo.index in kept), start=1):
        both = [_flagged(side[changed.index], changed.flips, names, k) for k, side in enumerate(photos)]
        a, b = (overlay(photo, names, label=f"{changed.name}, {'AB'[k]}") for k, photo in enumerate(both))
        items = tuple(_item(flip, names) for flip in changed.flips)
        cards.append(PairCard(changed, rank, (a, b), items, both[0].size_hw))
        room -= len(a) + len(b) + _CARD_BYTES
        if room < 0:
            break
    return cards


def _item(flip: Flip, names: Sequence[str]) -> Item:
    score = "" if flip.score is None else f" {flip.score:.2f}"
    said = f"{FLIP_NAMES[flip.kind]}: {flip.class_name}{score}"
    return Item(flip.kind, said, names.index(flip.class_name), "" if flip.score is None else number(flip.score))


def _flagged(photo: Photo, flips: Sequence[Flip], names: Sequence[str], side: int) -> Photo:
    """The photo of one model with the marks that changed; they come on top."""
    marks = list(photo.marks)
    for flip in flips:
        alarm = flip.kind in ("new_false", "gone_false")
        if alarm and flip.kind != ("gone_false", "new_false")[side]:
            continue
        kinds = ("fp",) if alarm else ("tp", "miss")
        same = [k for k, m in enumerate(marks) if m.kind in kinds and names[m.label] == flip.class_name and not m.flip]
        if same:
            overlap = iou_matrix(np.array([flip.box_xyxy]), np.array([marks[k].box_xyxy for k in same]))[0]
            best = same[int(overlap.argmax())]
            if overlap.max() >= 0.5:
                marks[best] = replace(marks[best], flip=True)
    marks.sort(key=lambda mark: mark.flip)
    return replace(photo, marks=tuple(marks))
