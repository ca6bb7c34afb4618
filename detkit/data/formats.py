"""Which reader fits a data set: recognise it, list its splits, read one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detkit.data import coco, voc, yolo
from detkit.data.dataset import Dataset
from detkit.data.label_files import choose_split
from detkit.errors import DataError

_READERS = {"coco": coco, "yolo": yolo, "voc": voc}
_TITLES = {"coco": "COCO JSON", "yolo": "YOLO txt", "voc": "Pascal VOC XML"}


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a data set is, and why.

    Args:
        format: "coco", "yolo" or "voc".
        reason: one line for people, such as "COCO JSON: annotations/instances_val.json".
        splits: the splits found, each with the file or folder its labels come from.
    """

    format: str
    reason: str
    splits: dict[str, Path]


def recognise(path: Path | str) -> Recognition:
    """Tell a data set's format from its files; the labels themselves are not read.

    Args:
        path: the data set's folder, a data.yaml, or a COCO label file.
    Raises:
        DataError: missing, empty, of no known format, or of several.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise DataError("no such data set", file=path.absolute())
        if path.is_dir() and not any(path.iterdir()):
            raise DataError("the folder is empty", file=path, expected="a data set")
        fitting = {name: found for name, reader in _READERS.items() if (found := reader.splits(path))}
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error
    reasons = {name: f"{_TITLES[name]}: {_sources(path, found)}" for name, found in fitting.items()}
    if len(fitting) > 1:
        expected = "one format; name the .json or data.yaml itself"
        raise DataError("several formats fit", file=path, found=" and ".join(reasons.values()), expected=expected)
    if not fitting:
        looked_for = "; ".join(f"{_TITLES[name]} ({reader.LOOKED_FOR})" for name, reader in _READERS.items())
        raise DataError("no data set of a known format", file=path, expected=looked_for)
    name = next(iter(fitting))
    return Recognition(name, reasons[name], fitting[name])


def _sources(path: Path, found: dict[str, Path]) -> str:
    """The files that gave the format away, relative to the data set where they lie in it."""
    sources = dict.fromkeys(source.absolute() for source in found.values())
    home = path.absolute() if path.is_dir() else path.absolute().parent
    inside = [s.relative_to(home).as_posix() if s.is_relative_to(home) else str(s) for s in sources]
    return ", ".join("the folder itself" if source == "." else source for source in inside)


def splits(path: Path | str) -> list[str]:
    """The names of a data set's splits; [""] where it has none.

    Raises:
        DataError: as `recognise`.
    """
    return list(recognise(path).splits)


def read(path: Path | str, split: str | None = None) -> Dataset:
    """Read one split of a data set, whatever its format.

    Args:
        path: the data set's folder, a data.yaml, or a COCO label file.
        split: "train", "val", ...; None where there is only one.
    Raises:
        DataError: as `recognise`; no such split, which lists those found; or labels that cannot be used as a whole.
    """
    path = Path(path)
    recognition = recognise(path)
    name, _ = choose_split(recognition.splits, split, path)
    try:
        return _READERS[recognition.format].read(path, name)
    except OSError as error:  # a folder that may not be listed
        raise DataError(f"cannot be read: {error.strerror}", file=error.filename or path) from error
