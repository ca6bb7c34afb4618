"""Records as rows of a Parquet file: one for each picture, error and video's end; the "run" record is its metadata."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from detkit.errors import DataError, MissingExtraError
from detkit.infer.records import Record, json_bytes

HEADER_KEY = b"detkit"  # of the file's metadata: the "run" record as JSON
_GROUP_ROWS = 4096  # that are held in memory: of a long video as of photos
_TEXTS = ("name", "error", "warning")


class ParquetFile:
    """Writes records to a Parquet file, of the same columns for every run."""

    def __init__(self, file: Path, header: Record) -> None:
        """Open the file; OSError where it cannot be written."""
        arrow, parquet = load_pyarrow()
        self._schema = _schema(arrow).with_metadata({HEADER_KEY: json_bytes(header)})
        self._arrow, self._rows = arrow, list[Record]()
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, record: Record) -> None:
        """Add a row; it is on disk after `close`."""
        self._rows.append(_row(record))
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self._writer.write_table(self._arrow.Table.from_pylist(rows, self._schema))


def read_rows(file: Path) -> Iterator[Record]:
    """The rows as records, in which what a record does not say is None.

    Raises:
        DataError: it cannot be read.
    """
    arrow, parquet = load_pyarrow()
    try:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_GROUP_ROWS):
                yield from batch.to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise DataError("cannot be read as Parquet", file=file, found=str(error).splitlines()[0]) from error


def load_pyarrow() -> tuple[Any, Any]:
    """The pyarrow and pyarrow.parquet modules.

    Raises:
        MissingExtraError: they are not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError('Parquet needs pyarrow: pip install "detkit-cv[ray]"') from error


def _schema(arrow: Any) -> Any:
    """The columns: those of `record.schema.json`; points go by name."""
    number, whole, text = arrow.float64(), arrow.int64(), arrow.string()
    detection = {
        "label": arrow.int32(),
        "class": text,
        "score": number,
        "box_xyxy": arrow.list_(number),
        "points": arrow.map_(text, arrow.list_(number)),
    }
    columns = {"version": arrow.int32(), "kind": text, "name": text, "width": arrow.int32(), "height": arrow.int32()}
    columns |= {"frame": whole, "time_s": number, "detections": arrow.list_(arrow.struct(list(detection.items())))}
    columns |= {"error": text, "frames": whole, "duration_s": number, "warning": text}
    return arrow.schema(list(columns.items()))


def _row(record: Record) -> Record:
    """A record in Arrow's types; bytes of a file name that are no text stand as \\udcXX, as in JSONL."""
    row = dict(record)
    for key in _TEXTS:
        if row.get(key) is not None:
            row[key] = row[key].encode("utf-8", "backslashreplace").decode()
    if row.get("detections"):
        row["detections"] = [_detection(one) for one in row["detections"]]
    return row


def _detection(one: Record) -> Record:
    return one | {"points": list(one["points"].items())} if "points" in one else one
