"""`detkit data fix`: a mended copy of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detkit.cli import options, terminal
from detkit.errors import UsageError


def fix(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Data set: a folder, a data.yaml, a COCO JSON or CSV file."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="New folder for the mended copy.", show_default=False)
    ],
    split: options.OnlySplit = None,
    format_: options.SourceFormat = None,
    as_json: options.Json = False,
) -> None:
    """Write a mended copy of a data set; the original is not touched.

    Mends what `detkit data check` calls an error where the right value is certain (swapped corners, pixels for
    fractions, rotated or resized photos, ids from 1, numbers used twice) and removes boxes that are there twice. A
    photo with any other error is left out, with its boxes. fix.log in the copy has a line (JSON) for each change.

    Example:  detkit data fix street --out street-mended
    """
    from detkit.data.check import judge, read_leniently
    from detkit.data.check_photos import inspect_photos
    from detkit.data.fix import LOG_NAME, mend, write

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("the target exists and is not an empty folder", file=out, expected="--out with a new folder")
    reading = read_leniently(data, split, format_)
    looking = inspect_photos(reading.photos)
    facts = list(terminal.progress(looking, total=len(reading.photos), title="looking at the photos"))
    report = judge(reading, facts)
    mended = write(mend(report, facts), out)
    images, boxes = sum(map(len, mended.datasets)), sum(dataset.box_count for dataset in mended.datasets)
    if as_json:
        changes = [change.to_dict() for change in mended.changes]
        where = {"data": str(data), "out": str(out), "images": images, "boxes": boxes}
        terminal.print_json(where | {"lost": list(mended.lost), "changes": changes})
    else:
        rows = [(f"{count:,}", *what.split(": ", 1)) for what, count in mended.counts().items()]
        if rows:
            terminal.print_table(("count", "code", "what was done"), rows, right=("count",))
    for line in mended.lost:
        terminal.warn(line)
    terminal.say(f"{out}: {images:,} images with {boxes:,} boxes; {terminal.count(len(mended.changes), 'change')}")
    terminal.say(f"what was changed: {out / LOG_NAME}")
