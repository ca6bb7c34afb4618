"""A run's curves as one picture: the loss parts, the val figures and the learning rate over the epochs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.errors import MissingExtraError
from detkit.files import replacing
from detkit.train.history import LOWER_IS_BETTER, METRICS, best_figures, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_INCHES, _DPI = (5.6, 4.2), 110
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # told apart by the colour-blind too
_COCO_MAIN = ("AP50", "AP", "AP75")  # of COCO's figures these; the nine others stay in metrics.jsonl
_COCO_REST = ("APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_GREY = "#777777"
_MAX_MARKERS = 40  # more of them would hide the line


def write_curves(run: Path) -> Path | None:
    """Draw a run's metrics.jsonl as `plots/curves.png`.

    Figures of -1 (undefined) and epochs without validation leave no point; the best epoch is marked.

    Args:
        run: the run folder.
    Returns:
        The picture, or None where there is no epoch to draw yet.
    Raises:
        MissingExtraError: matplotlib is not installed.
        RunError: the picture cannot be written.
    """
    rows = read_metrics(run / METRICS, [])
    if not rows:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError('curves need matplotlib: pip install "detkit-cv[train]"') from error
    panels = _panels(rows)
    figure = Figure(figsize=(_PANEL_INCHES[0] * len(panels), _PANEL_INCHES[1]), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    best_epoch, _ = best_figures(rows)
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, title, lines, best_epoch)
        _frame(axes, rows)
    figure.suptitle(_headline(run, rows, best_epoch), fontsize=12)
    (run / "plots").mkdir(exist_ok=True)
    path = run / "plots" / "curves.png"
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
    return path


Line = tuple[str, list[int], list[float]]  # name, epochs, values


def _panels(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[Line]]]:
    """What to draw: a title and its lines for each panel; figures of one scale share a panel."""
    keys = list(dict.fromkeys(key for row in rows for key in row["val"]))
    coco = [key for key in _COCO_MAIN if key in keys]
    others = [key for key in keys if key not in (*_COCO_MAIN, *_COCO_REST)]
    panels = [("training loss", _loss_lines(rows))]
    panels.append(("val", [_val_line(rows, key) for key in coco]))
    panels += [(f"val {key}{_direction(key)}", [_val_line(rows, key)]) for key in others]
    rates = [(row["epoch"], row["lr"]) for row in rows if isinstance(row.get("lr"), (int, float))]
    panels.append(("learning rate", [("lr", [e for e, _ in rates], [float(r) for _, r in rates])]))
    drawn = [(title, [line for line in lines if line[1]]) for title, lines in panels]
    return [(title, lines) for title, lines in drawn if lines] or [("nothing measured", [])]


def _loss_lines(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """Each part of the loss, and their sum where there is more than one."""
    keys = list(dict.fromkeys(key for row in rows for key in row["loss"]))
    with_loss = [row for row in rows if row["loss"]]
    epochs = [row["epoch"] for row in with_loss]
    total: Line = ("total", epochs, [sum(row["loss"].values()) for row in with_loss])
    parts = [_line(rows, "loss", key, lowest=float("-inf")) for key in keys]
    return [total, *parts] if len(keys) > 1 else parts


def _val_line(rows: Sequence[dict[str, Any]], key: str) -> Line:
    return _line(rows, "val", key, lowest=0.0)


def _line(rows: Sequence[dict[str, Any]], kind: str, key: str, *, lowest: float) -> Line:
    points = [(row["epoch"], row[kind][key]) for row in rows if row[kind].get(key, float("-inf")) >= lowest]
    return key, [epoch for epoch, _ in points], [value for _, value in points]


def _direction(key: str) -> str:
    return " (lower is better)" if key in LOWER_IS_BETTER else ""


def _draw(axes: Axes, title: str, lines: Sequence[Line], best_epoch: int | None) -> None:
    """One panel; the best epoch's val figures are starred and stand in the legend, where they cannot overlap."""
    is_val = title.startswith("val")
    axes.set_title(title, loc="left", fontsize=11)
    colours = itertools.cycle(_COLOURS)
    for name, epochs, values in lines:
        colour, dashes = (_GREY, "--") if name == "total" else (next(colours), "-")
        marker = "o" if len(epochs) <= _MAX_MARKERS else None
        best = values[epochs.index(best_epoch)] if is_val and best_epoch in epochs else None
        label = name if best is None else f"{name}  {best:.3f}"
        axes.plot(epochs, values, dashes, label=label, color=colour, lw=1.8, marker=marker, ms=3.5)
        if best is not None and best_epoch is not None:
            axes.plot([best_epoch], [best], marker="*", ms=13, color=colour, zorder=5)
    values = [value for line in lines for value in line[2]]
    lowest, highest = min(0.0, *values, 0.0), max((*values, 1e-9))
    axes.set_ylim(lowest, highest + 0.12 * (highest - lowest))
    if is_val and best_epoch is not None:
        axes.axvline(best_epoch, color=_GREY, lw=1, ls=":", zorder=0)
    if is_val or len(lines) > 1:
        axes.legend(frameon=False, fontsize=10)


def _frame(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """The same epochs under every panel, whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    margin = max(0.5, 0.04 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _headline(run: Path, rows: Sequence[dict[str, Any]], best_epoch: int | None) -> str:
    spent = rows[-1].get("seconds")
    minutes = f", {spent / 60:.0f} min" if isinstance(spent, (int, float)) else ""
    best = f"; best epoch {best_epoch}" if best_epoch is not None else ""
    return f"{run.resolve().name}: {len(rows)} epoch{'s' if len(rows) > 1 else ''}{minutes}{best}"
