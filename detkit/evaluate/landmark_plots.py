"""The plots of a model of points as PNG: the cumulative error curve, the error of each point, and the worst boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.evaluate.landmarks import CURVE_END, UNDEFINED, BoxError, LandmarkResult
from detkit.evaluate.plots import check_matplotlib, new_file
from detkit.files import replacing
from detkit.images import read_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 130
_MODEL, _SHAPE, _WANTED, _INK, _GREY = "#0072b2", "#d55e00", "#ffffff", "#222222", "#777777"
_BEST_UP_TO = 0.1  # the area under the curve ends here
_COLUMNS = 4
_MARGIN = 0.35  # room around a box that is shown, as a share of its longer side
_MAX_POINTS = 68  # bars that can be read


def write_landmark_plots(
    folder: Path, result: LandmarkResult, dataset: Dataset, predictions: Sequence[Detections]
) -> tuple[Path, ...]:
    """Draw what was measured into a folder, which is made if it is not there; files of the same names are replaced.

    Args:
        folder: gets ced.png, point_errors.png and worst_boxes.png.
        result: what to draw. dataset, predictions: what it was measured on.
    Returns:
        The files, in that order.
    Raises:
        MissingExtraError: matplotlib is not installed.
        RunError: a picture cannot be written.
    """
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = result.per_point[:_MAX_POINTS]
    rows = max(1, -(-len(result.worst) // _COLUMNS))
    plots: dict[str, tuple[tuple[float, float], Callable[[Figure], None]]] = {
        "ced": ((8.5, 5.2), lambda figure: _draw_ced(figure.subplots(), result)),
        "point_errors": ((8.5, 1.4 + 0.3 * len(shown)), lambda figure: _draw_points(figure.subplots(), result)),
        "worst_boxes": ((11, 0.6 + 2.9 * rows), lambda figure: _draw_worst(figure, rows, result, dataset, predictions)),
    }
    paths = []
    for name, (inches, fill) in plots.items():
        figure = Figure(figsize=inches, dpi=_DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        fill(figure)
        with replacing(new_file(folder, f"{name}.png")) as partial:
            figure.savefig(partial, format="png")
        paths.append(folder / f"{name}.png")
    return tuple(paths)


def _draw_ced(axes: Axes, result: LandmarkResult) -> None:
    """Share of boxes by error, the mean shape's for comparison, and the limits of the failure rates."""
    for label, colour, curve in (("model", _MODEL, result.curve), ("mean shape", _SHAPE, result.baseline_curve)):
        if curve:
            error, share = np.array(curve).T
            axes.plot(error, share, color=colour, lw=2.5 if label == "model" else 1.8, label=label)
            axes.fill_between(error, share, where=error <= _BEST_UP_TO, color=colour, alpha=0.08, lw=0)
    for limit, failed in ((0.08, result.FR08), (0.10, result.FR10)):
        axes.axvline(limit, color=_GREY, lw=1, ls=":", zorder=0)
        text = f" {100 * failed:.1f} % fail at {limit:.2f} " if failed > UNDEFINED else ""
        side = "right" if limit < _BEST_UP_TO else "left"
        axes.annotate(text, (limit, 0.3), ha=side, va="center", fontsize=9, color=_INK)
    axes.set_xlim(0, CURVE_END)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"mean error of a box's points, over the {result.normaliser}")
    axes.set_ylabel("share of boxes up to this error")
    numbers = "nothing to measure" if result.NME < 0 else f"NME {result.NME:.4f}, area up to 0.10: {result.AUC:.3f}"
    axes.set_title(f"Cumulative error: {numbers} ({result.boxes} boxes)", loc="left", fontsize=11)
    axes.legend(frameon=False, loc="lower right")
    _plain(axes)


def _draw_points(axes: Axes, result: LandmarkResult) -> None:
    """The mean error of each point, as bars."""
    shown = result.per_point[:_MAX_POINTS]
    errors = [max(point.error, 0.0) for point in shown]
    axes.barh(range(len(shown)), errors, color=_MODEL, height=0.7)
    for place, (point, error) in enumerate(zip(shown, errors, strict=True)):
        text = f"{error:.4f}   ({point.count} labelled)" if point.error > UNDEFINED else "never labelled"
        axes.annotate(text, (error, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(shown)), [point.name for point in shown], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max([0.01, *errors]) * 1.4)
    axes.set_xlabel(f"mean error over the {result.normaliser}")
    rest = "" if len(shown) == len(result.per_point) else f" (the first {len(shown)} of {len(result.per_point)})"
    axes.set_title(f"Error of each point{rest}", loc="left", fontsize=11)
    _plain(axes)


def _draw_worst(
    figure: Figure, rows: int, result: LandmarkResult, dataset: Dataset, predictions: Sequence[Detections]
) -> None:
    """The worst boxes with their labelled points (white rings), joined to those found (dots)."""
    every = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    place_of = {sample.name: index for index, sample in enumerate(dataset)}
    for axes in every:
        axes.set_axis_off()
    for axes, worst in zip(every, result.worst, strict=False):
        index = place_of[worst.name]
        _draw_box(axes, worst, dataset.samples[index], predictions[index])
    figure.suptitle("The worst boxes: labelled points are rings, those found are dots", x=0.01, ha="left", fontsize=11)


def _draw_box(axes: Axes, worst: BoxError, sample: Sample, found: Detections) -> None:
    """One box's surroundings, its points and its error."""
    truth = sample.truth
    assert truth.points_xyv is not None, "it was measured"
    assert found.points_xyv is not None, "it was measured"
    pixels, corner_xy = _surroundings(read_image(sample.image_path), truth.boxes_xyxy[worst.row])
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0))
    both = zip(truth.points_xyv[worst.row], found.points_xyv[worst.row], strict=True)
    for wanted, (x, y, _) in both:
        if wanted[2] > 0:
            at_x, at_y = (wanted[0] - corner_xy[0], x - corner_xy[0]), (wanted[1] - corner_xy[1], y - corner_xy[1])
            axes.plot(at_x, at_y, "-", color=_WANTED, lw=1)
            axes.plot(at_x[:1], at_y[:1], "o", mfc="none", mec=_WANTED, mew=1.4, ms=7)
            axes.plot(at_x[1:], at_y[1:], "o", color=_SHAPE, mec=_INK, mew=0.5, ms=4)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    name = worst.name if len(worst.name) <= 34 else "…" + worst.name[-33:]
    axes.set_title(f"{worst.error:.3f}\n{name}", fontsize=8, color=_INK)


def _surroundings(
    image_rgb: NDArray[np.uint8], box_xyxy: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The part of the photo around a box, and its top left corner."""
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    half = max(x2 - x1, y2 - y1) * (0.5 + _MARGIN)
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    height, width = image_rgb.shape[:2]
    left, right = (round(min(max(middle_x + side, 0), width)) for side in (-half, half))
    top, bottom = (round(min(max(middle_y + side, 0), height)) for side in (-half, half))
    return image_rgb[top : max(bottom, top + 1), left : max(right, left + 1)], (left, top)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
