"""What `detkit eval` prints of boxes: tables on stdout, rules and notes on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from detkit.cli import terminal
from detkit.cli.eval_options import Extras
from detkit.evaluate.analysis import Analysis
from detkit.evaluate.coco import CocoResult
from detkit.evaluate.intervals import Intervals
from detkit.evaluate.keypoints import KeypointResult
from detkit.evaluate.mistakes import BACKGROUND, MEANINGS, ConfusionMatrix, ErrorTypes
from detkit.evaluate.suspects import Suspect
from detkit.evaluate.thresholds import ClassChoice

if TYPE_CHECKING:
    from detkit.cli.eval_boxes import Measured

_LISTED = 10  # photos, labels and confused classes in a table; --json and --report have more
_MEANINGS = {
    "AP": "mean over IoU 0.50:0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "objects up to 32x32 px",
    "APm": "objects of 32x32 to 96x96 px",
    "APl": "larger objects",
    "AR1": "recall with 1 box per image and class",
    "AR10": "recall with 10",
    "AR100": "recall with 100",
    "ARs": "recall, objects up to 32x32 px",
    "ARm": "recall, objects of 32x32 to 96x96 px",
    "ARl": "recall, larger objects",
}
_VOC = {"mAP": "area under the curve (VOC 2010 and later)", "mAP11": "at 11 recalls (VOC 2007)"}
_OKS = {
    "AP": "mean over OKS 0.50:0.95",
    "AP50": "at OKS 0.50",
    "AP75": "at OKS 0.75",
    "APm": "objects of 32x32 to 96x96 px",
    "APl": "larger objects",
    "AR": "recall, mean over OKS 0.50:0.95",
    "AR50": "recall at OKS 0.50",
    "AR75": "recall at OKS 0.75",
    "ARm": "recall, objects of 32x32 to 96x96 px",
    "ARl": "recall, larger objects",
}
Rows = Iterable[Sequence[str]]


def print_tables(measured: Measured, extras: Extras) -> None:
    """All that was asked for, each part a table or two."""
    print_figures(measured.result, measured.intervals, own_sizes=extras.sizes is not None)
    rules = measured.result.rules()
    if measured.voc is not None:
        _print_meanings("VOC figure", measured.voc.figures(), _VOC)
        rules += measured.voc.rules()
    if measured.keypoints is not None:
        print_oks(measured.keypoints)
        rules += measured.keypoints.rules()
    if extras.mistakes and measured.analysis is not None:
        print_mistakes(measured.analysis)
    if extras.thresholds_to is not None and measured.choices is not None:
        print_thresholds(measured.choices, extras.precision)
    for rule in rules:
        terminal.say(rule)
    if measured.intervals.resolution > 0:
        terminal.say(f"this set can tell apart differences of about {measured.intervals.resolution:.3f} AP")


def print_oks(result: KeypointResult) -> None:
    """COCO's keypoint figures."""
    _print_meanings("OKS figure", result.figures(), _OKS)


def _print_meanings(head: str, figures: Mapping[str, float], meanings: Mapping[str, str]) -> None:
    rows = [(name, _share(value), meanings[name]) for name, value in figures.items()]
    _table((head, "value", "what it says"), rows, right=("value",))


def print_figures(result: CocoResult, intervals: Intervals, *, own_sizes: bool) -> None:
    """COCO's figures and those asked for like them, and the classes."""
    known = intervals.figures()
    rows = [
        (name, _share(value), _span(known.get(name, (-1.0, -1.0))), _MEANINGS[name])
        for name, value in result.figures().items()
    ]
    for at in result.ious:
        name = f"{100 * at.iou:g}"
        rows += [(f"AP{name}", _share(at.AP), "", f"at IoU {at.iou:g}")] if f"AP{name}" not in known else []
        rows.append((f"AR{name}", _share(at.AR), "", f"recall at IoU {at.iou:g}"))
    for size in result.sizes if own_sizes else ():
        upper = "and more" if size.high_px is None else f"to {size.high_px:g}"
        meaning = f"{size.low_px:g} {upper} px: {terminal.count(size.truths, 'object')}"
        rows.append((f"AP {size.name}", _share(size.AP), "", meaning))
        rows.append((f"AR {size.name}", _share(size.AR), "", f"recall, {size.low_px:g} {upper} px"))
    terminal.print_table(("figure", "value", "95 % interval", "what it says"), rows, right=("value",))
    heads = ("class", "AP", "95 % interval", "AP50", "AR100", "truths", "detections")
    _table(
        heads,
        [
            (c.name, _share(c.AP), _span(own.AP), _share(c.AP50), _share(c.AR100), f"{c.truths:,}", f"{c.detections:,}")
            for c, own in zip(result.per_class, intervals.per_class, strict=True)
        ],
        right=("AP", *heads[3:]),
    )


def print_mistakes(analysis: Analysis) -> None:
    """What is lost to what, who is taken for whom, and where to look."""
    _print_errors(analysis.errors)
    _print_confusion(analysis.confusion)
    heads = ("worst photos", "error", "objects", "missed", "false alarms")
    worst = [
        (one.name, f"{one.error:.2f}", str(one.truths), str(one.missed), str(one.false_alarms))
        for one in analysis.worst[:_LISTED]
    ]
    if worst:
        _table(heads, worst, right=heads[1:])
    suspects = [
        (_place(one), one.kind, one.label or "-", one.found or "-", f"{one.score:.2f}")
        for one in analysis.suspects[:_LISTED]
    ]
    if suspects:
        _table(("doubtful labels", "why", "label", "found", "doubt"), suspects, right=("doubt",))
    conf = sorted(set(analysis.confusion.conf))
    shown = (
        f"{conf[0]:.2f} or more"
        if len(conf) == 1
        else f"their class's threshold or more ({conf[0]:.2f} to {conf[-1]:.2f})"
    )
    terminal.say(f"shown: boxes scored {shown}; a box is on an object from IoU 0.5 on")
    if analysis.calibration.total.count:
        ece, bias = analysis.calibration.total.ece, analysis.calibration.total.bias
        terminal.say(f"scores are {100 * ece:.0f} points off on average, {'too sure' if bias > 0 else 'too modest'}")


def _print_errors(errors: ErrorTypes) -> None:
    heads = ("AP50 is lost to", "cost", "shown", "all boxes", "what it is")
    rows = [
        (one.kind, _share(one.cost), f"{one.shown:,}", f"{one.count:,}", MEANINGS[one.kind])
        for one in (*errors.types, *errors.totals)
    ]
    _table(heads, rows, right=heads[1:4])


def _print_confusion(matrix: ConfusionMatrix) -> None:
    """Rows are truths; only the classes that are mixed up most, where there are many."""
    labels = [*matrix.class_names, BACKGROUND]
    wrong = matrix.counts.sum(0) + matrix.counts.sum(1) - 2 * matrix.counts.diagonal()
    shown = sorted(range(len(matrix.class_names)), key=lambda k: -wrong[k])[:_LISTED]
    order = [*sorted(shown), len(labels) - 1]
    heads = ("truth \\ found as", *(labels[k] for k in order))
    rows = [(labels[i], *(str(matrix.counts[i, j]) for j in order)) for i in order]
    _table(heads, rows, right=heads[1:])


def _place(suspect: Suspect) -> str:
    return suspect.name if suspect.row is None else f"{suspect.name} ({suspect.row})"


def print_thresholds(choices: Sequence[ClassChoice], precision: float | None) -> None:
    """The confidence of each class, and what it gives on these photos."""
    heads = ("class", "confidence", "95 % interval", "precision", "recall", "F1", "truths")
    rows = [
        (
            one.name,
            "-" if one.conf is None else f"{one.conf:.3f}",
            _span(one.interval),
            *map(_share, (one.precision, one.recall, one.f1)),
            f"{one.truths:,}",
        )
        for one in choices
    ]
    _table(heads, rows, right=("confidence", *heads[3:]))
    unknown = [one.name for one in choices if one.conf is None]
    if unknown:
        terminal.warn(f"nothing to choose by, so the model's own confidence stays: {', '.join(unknown)}")
    short = [one.name for one in choices if one.conf is not None and not one.reached]
    if short and precision is not None:
        terminal.warn(f"no confidence gives a precision of {precision:g}; the nearest is taken: {', '.join(short)}")


def _table(heads: Sequence[str], rows: Rows, right: Sequence[str]) -> None:
    """A table below another."""
    print()
    terminal.print_table(heads, rows, right=right)


def _span(interval: Sequence[float]) -> str:
    low, high = interval
    return "" if low < 0 else f"{low:.3f} to {high:.3f}"


def _share(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
