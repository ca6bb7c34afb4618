"""`Dataset`: labelled photos and the names of their classes, whatever file format they came from.

Below the types stand the few steps every reader and writer shares: splits, class names, finding photos, new folders.
"""

from __future__ import annotations

import hashlib
import re
import reprlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.errors import DataError, RunError, UsageError, WeightsError

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
_HASH_STEPS_PER_PX = 64  # so that no coordinate of up to three decimals lies on a rounding border
_SPLIT_WORD = re.compile(r"(?:^|[_.\- ])(train|training|val|valid|validation|dev|test|testing)(\d*)$", re.IGNORECASE)
_SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled photo.

    Args:
        name: the photo's name in the label file, for messages and results; unique in its data set.
        image_path: where the photo lies.
        truth: its boxes on the upright photo (`scores is None`); `truth.size_hw` is the upright size.
        image_id: the id the label file gives it (COCO), else its 1-based position.
        areas_px: float64 [N], the areas the label file gives (COCO's `area`); None means each box's own.
    """

    name: str
    image_path: Path
    truth: Detections
    image_id: int
    areas_px: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """The photos of one split with their labels.

    Args:
        name: short name, usually the folder's.
        class_names: names in label order: label k means `class_names[k]`.
        samples: the photos.
        source: the file or folder the labels were read from.
        format: "coco", "yolo" or "voc".
        split: "train", "val", ... or "" where the source has no splits.
        category_ids: the ids the label file uses for the classes, in label order (COCO), else 1..K.
    """

    name: str
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    source: Path
    format: str
    split: str
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def box_count(self) -> int:
        """Labelled boxes in all, crowd boxes included."""
        return sum(len(sample.truth) for sample in self.samples)

    def content_hash(self) -> str:
        """SHA-256 (hex) of the class names in order and each photo's name, boxes, labels, crowd and points.

        Photos and boxes count in any order, folders in names do not, coordinates to 1/64 px: so the same labels
        hash alike on every machine and in every format that carries them.
        """
        digest = hashlib.sha256("\0".join(self.class_names).encode("utf-8", "surrogatepass"))
        for part in sorted(_sample_digest(sample) for sample in self.samples):
            digest.update(part)
        return digest.hexdigest()


def _sample_digest(sample: Sample) -> bytes:
    truth = sample.truth
    crowd = np.zeros(len(truth), np.bool_) if truth.crowd is None else truth.crowd
    columns: list[NDArray[Any]] = [truth.labels[:, None], crowd[:, None]]
    for coordinates in (truth.boxes_xyxy, truth.points_xyv):
        if coordinates is not None:
            flat = coordinates.reshape(len(truth), int(np.prod(coordinates.shape[1:])))
            columns.append(np.rint(flat.astype(np.float64) * _HASH_STEPS_PER_PX))
    rows = np.concatenate(columns, axis=1).astype("<i8")  # [N, 6 + 3P]
    rows = rows[np.lexsort(rows.T)]
    name = sample.name.replace("\\", "/").rpartition("/")[2]
    return hashlib.sha256(name.encode("utf-8", "surrogatepass") + b"\0" + rows.tobytes()).digest()


def check_class_names(expected: Sequence[str], dataset: Dataset) -> None:
    """Make sure that a model's class names, in label order, are those of the data it meets.

    Raises:
        WeightsError: they differ; one line says how, and what to do.
    """
    model, data = tuple(expected), dataset.class_names
    if model == data:
        return
    missing, extra = [name for name in model if name not in data], [name for name in data if name not in model]
    place = {"coco": "number the categories", "yolo": "list `names` in data.yaml", "voc": "list classes.txt"}
    fix = f"{place.get(dataset.format, 'list the classes')} as the model has them: {_listing(model)}"
    if [name.casefold() for name in model] == [name.casefold() for name in data]:
        what = f"they differ in upper and lower case: {_listing(missing)} for the model, {_listing(extra)} in the data"
    elif data[1:] == model or model[1:] == data:
        longer, first = ("data", data[0]) if data[1:] == model else ("model", model[0])
        what = f"they are shifted by one: the {longer} begins with {first!r}, which the other lacks"
    elif not missing and not extra:
        at = next(k for k, (a, b) in enumerate(zip(model, data, strict=False)) if a != b)
        what = f"the order differs: label {at} is {model[at]!r} for the model, {data[at]!r} in the data"
    else:
        what = (
            f"missing from the data: {_listing(missing) or 'none'}; unknown to the model: {_listing(extra) or 'none'}"
        )
        fix = "take a model trained on these classes, or relabel the data"
    raise WeightsError(f"the class names do not fit: {what}; to mend it, {fix}", file=dataset.source)


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def checked_class_names(names: Iterable[object], file: Path) -> tuple[str, ...]:
    """The class names, stripped; DataError when one is no text, empty or there twice, or when there is none."""
    checked: dict[str, None] = {}
    for position, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or any(c < " " or "\ud800" <= c <= "\udfff" for c in name):
            raise DataError(f"class {position} has no usable name", file=file, found=short(name), expected="text")
        if name.strip() in checked:
            raise DataError("two classes have the same name", file=file, found=short(name), expected="distinct names")
        checked[name.strip()] = None
    if not checked:
        raise DataError("no classes", file=file, expected="at least one class name")
    return tuple(checked)


def split_word(stem: str) -> str:
    """The split a file or folder name ends in ("instances_train2017" -> "train", "valid" -> "val"), else ""."""
    match = _SPLIT_WORD.search(stem)
    if match is None:
        return ""
    word = match[1].lower()
    return _SPLIT_NAMES.get(word, word)


def choose_split(found: Mapping[str, T], split: str | None, source: Path) -> tuple[str, T]:
    """The split asked for (None: the only one) and where it lies; DataError lists the splits there are."""
    listed = ", ".join(name for name in found if name) or ("one set without splits" if found else "none")
    if split is None and len(found) == 1:
        return next(iter(found.items()))
    if split is None:
        raise DataError("several splits and none was asked for", file=source, found=listed, expected="one of them")
    if split not in found:
        raise DataError(f"no split {split!r}", file=source, found=listed, expected=split)
    return split, found[split]


def short(value: object) -> str:
    """A value as it stands in an error message: one line, bounded in length and depth."""
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits has no text
        return f"a {type(value).__name__}"


def wrong(what: str, file: Path | None, found: object, expected: str, line: int | None = None) -> DataError:
    """The DataError for one wrong value in a label file."""
    return DataError(what, file=file, line=line, found=short(found), expected=expected)


def placed(error: DataError, what: str, file: Path | None, line: int | None = None) -> DataError:
    """The same error, now saying where."""
    return DataError(what, file=file, line=line, found=error.found, expected=error.expected)


class PhotoFinder:
    """Finds photos by name in a few candidate folders; each folder is listed once, however many photos it holds."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = list(dict.fromkeys(folders))
        self._names: dict[str, frozenset[str]] = {}

    def find(self, name: str) -> Path | None:
        """Where the photo `name` (with `/` for subfolders) lies, or None."""
        parent, _, leaf = name.rpartition("/")
        for folder in self.folders:
            if leaf in self.names_in(folder / parent if parent else folder):
                return folder / name
        return None

    def names_in(self, folder: Path) -> frozenset[str]:
        """The names of all files in a folder; none where it is missing."""
        key = str(folder)
        if key not in self._names:
            try:
                self._names[key] = frozenset(path.name for path in folder.iterdir())
            except (OSError, ValueError):  # ValueError: a NUL byte or a lone surrogate in the name
                self._names[key] = frozenset()
        return self._names[key]


def photos_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """The photos in a folder and those within, sorted; a folder reached twice, through a link, is a DataError."""
    if folder.resolve() in seen:
        raise DataError("a link leads to a folder that is there already", file=folder)
    seen.add(folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PHOTO_SUFFIXES:
            yield path
        elif path.is_dir():
            yield from photos_below(path, seen)


def read_bytes(path: Path, *, may_be_empty: bool = False) -> bytes:
    """The file's bytes; DataError when it is missing, unreadable or (unless it may be) empty."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"cannot be read: {reason}", file=path) from error
    if not content.strip() and not may_be_empty:
        raise DataError("the file is empty", file=path)
    return content


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, each stripped, without empty ones at its end."""
    try:
        return [line.strip() for line in read_bytes(path).decode("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text (byte {error.start})", file=path) from error


def by_split(datasets: Dataset | Sequence[Dataset]) -> dict[str, Dataset]:
    """What a writer writes: "train", "val" and "test", all with the same classes; any other split counts as "train"."""
    listed = [datasets] if isinstance(datasets, Dataset) else list(datasets)
    named = {split_word(dataset.split) or "train": dataset for dataset in listed}
    if not listed or len(named) < len(listed) or len({dataset.class_names for dataset in listed}) > 1:
        raise UsageError("only data sets of different splits and the same classes can be written together")
    return named


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends and vanishes when it raises."""
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("the target exists and is not an empty folder", file=target, expected="a new folder")
    partial = target.with_name(f".{target.name}.partial-{uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    except OSError as error:
        raise RunError(f"cannot write the data set: {error.strerror or error}", file=target) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def place_photo(sample: Sample, target: Path) -> None:
    """Hard-link the sample's photo (never a link to it) to `target`, or copy it to another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = sample.image_path.resolve()
    if not real.is_file():
        raise DataError(f"the photo {short(sample.name)} is missing", file=sample.image_path)
    if target.exists():
        raise DataError("two photos have the same name", file=sample.image_path, found=short(target.name))
    try:
        target.hardlink_to(real)
    except OSError:  # another disk
        shutil.copyfile(real, target)


def inner_name(sample: Sample) -> PurePosixPath:
    """The sample's name as a path that stays inside the folder it is written to; DataError when it does not."""
    name = PurePosixPath(sample.name.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or not name.name:
        raise wrong("the photo's name leaves the data folder", sample.image_path, sample.name, "a relative name")
    return name
