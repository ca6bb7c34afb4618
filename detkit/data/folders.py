"""Photos in folders: finding them for a reader, and laying out a new data set for a writer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from detkit.data.dataset import Dataset, Sample
from detkit.data.findings import Fault, Report, stop
from detkit.data.label_files import short, split_word, wrong
from detkit.errors import DataError, RunError, UsageError
from detkit.image_header import read_image_header

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


def photos_below(folder: Path, seen: set[Path], report: Report = stop) -> Iterator[Path]:
    """The photos in a folder and those within, sorted; a folder reached twice, through a link, is a fault."""
    if folder.resolve() in seen:
        report(Fault("link-loop", "a link leads to a folder that is there already", file=folder))
        return
    seen.add(folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PHOTO_SUFFIXES:
            yield path
        elif path.is_dir():
            yield from photos_below(path, seen, report)


def stays_inside(path: Path, homes: Iterable[Path]) -> bool:
    """Whether a path, its `..` taken literally and links not followed, lies in one of the folders."""
    place = os.path.normpath(path)
    return any(place.startswith(os.path.join(os.path.normpath(home), "")) for home in homes)  # noqa: PTH118


def photo_fault(photo: Path, error: DataError) -> Fault:
    """Why a photo cannot be used, as a fault with a code."""
    code = "image-unreadable"
    with suppress(OSError, ValueError):
        if not photo.exists():
            code = "image-missing"
        elif photo.stat().st_size == 0:
            code = "image-empty"
        elif "truncated JPEG" in error.message or "truncated or damaged PNG" in error.message or _cut_off(photo):
            code = "image-truncated"
    return Fault(code, error.message, file=error.file, found=error.found, expected=error.expected, photo=photo)


def _cut_off(photo: Path) -> bool:
    """Whether a file begins like a JPEG or PNG and ends before its size is said."""
    with photo.open("rb") as stream:
        starts_well = stream.read(8).startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))
        stream.seek(0)
        return starts_well and read_image_header(stream) is None


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
