"""The report's tables and sentences: rows of text and small pictures, ready to be laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detkit.evaluate.analysis import Analysis
from detkit.evaluate.coco import UNDEFINED, CocoResult
from detkit.evaluate.compare import Change, ModelComparison, points
from detkit.evaluate.intervals import Interval, Intervals
from detkit.evaluate.mistakes import BACKGROUND, MEANINGS, ConfusionMatrix, ErrorTypes
from detkit.evaluate.report.charts import cost_bar, interval_bar
from detkit.evaluate.report.gallery import Photo
from detkit.evaluate.report.svg import Markup
from detkit.evaluate.thresholds import ClassChoice

MEANING = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "objects up to 32 × 32 px",
    "APm": "objects of 32 × 32 to 96 × 96 px",
    "APl": "larger objects",
    "AR1": "recall with 1 box per photo and class",
    "AR10": "recall with 10 boxes",
    "AR100": "recall with 100 boxes",
    "ARs": "recall, objects up to 32 × 32 px",
    "ARm": "recall, objects of 32 × 32 to 96 × 96 px",
    "ARl": "recall, larger objects",
}
MAX_CLASS_ROWS = 200  # classes listed one by one, those with the most objects
MAX_MATRIX = 30  # classes up to which the whole confusion matrix is given as a table
_UNKNOWN = Interval(UNDEFINED, UNDEFINED)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: cells of text and of pictures, the first being its heading."""

    cells: tuple[str | Markup, ...]


def share(value: float) -> str:
    """A figure from 0 to 1; "–" where it is undefined."""
    return "–" if value < 0 else f"{value:.3f}"


def span(interval: Interval) -> str:
    """An interval; nothing where it is undefined."""
    return "" if interval.low < 0 else f"{interval.low:.3f} to {interval.high:.3f}"


def figure_rows(result: CocoResult, intervals: Intervals) -> list[Row]:
    """COCO's 12 figures."""
    known: dict[str, Interval] = {name: Interval(*ends) for name, ends in intervals.figures().items()}
    rows = []
    for name, value in result.figures().items():
        ends = known.get(name, _UNKNOWN)
        rows.append(Row((name, share(value), interval_bar(value, *ends), span(ends), MEANING[name])))
    return rows


def class_rows(result: CocoResult, intervals: Intervals) -> list[Row]:
    """Each class in label order; of very many, those with the most objects."""
    rows = []
    for at in most(range(len(result.per_class)), [each.truths for each in result.per_class]):
        each, own = result.per_class[at], intervals.per_class[at]
        ap = (share(each.AP), interval_bar(each.AP, *own.AP), span(own.AP))
        ap50 = (share(each.AP50), span(own.AP50))
        others = (share(each.AP75), share(each.AR100))
        rows.append(Row((each.name, f"{each.truths:,}", *ap, *ap50, *others)))
    return rows


def most(places: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Places of the classes to list: all, or those with the most objects, in order."""
    return sorted(sorted(places, key=lambda at: -counts[at])[:MAX_CLASS_ROWS])


def threshold_rows(choices: Sequence[ClassChoice], conf: Sequence[float]) -> list[Row]:
    """The threshold of each class, what it gives, and the one the report was made with."""
    rows = []
    for at in most(range(len(choices)), [each.truths for each in choices]):
        each = choices[at]
        chosen = UNDEFINED if each.conf is None else each.conf
        shown = (share(chosen), interval_bar(chosen, *each.interval), span(each.interval))
        given = (share(each.precision), share(each.recall), share(each.f1))
        name = each.name if each.reached else f"{each.name} (the precision asked for is out of reach)"
        rows.append(Row((name, *shown, *given, share(conf[at]))))
    return rows


def error_rows(errors: ErrorTypes) -> list[Row]:
    """What each type of error costs, with a bar."""
    every = [*errors.types, *errors.totals]
    dearest = max((each.cost for each in every), default=0.0)
    rows = []
    for k, each in enumerate(every):
        bar = cost_bar(each.cost, dearest, "bar" if k < len(errors.types) else "bar total")
        cost = "–" if each.cost == UNDEFINED else f"{100 * each.cost:.1f}"
        rows.append(Row((each.kind, MEANINGS[each.kind], bar, cost, f"{each.shown:,}", f"{each.count:,}")))
    return rows


def confusion_rows(confusion: ConfusionMatrix) -> tuple[list[str], list[Row]]:
    """Headings and rows of the matrix; of very many classes, the commonest confusions."""
    labels = [*confusion.class_names, BACKGROUND]
    if len(labels) <= MAX_MATRIX + 1:
        rows = [Row((name, *map(str, row))) for name, row in zip(labels, confusion.counts.tolist(), strict=True)]
        return ["truth \\ predicted", *labels], rows
    cells = [
        (count, labels[row], labels[column])
        for row, counts in enumerate(confusion.counts.tolist())
        for column, count in enumerate(counts)
        if count and row != column
    ]
    cells.sort(key=lambda cell: -cell[0])
    return ["truth", "predicted", "boxes"], [Row((a, b, str(count))) for count, a, b in cells[:100]]


def summary(result: CocoResult, intervals: Intervals, analysis: Analysis, photos: Sequence[Photo]) -> list[str]:
    """What a reader in a hurry should know, in sentences."""
    right, wrong, missed = (sum(photo.count(kind) for photo in photos) for kind in ("tp", "fp", "miss"))
    said = []
    if right + missed:
        found = f"finds {right:,} of {right + missed:,} objects ({right / (right + missed):.0%})"
        said.append(f"At the thresholds used it {found}.")
    if right + wrong:
        alarms = f"{wrong:,} false alarm{'' if wrong == 1 else 's'}"
        said.append(f"Of {right + wrong:,} boxes shown {right / (right + wrong):.0%} are right; {alarms}.")
    dearest = max(analysis.errors.types, key=lambda each: each.cost)
    if dearest.cost > 0:
        gained = f"mending them all would add {100 * dearest.cost:.1f} points of AP50"
        said.append(f"The dearest errors are “{dearest.kind}” ({MEANINGS[dearest.kind]}): {gained}.")
    if analysis.calibration.total.count:
        off = 100 * analysis.calibration.total.ece
        said.append(f"A score is on average {off:.1f} points off the share of boxes that are right (ECE).")
    if intervals.resolution >= 0:
        said.append(f"This set can tell apart differences of about {intervals.resolution:.3f} AP.")
    return said


def change_rows(changes: Sequence[Change], names: Sequence[str], truths: Sequence[int] = ()) -> list[Row]:
    """Figures of both models and their difference; bars share one scale."""
    ends = [abs(end) for change in changes if change.defined for end in change.interval]
    reach = max([0.01, *ends]) * 1.05
    rows = []
    for k, (name, change) in enumerate(zip(names, changes, strict=True)):
        objects = (f"{truths[k]:,}",) if truths else ()
        pair = (share(change.a), share(change.b))
        if change.defined:
            low, high = change.interval
            bar = interval_bar(change.delta, low, high, reach=(-reach, reach))
            told: tuple[str | Markup, ...] = (points(change.delta), bar, f"{points(low)} to {points(high)}")
            told = (*told, f"{100 * change.b_better:.0f} %")
        else:
            told = ("–", "", "", "")
        rows.append(Row((name, *objects, *pair, *told)))
    return rows


def side_rows(comparison: ModelComparison, a: CocoResult, b: CocoResult) -> list[Row]:
    """COCO's other figures of both models, which have no interval."""
    named = {change.figure for change in (comparison.AP, comparison.AP50, comparison.AP75)}
    rows = []
    for (name, value), other in zip(a.figures().items(), b.figures().values(), strict=True):
        if name not in named:
            gap = points(other - value) if min(value, other) >= 0 else "–"
            rows.append(Row((name, share(value), share(other), gap, MEANING[name])))
    return rows
