"""The report on one model: all parts gathered, and laid out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.data.dataset import Dataset
from detkit.detections import Detections
from detkit.evaluate.analysis import Analysis, analyse
from detkit.evaluate.coco import CocoResult
from detkit.evaluate.intervals import Intervals
from detkit.evaluate.mistakes import ERROR_TYPES
from detkit.evaluate.overlaps import Conf, find_overlaps
from detkit.evaluate.overlaps import thresholds as conf_of_each
from detkit.evaluate.report import charts, figures
from detkit.evaluate.report.gallery import Mark, Photo, overlay, photos_of
from detkit.evaluate.report.page import MAX_PHOTOS, TEXT_BYTES, check_jinja2, write_page
from detkit.evaluate.report.svg import Markup, tag
from detkit.evaluate.report.thumbnails import crop
from detkit.evaluate.suspects import Suspect
from detkit.evaluate.thresholds import ClassChoice, study_thresholds

UNCHOSEN = 0.25  # the threshold of a class by which none can be chosen
WORST, SUSPECTS = 10, 24  # listed with pictures
_CROP_PX = 260
_CARD_BYTES = 900  # of a photo's card without its boxes


@dataclass(frozen=True, slots=True)
class Card:
    """A photo in the gallery: its boxes as a picture, and in words."""

    photo: Photo
    rank: int
    svg: Markup
    counts: str
    wrong: str


@dataclass(frozen=True, slots=True)
class SuspectCard:
    """A label to look at again: a crop with the boxes on it (None where the photo cannot be read), and in words."""

    suspect: Suspect
    svg: Markup | None
    said: str
    where: str


def write_report(
    target: Path,
    dataset: Dataset,
    predictions: Sequence[Detections],
    *,
    result: CocoResult,
    intervals: Intervals,
    analysis: Analysis | None = None,
    thresholds: Sequence[ClassChoice] | None = None,
    rule: str = "F1",
    conf: Conf | None = None,
    model: str = "",
    engine: str = "",
) -> None:
    """Write a report: figures, curves, errors, thresholds, and a gallery of what is right, wrong and missed.

    Args:
        target: the HTML file.
        dataset: the labelled photos; those that cannot be read are shown as empty frames.
        predictions: one per sample, in the data set's order, down to a low score.
        result, intervals: the figures.
        analysis: made with the same `conf` and `result.max_det`; None makes it.
        thresholds, rule: those chosen by `study_thresholds` and how; None chooses them by F1.
        conf: the working threshold of what is drawn and counted; None takes `thresholds`.
        model, engine: what they are called.
    Raises:
        MissingExtraError: Jinja2 is not installed.
        DataError: predictions that do not fit the data set. RunError: the file cannot be written.
    """
    check_jinja2()
    choices = study_thresholds(dataset, predictions) if thresholds is None else thresholds
    if conf is None:
        conf = [UNCHOSEN if choice.conf is None else choice.conf for choice in choices]
    if analysis is None:
        analysis = analyse(dataset, predictions, conf=conf, max_det=result.max_det)
    photos = photos_of(find_overlaps(dataset, predictions, result.max_det), conf)
    cards = _cards(photos, dataset.class_names)
    content = {
        "heading": _heading(dataset, model, engine),
        "summary": figures.summary(result, intervals, analysis, photos),
        "cards": cards,
        "in_gallery": {card.photo.position for card in cards},
        "worst": [card for card in cards[:WORST] if card.photo.error > 0],
        "suspects": _suspects(dataset, analysis.suspects[:SUSPECTS]),
        "photo_count": len(dataset),
        "class_names": dataset.class_names,
        **_tables(result, intervals, analysis, choices, conf_of_each(conf, len(dataset.class_names)).tolist(), rule),
    }
    paths = {card.photo.position: dataset.samples[card.photo.position].image_path for card in cards}
    twice = {card.photo.position for card in cards[:WORST]}
    write_page(target, "report.html.j2", content, paths, lambda position: 2 if position in twice else 1)


def _tables(
    result: CocoResult,
    intervals: Intervals,
    analysis: Analysis,
    choices: Sequence[ClassChoice],
    conf: Sequence[float],
    rule: str,
) -> dict[str, Any]:
    """All figures, as tables and charts."""
    return {
        "result": result,
        "figures": figures.figure_rows(result, intervals),
        "hero": _hero(result, intervals),
        "level": f"{100 * intervals.level:g} %",
        "classes": figures.class_rows(result, intervals),
        "thresholds": figures.threshold_rows(choices, conf),
        "rule": rule,
        "shown_from": f"{conf[0]:.2f}" if len(set(conf)) == 1 else "the threshold of their class (above)",
        "errors": figures.error_rows(analysis.errors),
        "error_types": ERROR_TYPES,
        **_charts(analysis, conf),
    }


def _heading(dataset: Dataset, model: str, engine: str) -> dict[str, Any]:
    parts = [
        f"{len(dataset):,} photos",
        f"{dataset.box_count:,} labelled boxes",
        f"{len(dataset.class_names):,} class{'' if len(dataset.class_names) == 1 else 'es'}",
        *([f"boxes by {model}{f' on {engine}' if engine else ''}"] if model else []),
    ]
    data = f"{dataset.name}, {dataset.split}" if dataset.split else dataset.name
    return {"title": f"{model or 'Evaluation'} on {data}", "parts": parts}


def _hero(result: CocoResult, intervals: Intervals) -> list[dict[str, str]]:
    """The three figures that have intervals, large."""
    known = {"AP": intervals.AP, "AP50": intervals.AP50, "AP75": intervals.AP75}
    return [
        {"name": name, "value": figures.share(getattr(result, name)), "span": figures.span(ends)}
        for name, ends in known.items()
    ]


def _charts(analysis: Analysis, conf: Sequence[float]) -> dict[str, Any]:
    heads, rows = figures.confusion_rows(analysis.confusion)
    sizes, aspects = analysis.breakdown.sizes, analysis.breakdown.aspects
    return {
        "curves": [
            *(charts.pr_chart(analysis.curves, iou) for iou in analysis.curves.pr),
            charts.f1_chart(analysis.curves, conf),
            charts.trade_chart(analysis.curves, conf),
        ],
        "confusion": charts.confusion_chart(analysis.confusion),
        "confusion_heads": heads,
        "confusion_rows": rows,
        "confusion_iou": f"{analysis.confusion.iou:g}",
        "reliability": charts.reliability_chart(analysis.calibration.total),
        "calibration": charts.calibration_words(analysis.calibration.total),
        "lowest_score": f"{analysis.calibration.lowest_score:g}",
        "class_ece": [
            figures.Row((r.name, f"{r.count:,}", figures.share(r.ece), f"{100 * r.bias:+.1f}"))
            for r in analysis.calibration.per_class[: figures.MAX_CLASS_ROWS]
        ],
        "recalls": [
            charts.recall_chart("Recall by size", sizes, "side of the object, px"),
            charts.recall_chart("Recall by shape", aspects, ""),
        ],
    }


def _cards(photos: Sequence[Photo], names: Sequence[str]) -> list[Card]:
    """Cards of the worst photos: as many as are shown, and as fit."""
    cards, room = [], TEXT_BYTES
    for rank, photo in enumerate(photos[:MAX_PHOTOS], start=1):
        counts = f"{photo.count('tp')} found, {photo.count('miss')} missed, {photo.count('fp')} false"
        svg = overlay(photo, names, label=f"{photo.name}: {counts}")
        cards.append(Card(photo, rank, svg, counts, listed(photo, names)))
        room -= len(svg.encode("utf-8", "replace")) + _CARD_BYTES
        if room < 0:
            break
    return cards


def listed(photo: Photo, names: Sequence[str]) -> str:
    """What is wrong on a photo, in words: "missed: car, person × 3; false: bus 0.61"."""
    missed = Counter(names[mark.label] for mark in photo.marks if mark.kind == "miss")
    told = [f"{name} × {count}" if count > 1 else name for name, count in missed.items()]
    wrong = [m for m in reversed(photo.marks) if m.kind == "fp"]
    alarms = [f"{names[m.label]} {m.score:.2f}" for m in wrong[:6]]
    if len(wrong) > len(alarms):
        alarms.append(f"{len(wrong) - len(alarms)} more")
    parts = [f"{head}: {', '.join(each)}" for head, each in (("missed", told), ("false", alarms)) if each]
    return "; ".join(parts)


def _suspects(dataset: Dataset, suspects: Sequence[Suspect]) -> list[SuspectCard]:
    cards = []
    for each in suspects:
        boxes = [box for box in (each.label_xyxy, each.found_xyxy) if box is not None]
        around = [f(box[k] for box in boxes) for k, f in enumerate((min, min, max, max))]
        part = crop(dataset.samples[each.position].image_path, around, _CROP_PX)
        svg = None if part is None else _suspect_svg(each, *part, dataset.class_names)
        cards.append(SuspectCard(each, svg, *_suspect_words(each)))
    return cards


def _suspect_words(each: Suspect) -> tuple[str, str]:
    """What speaks against the label, and where it is."""
    seen = None if each.found is None else f"the model sees {each.found} ({each.found_score:.2f})"
    said = {
        "missing label": f"{seen} where nothing is labelled",
        "wrong class": f"labelled {each.label}; {seen}",
        "badly placed": f"labelled {each.label}; {seen}, elsewhere",
        "nothing there": f"labelled {each.label}; the model sees nothing",
    }[each.kind]
    place = "" if each.label_file is None else Path(each.label_file).name
    row = "" if each.row is None else f", {each.row}"
    return said, f"{place}{row}"


def _suspect_svg(each: Suspect, uri: str, part_xyxy: Sequence[float], names: Sequence[str]) -> Markup:
    """The crop with the label and what was found, in the photo's pixels."""
    x1, y1, x2, y2 = part_xyxy
    marks = []
    if each.label_xyxy is not None and each.label is not None:
        marks.append(Mark("truth", names.index(each.label), each.label_xyxy))
    if each.found_xyxy is not None and each.found is not None:
        marks.append(Mark("fp", names.index(each.found), each.found_xyxy, each.found_score))
    photo = Photo(each.position, each.name, (int(y2), int(x2)), tuple(marks), 0.0)
    behind = tag("image", href=Markup(uri), x=x1, y=y1, width=x2 - x1, height=y2 - y1)
    return overlay(photo, names, behind, label=f"{each.kind} on {each.name}", part_xyxy=part_xyxy)
