"""`detkit data anchors`: box shapes for a model to start from, and how well they fit the labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli import options, terminal
from detkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from detkit.data.dataset import Dataset


def anchors(
    source: options.Data,
    k: Annotated[int, typer.Option("--k", min=1, max=100, help="How many anchors.")] = 9,
    size: Annotated[
        int, typer.Option("--size", min=32, metavar="PX", help="Side of the canvas photos are fit to.")
    ] = 416,
    max_ratio: Annotated[
        float,
        typer.Option(
            "--max-ratio", min=1.01, help="An anchor serves boxes whose sides differ by less than this factor."
        ),
    ] = 4.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of where k-means begins.")] = 0,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="Part of the data (default: train, or all where there is none)."),
    ] = None,
    format_: options.SourceFormat = None,
    as_json: options.Json = False,
) -> None:
    """Find anchors: the box shapes a model starts from, by k-means under 1 - IoU, and say how well they fit.

    Sizes are pixels of a square canvas each photo is scaled to. A box that no anchor serves cannot be learnt: "best
    recall" is the share of boxes with one. Small, medium and large are up to 32x32 and 96x96 pixels of the canvas.
    `detkit train` finds its anchors by itself; this shows them, and what another size or number would do.

    Example:  detkit data anchors street --k 9 --size 416
    """
    import numpy as np

    from detkit.data.canvas import boxes_on_canvas
    from detkit.models.anchors import kmeans_anchors

    dataset = _read(source, split, format_)
    terminal.say(terminal.describe_dataset(dataset))
    boxes_wh = np.concatenate([own[:, 2:] for own in boxes_on_canvas(dataset, size)])  # [N, 2]
    if not len(boxes_wh):
        raise DataError("no box to fit anchors to", file=dataset.source, expected="at least one")
    anchors_wh = kmeans_anchors(boxes_wh, k, seed=seed).round(1)  # [k, 2]
    rows = _anchor_rows(boxes_wh, anchors_wh)
    fits = _fits(boxes_wh, anchors_wh, max_ratio)
    if as_json:
        where = {"data": str(dataset.source), "split": dataset.split, "size_px": size, "k": k, "seed": seed}
        terminal.print_json(where | {"max_ratio": max_ratio, "anchors": rows, "fit": fits})
    else:
        _print_tables(rows, fits)


def _read(source: Path, split: str | None, format_: options.Format | None) -> Dataset:
    """The split asked for; unasked, train, or everything where there is no such split."""
    from detkit.data import formats
    from detkit.data.split import pool

    if split is None and "train" in formats.splits(source, format_):
        split = "train"
    datasets = list(formats.read_all(source, split, format_))
    return datasets[0] if len(datasets) == 1 else pool(datasets)


def _anchor_rows(boxes_wh: NDArray[np.float64], anchors_wh: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Each anchor, and how many boxes are nearest to it."""
    import numpy as np

    from detkit.models.anchors import shape_iou_matrix

    nearest = shape_iou_matrix(boxes_wh, anchors_wh).argmax(1)
    counts = np.bincount(nearest, minlength=len(anchors_wh)).tolist()
    return [{"wh_px": wh, "boxes": count} for wh, count in zip(anchors_wh.tolist(), counts, strict=True)]


def _fits(
    boxes_wh: NDArray[np.float64], anchors_wh: NDArray[np.float64], max_ratio: float
) -> dict[str, dict[str, float]]:
    """How well the anchors serve all boxes, and those of each size."""
    import numpy as np

    from detkit.data.stats import LARGE_PX, SMALL_PX
    from detkit.models.anchors import anchor_fit

    buckets = np.digitize(boxes_wh.prod(1), [SMALL_PX**2, LARGE_PX**2])
    masks = {"small": buckets == 0, "medium": buckets == 1, "large": buckets == 2, "all": buckets >= 0}
    fits = {}
    for name, mask in masks.items():
        fit = anchor_fit(boxes_wh[mask], anchors_wh, max_ratio)
        figures = {"best_recall": fit.best_possible_recall, "anchors_per_box": fit.anchors_per_target}
        fits[name] = {"boxes": int(mask.sum()), "mean_iou": fit.mean_iou, **figures}
    return fits


def _print_tables(rows: list[dict[str, Any]], fits: dict[str, dict[str, float]]) -> None:
    total = sum(row["boxes"] for row in rows)
    cells = [
        (f"{row['wh_px'][0]:.0f}", f"{row['wh_px'][1]:.0f}", f"{row['boxes']:,}", f"{row['boxes'] / total:.1%}")
        for row in rows
    ]
    headers = ("width", "height", "nearest boxes", "share")
    terminal.print_table(headers, cells, right=headers)
    print()
    fit_cells = []
    for name, fit in fits.items():
        figures = [f"{fit['best_recall']:.3f}", f"{fit['anchors_per_box']:.2f}", f"{fit['mean_iou']:.3f}"]
        fit_cells.append((name, f"{fit['boxes']:,}", *(figures if fit["boxes"] else ["-"] * 3)))
    fit_headers = ("size", "boxes", "best recall", "anchors per box", "mean IoU")
    terminal.print_table(fit_headers, fit_cells, right=fit_headers[1:])
