"""Every plot of an analysis as a PNG, for slides; many classes are thinned to those with the most objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from detkit.errors import MissingExtraError
from detkit.evaluate.analysis import Analysis
from detkit.evaluate.breakdown import RecallBin
from detkit.evaluate.coco import UNDEFINED
from detkit.evaluate.curves import CONF_GRID
from detkit.evaluate.matching import RECALL_POINTS
from detkit.evaluate.mistakes import BACKGROUND, MEANINGS
from detkit.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 10  # drawn; the mean is of all

_DPI = 130
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9",
    "#e69f00", "#7f3c8d", "#a5aa99", "#80ba5a", "#5c4033",
)  # fmt: skip
_INK, _GREY, _PALE = "#222222", "#777777", "#cccccc"
_MAX_NAME = 24  # letters


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def truths(self) -> int: ...


_Curve = TypeVar("_Curve", bound=_Named)


def write_plots(folder: Path, analysis: Analysis) -> tuple[Path, ...]:
    """Draw an analysis into a folder, which is made if it is not there; files of the same names are replaced.

    Args:
        folder: gets pr_curves.png, f1_curves.png, confusion_matrix.png, error_types.png, reliability.png and
            recall_by_size.png.
        analysis: what to draw.
    Returns:
        The files, in that order.
    Raises:
        MissingExtraError: matplotlib is not installed.
        RunError: a picture cannot be written.
    """
    side = 3.2 + 0.42 * min(len(analysis.confusion.class_names), MAX_CLASSES + 1)
    plots: dict[str, tuple[tuple[float, float], int, Callable[[Sequence[Axes], Analysis], None]]] = {
        "pr_curves": ((13.5, 5.2), 2, _draw_pr),
        "f1_curves": ((17.5, 4.8), 3, _draw_by_conf),
        "confusion_matrix": ((side + 1.6, side), 1, _draw_confusion),
        "error_types": ((9.5, 4.4), 1, _draw_errors),
        "reliability": ((6.2, 6.2), 1, _draw_reliability),
        "recall_by_size": ((14, 4.8), 2, _draw_recall),
    }
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = []
    for name, (inches, panels, fill) in plots.items():
        figure = Figure(figsize=inches, dpi=_DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        fill(list(figure.subplots(1, panels, squeeze=False)[0]), analysis)
        with replacing(new_file(folder, f"{name}.png")) as partial:
            figure.savefig(partial, format="png")
        paths.append(folder / f"{name}.png")
    return tuple(paths)


def check_matplotlib() -> None:
    """Say in one line that an extra is missing, before any long work.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError('plots need matplotlib: pip install "detkit-cv[report]"') from error


def new_file(folder: Path, name: str) -> Path:
    """A file of a folder that is made if need be; `replacing` says what is wrong with one that cannot be."""
    if not folder.exists() and folder.parent.is_dir():
        folder.mkdir()
    return folder / name


def _draw_pr(panels: Sequence[Axes], analysis: Analysis) -> None:
    for axes, (iou, each) in zip(panels, analysis.curves.pr.items(), strict=True):
        kept, note = most_truths(each)
        for colour, curve in zip(_COLOURS, kept, strict=False):
            label = f"{_short(curve.name)}  {curve.AP:.3f}"
            axes.plot(RECALL_POINTS, curve.precision_at, color=colour, lw=1.5, label=label)
        mean = analysis.curves.mean_pr[iou]
        if mean.truths:
            axes.plot(RECALL_POINTS, mean.precision_at, color=_INK, lw=3, label=f"mean  {mean.AP:.3f}")
        _dress(axes, f"Precision and recall at IoU {iou:g}", "recall", "precision")
        _legend(axes, f"AP{iou * 100:.0f}{note}")


def _draw_by_conf(panels: Sequence[Axes], analysis: Analysis) -> None:
    kept, note = most_truths(analysis.curves.by_conf)
    mean = analysis.curves.mean
    for axes, name in zip(panels, ("f1", "precision", "recall"), strict=True):
        for colour, curve in [*zip(_COLOURS, kept, strict=False), (_INK, mean)]:
            values: NDArray[np.float64] = getattr(curve, name)
            best = f"  {curve.best.f1:.2f} at {curve.best.conf:.2f}" if curve.best.conf > UNDEFINED else ""
            shown = np.where(values > UNDEFINED, values, np.nan)
            axes.plot(CONF_GRID, shown, color=colour, lw=3 if curve is mean else 1.5, label=_short(curve.name) + best)
            if name == "f1" and best:
                axes.plot([curve.best.conf], [curve.best.f1], "o", color=colour, ms=8 if curve is mean else 5)
        _mark_conf(axes, analysis.confusion.conf)
        _dress(axes, {"f1": "F1", "precision": "Precision", "recall": "Recall"}[name], "confidence", "")
    _legend(panels[-1], f"best F1{note}")


def _mark_conf(axes: Axes, conf: Sequence[float]) -> None:
    """The working threshold, where it is one for all."""
    if len(set(conf)) == 1:
        axes.axvline(conf[0], color=_GREY, lw=1, ls=":", zorder=0)
        axes.annotate(
            "threshold", (conf[0], 1.0), (3, -1), textcoords="offset points", color=_GREY, fontsize=8, va="top"
        )


def _draw_confusion(panels: Sequence[Axes], analysis: Analysis) -> None:
    """Shares of each row as shades, counts as numbers; classes beyond the largest stand together as "others"."""
    axes, confusion = panels[0], analysis.confusion
    counts, names = merged(confusion.counts, confusion.class_names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.55 else _INK
            axes.text(float(column), float(row), f"{count}", ha="center", va="center", color=colour, fontsize=9)
    last = len(names) - 1.5
    axes.axhline(last, color=_GREY, lw=1)
    axes.axvline(last, color=_GREY, lw=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted   (background: not found)")
    axes.set_ylabel("truth   (background: nothing there)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    conf = f"confidence {confusion.conf[0]:g}" if len(set(confusion.conf)) == 1 else "each class's confidence"
    axes.set_title(f"What objects are taken for: {conf}, IoU {confusion.iou:g}", loc="left", fontsize=11, x=-0.15)


def merged(counts: NDArray[np.int64], class_names: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    classes = len(class_names)
    names = [_short(name) for name in class_names]
    if classes <= MAX_CLASSES:
        return counts, [*names, BACKGROUND]
    largest = np.sort(np.argsort(-counts[:-1].sum(axis=1), kind="stable")[:MAX_CLASSES])
    place = np.full(classes + 1, MAX_CLASSES)  # others
    place[largest], place[-1] = np.arange(MAX_CLASSES), MAX_CLASSES + 1
    joined = np.zeros((MAX_CLASSES + 2, MAX_CLASSES + 2), np.int64)
    np.add.at(joined, (place[:, None], place[None, :]), counts)
    return joined, [*(names[k] for k in largest), f"{classes - MAX_CLASSES} others", BACKGROUND]


def _draw_errors(panels: Sequence[Axes], analysis: Analysis) -> None:
    axes, errors = panels[0], analysis.errors
    every = [*errors.types, *errors.totals]
    places = np.arange(len(every)) + np.repeat([0, 0.6], [len(errors.types), len(errors.totals)])
    costs = [max(error.cost, 0) * 100 for error in every]
    colours = [_COLOURS[0]] * len(errors.types) + [_GREY] * len(errors.totals)
    axes.barh(places, costs, color=colours, height=0.7)
    for place, cost, error in zip(places, costs, every, strict=True):
        axes.annotate(
            f"{cost:.1f}   ({error.shown} at the threshold)",
            (cost, place),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(places, [f"{error.kind}: {MEANINGS[error.kind]}" for error in every], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.0, *costs) * 1.6)
    axes.set_xlabel("points of AP50 gained if this type were mended")
    ap50 = f"AP50 is {errors.AP50 * 100:.1f}" if errors.AP50 > UNDEFINED else "AP50 is undefined"
    axes.set_title(f"What AP50 is lost to ({ap50})", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_reliability(panels: Sequence[Axes], analysis: Analysis) -> None:
    axes, total = panels[0], analysis.calibration.total
    full = [each for each in total.bins if each.count]
    widths = [each.high - each.low for each in full]
    axes.bar([b.low for b in full], [b.right for b in full], widths, align="edge", color=_COLOURS[4], ec="white")
    axes.plot([0, 1], [0, 1], "--", color=_GREY, lw=1)
    axes.plot([b.score for b in full], [b.right for b in full], "o", color=_INK, ms=5)
    for each in full:
        middle = (each.low + each.high) / 2
        axes.text(
            middle,
            each.right + 0.025,
            f"{each.count}",
            ha="center",
            fontsize=8,
            color=_INK,
            backgroundcolor="#ffffffb0",
        )
    ece = f"ECE {total.ece:.3f}" if total.count else "no boxes"
    title = f"Are scores honest? {ece}, {total.count} boxes from {analysis.calibration.lowest_score:g}"
    _dress(axes, title, "score", "share that is right (numbers: boxes)")
    axes.set_ylim(0, 1.06)


def _draw_recall(panels: Sequence[Axes], analysis: Analysis) -> None:
    breakdown = analysis.breakdown
    _recall_bars(panels[0], breakdown.sizes, "Recall by size", "side of the object, px")
    _recall_bars(panels[1], breakdown.aspects, "Recall by shape", "width by height")
    panels[0].legend(frameon=False, fontsize=9, loc="upper left")


def _recall_bars(axes: Axes, bins: Sequence[RecallBin], title: str, x_label: str) -> None:
    places = np.arange(len(bins))
    floor, shown = ([max(0.0, getattr(b, name)) for b in bins] for name in ("recall_at_floor", "recall"))
    axes.bar(places, floor, color=_PALE, label="by any box")
    axes.bar(places, shown, color=_COLOURS[0], width=0.55, label="by boxes at the threshold")
    for place, height, each in zip(places.tolist(), floor, bins, strict=True):
        axes.text(place, height + 0.015, f"{each.truths}", ha="center", fontsize=8, color=_GREY)
    _dress(axes, f"{title} (numbers: objects)", x_label, "recall at IoU 0.5")
    axes.set_xlim(-0.6, len(bins) - 0.4)
    axes.set_ylim(0, 1.12)
    axes.set_xticks(places, [each.name.replace(" ", "\n") for each in bins], fontsize=9)


def most_truths(each: Sequence[_Curve]) -> tuple[list[_Curve], str]:
    """The classes to draw, in label order, and what to say of the others."""
    with_truths = [curve for curve in each if curve.truths]
    largest = sorted(with_truths, key=lambda curve: -curve.truths)[:MAX_CLASSES]
    kept = [curve for curve in with_truths if curve in largest]
    return kept, "" if len(kept) == len(with_truths) else f" ({len(kept)} of {len(with_truths)} classes)"


def _dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes, title: str) -> None:
    """To the right of the panel, where it hides no curve."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(title=title, frameon=False, fontsize=9, title_fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
