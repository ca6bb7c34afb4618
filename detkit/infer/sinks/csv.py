"""CSV: detections.csv, one row for each box; detkit reads it as labels again."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from detkit.files import replacing
from detkit.infer.records import Record
from detkit.infer.sinks.coco import Records
from detkit.infer.sinks.labels import boxes_with_area
from detkit.infer.sinks.names import OutputNames

# `conf`, not `score`: a table with a column of that name is refused as labels
COLUMNS = ("image", "frame", "time_s", "width", "height", "label", "conf", "x1", "y1", "x2", "y2", "track_id")


def write_csv(folder: Path, records: Records, names: OutputNames, suffix: str = "") -> None:
    """Write detections.csv from the records of a run; whatever its length, memory stays flat.

    A picture without objects is a row without a box; `frame` and `time_s` are empty for photos.

    Args:
        folder: where to.
        records: gives them from the first to the last, the "run" record first.
        names: of all items.
        suffix: ends the file's name: of a shard.
    Raises:
        RunError: it cannot be written.
    """
    target = folder / f"detections{suffix}.csv"
    names.refuse_input(target)
    with (
        replacing(target) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(_rows(records(), names))


def _rows(records: Iterable[Record], names: OutputNames) -> Iterator[dict[str, object]]:
    """A row is a mapping from columns; those it lacks are empty."""
    for record in records:
        if "detections" not in record:
            continue
        row = {"image": names.file_name(record), "width": record["width"], "height": record["height"]}
        row |= {"frame": record.get("frame"), "time_s": record.get("time_s")}
        found = boxes_with_area(record)
        for one in found:
            corners = dict(zip(("x1", "y1", "x2", "y2"), one["box_xyxy"], strict=True))
            yield row | corners | {"label": one["class"], "conf": one["score"], "track_id": one.get("track_id")}
        if not found:
            yield row
