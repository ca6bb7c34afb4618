"""Which reader fits a data set: recognise it, list its splits, read one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detkit.data import coco, csv_table, voc, yolo
from detkit.data.dataset import Dataset
from detkit.data.findings import Report, stop
from detkit.data.label_files import choose_split, short
from detkit.errors import DataError

_READERS = {"coco": coco, "yolo": yolo, "voc": voc, "csv": csv_table}
_TITLES = {"coco": "COCO JSON", "yolo": "YOLO txt", "voc": "Pascal VOC XML", "csv": "CSV"}
Format = Literal["coco", "yolo", "voc", "csv"]


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a data set is, and why.

    Args:
        format: "coco", "yolo", "voc" or "csv".
        reason: one line for people, such as "COCO JSON: annotations/instances_val.json".
        splits: the splits found, each with the file or folder its labels come from.
    """

    format: str
    reason: str
    splits: dict[str, Path]


def recognise(path: Path | str, format: Format | None = None) -> Recognition:  # noqa: A002
    """Tell a data set's format from its files; the labels themselves are not read.

    Args:
        path: the data set's folder, a data.yaml, or a COCO or CSV label file.
        format: what to take it for; None finds out.
    Raises:
        DataError: missing, empty, of no known format (or not of the one given), or of several.
    """
    path = Path(path)
    readers = {name: reader for name, reader in _READERS.items() if format in (None, name)}
    try:
        if not path.exists():
            raise DataError("no such data set", file=path.absolute())
        if path.is_dir() and not any(path.iterdir()):
            raise DataError("the folder is empty", file=path, expected="a data set")
        fitting = {name: found for name, reader in readers.items() if (found := reader.splits(path))}
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error
    reasons = {name: f"{_TITLES[name]}: {_sources(path, found)}" for name, found in fitting.items()}
    if len(fitting) > 1:
        expected = "one format; name the label file or the format itself"
        raise DataError("several formats fit", file=path, found=" and ".join(reasons.values()), expected=expected)
    if not fitting:
        looked_for = "; ".join(f"{_TITLES[name]} ({reader.LOOKED_FOR})" for name, reader in readers.items())
        raise DataError("no data set of a known format", file=path, expected=looked_for)
    name = next(iter(fitting))
    return Recognition(name, reasons[name], fitting[name])


def _sources(path: Path, found: dict[str, Path]) -> str:
    """The files that gave the format away, relative to the data set where they lie in it."""
    sources = dict.fromkeys(source.absolute() for source in found.values())
    home = path.absolute() if path.is_dir() else path.absolute().parent
    inside = [s.relative_to(home).as_posix() if s.is_relative_to(home) else str(s) for s in sources]
    return ", ".join("the folder itself" if source == "." else source for source in inside)


def splits(path: Path | str, format: Format | None = None) -> list[str]:  # noqa: A002
    """The names of a data set's splits; [""] where it has none.

    Raises:
        DataError: as `recognise`.
    """
    return list(recognise(path, format).splits)


def read(
    path: Path | str,
    split: str | None = None,
    format: Format | None = None,  # noqa: A002
    *,
    need_photos: bool = True,
    report: Report = stop,
) -> Dataset:
    """Read one split of a data set, whatever its format.

    Args:
        path: the data set's folder, a data.yaml, or a COCO or CSV label file.
        split: "train", "val", ...; None where there is only one.
        format: what to take it for; None finds out.
        need_photos: False reads COCO labels without their photos; those of other formats need them for their sizes.
        report: gets each fault; by default the first is raised.
    Raises:
        DataError: as `recognise`; no such split, which lists those found; or labels that cannot be used as a whole.
    """
    path = Path(path)
    recognition = recognise(path, format)
    name, _ = choose_split(recognition.splits, split, path)
    try:
        if recognition.format == "coco":
            return coco.read(path, name, need_photos=need_photos, report=report)
        return _READERS[recognition.format].read(path, name, report=report)
    except OSError as error:  # a folder that may not be listed
        raise DataError(f"cannot be read: {error.strerror}", file=error.filename or path) from error


def read_all(path: Path | str, split: str | None = None, format: Format | None = None) -> Iterator[Dataset]:  # noqa: A002
    """Read every split of a data set, one after the other; "trainval" is left out where its parts are there.

    Args:
        path: as for `read`.
        split: only this one.
        format: what to take it for; None finds out.
    Raises:
        DataError: as `read`; or splits whose classes differ.
    """
    names = splits(path, format)
    if {"trainval", "train", "val"}.issubset(names):
        names.remove("trainval")
    first: Dataset | None = None
    for name in names if split is None else [split]:
        dataset = read(path, name, format)
        first = first or dataset
        if dataset.class_names != first.class_names:
            found = short(sorted(set(dataset.class_names) ^ set(first.class_names)) or "another order")
            what = f"the splits {first.split} and {name} have different classes"
            raise DataError(what, file=path, found=found, expected="one list of classes, or one split")
        yield dataset


def write(datasets: Dataset | Sequence[Dataset], root: Path, format: Format) -> list[str]:  # noqa: A002
    """Write splits of the same classes as a data set of a format into a new or empty folder.

    Returns:
        One line for each thing the format cannot carry.
    Raises:
        UsageError: the folder has content, or the data sets do not fit together.
    """
    return _READERS[format].write(datasets, root)
