"""`detkit data stats`: what a labelled data set holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detkit.cli import options, terminal
from detkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detkit.data.stats import ClassStats, SplitStats


def stats(
    source: options.Data,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE", help="Also draw photos with their boxes side by side to this picture."),
    ] = None,
    photos: Annotated[int, typer.Option("--photos", min=1, max=400, help="Photos on the sheet.")] = 25,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed puts other photos on the sheet.")] = 0,
    split: options.OnlySplit = None,
    format_: options.SourceFormat = None,
    as_json: options.Json = False,
) -> None:
    """Say what a labelled data set holds: classes, sizes and shapes of boxes, and which classes stand together.

    Small, medium and large are COCO's: up to 32x32 and up to 96x96 pixels of the photo. Crowd boxes are counted apart.

    Example:  detkit data stats street --sheet street.png
    """
    from detkit.data import formats
    from detkit.data.split import pool
    from detkit.data.stats import describe

    if sheet is not None and not sheet.absolute().parent.is_dir():
        raise UsageError("--sheet: no such folder", file=sheet.parent)
    datasets = list(formats.read_all(source, split, format_))
    for dataset in datasets:
        terminal.say(terminal.describe_dataset(dataset))
    whole = pool(datasets)
    figures = [describe(dataset) for dataset in datasets]
    total = figures[0] if len(figures) == 1 else describe(whole)
    if sheet is not None:
        from detkit.data.sheet import contact_sheet
        from detkit.images import write_image

        write_image(sheet, contact_sheet(whole if len(datasets) > 1 else datasets[0], photos, seed))
        terminal.say(f"{sheet}: the contact sheet")
    if as_json:
        where = {"data": str(source), "format": whole.format}
        terminal.print_json(where | {"splits": [one.to_dict() for one in figures], "all": total.to_dict()})
    else:
        _print_tables(figures, total)


def _print_tables(figures: Sequence[SplitStats], total: SplitStats) -> None:
    listed = [*figures, *([total] if len(figures) > 1 else [])]
    titles = ["split", "photos", "no box", "boxes", "crowds", "per photo", "most", "small", "medium", "large"]
    terminal.print_table(titles, [_split_row(one) for one in listed], right=titles[1:])
    print()
    titles = ["class", "photos", "boxes", "share", "median size", "small", "medium", "large"]
    terminal.print_table(titles, [_class_row(one, total.boxes) for one in total.classes], right=titles[1:])
    if total.pairs:
        print()
        pairs = [(f"{one} + {other}", f"{count:,}") for one, other, count in total.pairs]
        terminal.print_table(("together", "photos"), pairs, right=("photos",))
    print()
    titles = ["", "5%", "25%", "median", "75%", "95%"]
    shapes = [f"{value:.2f}" for value in total.aspect_ratios.values()] or ["-"] * 5
    terminal.print_table(titles, [("box width / height", *shapes)], right=titles[1:])
    print()
    sizes = [(f"{width}x{height}", f"{count:,}") for width, height, count in total.common_sizes]
    terminal.print_table(("photo size", "photos"), sizes, right=("photos",))


def _class_row(one: ClassStats, box_count: int) -> tuple[str, ...]:
    size = "-" if one.median_wh_px is None else f"{one.median_wh_px[0]:.0f}x{one.median_wh_px[1]:.0f}"
    counts = [f"{one.images:,}", f"{one.boxes:,}", f"{one.boxes / max(box_count, 1):.1%}", size]
    return one.name, *counts, f"{one.small:,}", f"{one.medium:,}", f"{one.large:,}"


def _split_row(one: SplitStats) -> tuple[str, ...]:
    per_image = one.boxes_per_image
    counts = [f"{value:,}" for value in (one.images, one.empty_images, one.boxes, one.crowd_boxes)]
    sizes = [f"{value:,}" for value in (one.small, one.medium, one.large)]
    return one.split or "all", *counts, f"{per_image['mean']:.1f}", f"{per_image['max']:.0f}", *sizes
