"""The report's charts: each takes one part of an analysis and gives a picture with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detkit.evaluate.breakdown import RecallBin
from detkit.evaluate.calibration import Reliability
from detkit.evaluate.coco import UNDEFINED
from detkit.evaluate.curves import CONF_GRID, ConfCurve, Curves, PrCurve
from detkit.evaluate.matching import RECALL_POINTS
from detkit.evaluate.mistakes import ConfusionMatrix
from detkit.evaluate.plots import merged, most_truths
from detkit.evaluate.report.svg import Axes, Markup, corners, number, picture, tag

_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_CELL = 42.0  # of the confusion matrix
_LETTERS, _LETTER = 16, 7.2  # of a name in it: how many at most, and how wide


@dataclass(frozen=True, slots=True)
class Key:
    """One line of a legend: how it is drawn, its name and what it comes to."""

    class_: str
    name: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture, its title, its legend and what else is to be said."""

    title: str
    svg: Markup
    legend: tuple[Key, ...] = ()
    note: str = ""


def pr_chart(curves: Curves, iou: float) -> Chart:
    """Precision against recall of the classes with the most objects, and of the mean."""
    kept, note = most_truths(curves.pr[iou])
    axes = Axes(x_label="recall", y_label="precision")
    axes.grid(_TICKS, _TICKS)
    mean, legend = curves.mean_pr[iou], []
    for class_, curve in [*((f"s{k}", curve) for k, curve in enumerate(kept)), ("mean", mean)]:
        if curve.truths:
            _pr_line(axes, curve, class_)
            legend.append(Key(class_, curve.name, f"{curve.AP:.3f}"))
    name = f"AP{100 * iou:.0f}"
    said = ", ".join(f"{key.name} {key.value}" for key in legend) or "nothing to find"
    svg = axes.drawn(f"Precision against recall at IoU {iou:g}; {name}: {said}")
    return Chart(f"Precision and recall at IoU {iou:g}", svg, tuple(legend), f"Numbers: {name}{note}.")


def pr_comparison(sides: Sequence[tuple[str, Curves]], iou: float) -> Chart:
    """The mean curves of several models."""
    axes = Axes(x_label="recall", y_label="precision")
    axes.grid(_TICKS, _TICKS)
    legend = []
    for k, (name, curves) in enumerate(sides):
        if curves.mean_pr[iou].truths:
            _pr_line(axes, curves.mean_pr[iou], f"side{k}")
            legend.append(Key(f"side{k}", name, f"{curves.mean_pr[iou].AP:.3f}"))
    svg = axes.drawn(f"Precision against recall at IoU {iou:g}, mean over classes, of both models")
    return Chart(f"Precision and recall at IoU {iou:g}, mean of the classes", svg, tuple(legend))


def _pr_line(axes: Axes, curve: PrCurve, class_: str) -> None:
    xs, ys = corners(np.round(curve.precision_at, 4).tolist(), RECALL_POINTS.tolist())
    axes.line(xs, ys, class_, f"{curve.name}: {curve.AP:.3f}")


def f1_chart(curves: Curves, conf: Sequence[float]) -> Chart:
    """F1 against the confidence, the best of each class marked, and the working threshold where it is one for all."""
    kept, note = most_truths(curves.by_conf)
    axes = Axes(x_label="confidence asked for", y_label="F1")
    axes.grid(_TICKS, _TICKS)
    if len(set(conf)) == 1:
        axes.line([conf[0]] * 2, [0, 1], "rule", f"the working threshold, {conf[0]:.2f}")
    legend = []
    for class_, curve in [*((f"s{k}", curve) for k, curve in enumerate(kept)), ("mean", curves.mean)]:
        if curve.truths:
            best = curve.best
            said = f"{best.f1:.2f} at {best.conf:.2f}" if best.conf > UNDEFINED else "nothing right"
            _conf_line(axes, curve, "f1", class_, f"{curve.name}: {said}")
            legend.append(Key(class_, curve.name, said))
            if best.conf > UNDEFINED:
                axes.dot(best.conf, best.f1, f"dot {class_}", title=f"{curve.name}: best F1 {said}")
    svg = axes.drawn("F1 against confidence; best: " + ", ".join(f"{k.name} {k.value}" for k in legend))
    return Chart("F1 and confidence", svg, tuple(legend), f"Numbers: best F1{note}, at IoU 0.5.")


def trade_chart(curves: Curves, conf: Sequence[float]) -> Chart:
    """Precision and recall of the mean against the confidence."""
    axes = Axes(x_label="confidence asked for")
    axes.grid(_TICKS, _TICKS)
    if len(set(conf)) == 1:
        axes.line([conf[0]] * 2, [0, 1], "rule", f"the working threshold, {conf[0]:.2f}")
    legend = []
    for class_, name in (("s0", "precision"), ("s1", "recall"), ("mean", "f1")):
        _conf_line(axes, curves.mean, name, class_, name)
        legend.append(Key(class_, "F1" if name == "f1" else name))
    svg = axes.drawn("Precision, recall and F1 against confidence, mean of the classes")
    return Chart("What a threshold buys, mean of the classes", svg, tuple(legend))


def _conf_line(axes: Axes, curve: ConfCurve, column: str, class_: str, title: str) -> None:
    values = np.where(getattr(curve, column) > UNDEFINED, getattr(curve, column), np.nan)
    axes.line(CONF_GRID.tolist(), values.tolist(), class_, title)


def reliability_chart(total: Reliability) -> Chart:
    """The share of right boxes against their score; on the diagonal a score means what it says."""
    axes = Axes(x_label="score", y_label="share that is right", y_range=(0, 1.08))
    axes.grid(_TICKS, _TICKS)
    for each in (b for b in total.bins if b.count):
        said = f"{each.count} boxes scored {each.low:.2f} to {each.high:.2f}: {each.right:.0%} are right"
        axes.bar(each.low + 0.004, each.high - 0.004, each.right, "bar", said)
        axes.text((each.low + each.high) / 2, each.right, each.count, up=6)
    axes.line([0, 1], [0, 1], "rule", "a score that means what it says")
    for each in (b for b in total.bins if b.count):
        axes.dot(each.score, each.right, "dot ink", 3, f"mean score {each.score:.2f}")
    return Chart("Are scores honest?", axes.drawn(f"Reliability diagram; {calibration_words(total)}"))


def calibration_words(total: Reliability) -> str:
    """The calibration error in a sentence."""
    if not total.count:
        return "There are no boxes to judge."
    side = "too sure" if total.bias > 0 else "too modest"
    words = f"ECE {total.ece:.3f}: on average a score is {100 * total.ece:.1f} points off the share of right boxes"
    return f"{words}, and {abs(100 * total.bias):.1f} points {side}."


def recall_chart(title: str, bins: Sequence[RecallBin], x_label: str) -> Chart:
    """What share of the objects is found, with the boxes shown and with any."""
    axes = Axes(x_label=x_label, y_label="recall", x_range=(0, len(bins)), y_range=(0, 1.08), bottom=56)
    axes.grid([k + 0.5 for k in range(len(bins))], _TICKS, [each.name.replace("-", "– ") for each in bins])
    for k, each in enumerate(bins):
        if each.truths:
            said = f"{each.name}: {each.found} of {each.truths} found, {each.found_at_floor} by boxes of any score"
            axes.bar(k + 0.08, k + 0.92, each.recall_at_floor, "pale", said)
            axes.bar(k + 0.22, k + 0.78, each.recall, "bar", said)
        axes.text(k + 0.5, max(each.recall_at_floor, 0), each.truths, up=4)
    said = "; ".join(f"{b.name}: {b.found} of {b.truths}" for b in bins if b.truths)
    legend = Key("block bar", "with the boxes shown"), Key("block pale", "with boxes of any score")
    return Chart(title, axes.drawn(f"{title}: {said}"), legend, "Numbers: objects.")


def confusion_chart(confusion: ConfusionMatrix) -> Chart:
    """Counts as numbers, shares of each row as shades; classes beyond the largest stand together."""
    counts, names = merged(confusion.counts, confusion.class_names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    short = [name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…" for name in names]
    room, side, marks = _LETTER * max(map(len, short)) + 16, _CELL * len(names), []
    top = 0.7 * room
    for (row, column), count in np.ndenumerate(counts):
        x, y, share = room + column * _CELL, top + row * _CELL, float(shares[row, column])
        said = f"{names[row]} taken for {names[column]}: {count} ({share:.0%})"
        shaded = tag("rect", x=x, y=y, width=_CELL, height=_CELL, class_="cell", fill_opacity=share)
        cell = [tag("title", said), shaded]
        if count:
            ink = "strong" if share > 0.7 else None
            place = {"x": x + _CELL / 2, "y": y + _CELL / 2 + 4.5}
            cell.append(tag("text", int(count), **place, text_anchor="middle", class_=ink))
        marks.append(tag("g", *cell))
    for k, name in enumerate(short):
        across, down = room + (k + 0.5) * _CELL, top + (k + 0.5) * _CELL
        turned = f"rotate(-45 {number(across)} {number(top - 8)})"
        marks.append(tag("text", name, x=across, y=top - 8, transform=turned))
        marks.append(tag("text", name, x=room - 8, y=down + 4, text_anchor="end"))
    last = number(room + side - _CELL), number(top + side - _CELL)
    frame = f"M{number(room)} {last[1]}h{number(side)}M{last[0]} {number(top)}v{number(side)}"
    marks += [tag("path", d=frame, class_="rule")]
    whole = (room + side + 40, top + side + 2)
    label = "Confusion matrix, rows truth, columns predicted; the table below has its numbers"
    return Chart("What objects are taken for", picture(whole, *marks, label=label, class_="chart matrix"))


def interval_bar(value: float, low: float, high: float, *, reach: tuple[float, float] = (0.0, 1.0)) -> Markup:
    """A figure as a dot on a rail, its interval as a band; an undefined figure is an empty rail."""
    width, height = 132.0, 18.0
    start, end = reach

    def x(at: float) -> float:
        return 5 + (min(max(at, start), end) - start) / (end - start) * (width - 10)

    marks = [tag("path", d=f"M5 9H{number(width - 5)}", class_="rail")]
    if start < 0 < end:
        marks.append(tag("path", d=f"M{number(x(0))} 1v16", class_="zero"))
    if low != UNDEFINED or high != UNDEFINED:
        wide = max(x(high) - x(low), 1.0)
        side = "" if start >= 0 or low <= 0 <= high else " up" if low > 0 else " down"
        marks.append(tag("rect", x=x(low), y=5.5, width=wide, height=7, rx=3.5, class_=f"band{side}"))
    if value != UNDEFINED:
        marks.append(tag("circle", cx=x(value), cy=9.0, r=3.5, class_="dot ink"))
    return tag("svg", *marks, viewBox=f"0 0 {width:g} {height:g}", class_="spark", aria_hidden="true")


def cost_bar(value: float, most: float, class_: str = "bar") -> Markup:
    """A lying bar, as long as the value is large beside the largest."""
    wide = 100 * max(value, 0) / most if most > 0 else 0.0
    bar = tag("rect", x=0, y=2, width=wide, height=12, class_=class_)
    return tag("svg", bar, viewBox="0 0 100 16", preserveAspectRatio="none", class_="cost", aria_hidden="true")
