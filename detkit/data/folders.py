"""Photos in folders: finding them for a reader, and laying out a new data set for a writer."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from uuid import uuid4

from detkit.data.dataset import Dataset, Sample
from detkit.data.label_files import short, split_word, wrong
from detkit.errors import DataError, RunError, UsageError

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})


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
