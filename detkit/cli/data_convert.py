"""`detkit data convert`: the same labels in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from detkit.cli import options, terminal


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="Data set: a folder, a data.yaml, a COCO JSON or CSV file."),
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A new folder; it appears when all is written.")],
    to: Annotated[options.Format, typer.Option("--to", help="The format to write.", show_default=False)],
    format_: options.SourceFormat = None,
    split: options.OnlySplit = None,
    as_json: options.Json = False,
) -> None:
    """Write a labelled data set in another format: any of COCO, YOLO, VOC and CSV to any other.

    Boxes keep their place to a thousandth of a pixel; what the new format cannot carry is said. Photos are
    hard-linked where the disk allows it, so they take no room, and SRC is never changed.

    Example:  detkit data convert street street-yolo --to yolo
    """
    from detkit.data.convert import Written
    from detkit.data.convert import convert as run

    read = []
    written: Written | None = None
    for report in run(source, target, to, format=format_, split=split):
        if isinstance(report, Written):
            written = report
        else:
            terminal.say(terminal.describe_dataset(report))
            read.append(report)
    assert written is not None
    for line in written.lost:
        terminal.warn(line)
    terminal.say(f"{target}: written as {to.upper()}; read back, it holds")
    splits = [{"split": d.split, "images": len(d), "boxes": d.box_count} for d in written.datasets]
    if as_json:
        document: dict[str, Any] = {"source": str(source), "target": str(target), "from": read[0].format, "to": to}
        document |= {"classes": read[0].class_names, "boxes_read": sum(d.box_count for d in read)}
        terminal.print_json(document | {"splits": splits, "lost": written.lost})
    else:
        rows = [(str(s["split"] or "-"), f"{s['images']:,}", f"{s['boxes']:,}") for s in splits]
        terminal.print_table(("split", "images", "boxes"), rows, right=("images", "boxes"))
