"""Where frames come from: image files, folders and glob patterns, found first and read one by one."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from detkit.data.folders import PHOTO_SUFFIXES
from detkit.errors import DataError, UsageError
from detkit.images import read_image
from detkit.infer.frames import Frame, Item, Unreadable

_VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"})


def find_images(sources: str | Path | Iterable[str | Path | Item], leave_out: Path | None = None) -> tuple[Item, ...]:
    """Find the images of files, folders (with all they hold, hidden files apart) and glob patterns.

    Args:
        sources: one or more of them; an `Item` stays what it is.
        leave_out: a folder not to look into: where results go.
    Returns:
        The items in the order given, folders in natural order (2.jpg before 10.jpg); each file once.
    Raises:
        DataError: a source that is missing or has no images.
        UsageError: a video, which this version does not read.
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    found: dict[Path, Item] = {}
    for source in given:
        try:
            items = [source] if isinstance(source, Item) else _find(str(source), leave_out)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", file=str(source)) from error
        for item in items:
            found.setdefault(Path(os.path.abspath(item.path or item.name)), item)  # noqa: PTH100  (undoes "a/../")
    return tuple(found.values())


def read_frames(items: Iterable[Item]) -> Iterator[Frame | Unreadable]:
    """Read each item in turn; one that cannot be read is reported in its place and the rest go on."""
    for index, item in enumerate(items):
        try:
            image_rgb = read_image(item.path or item.name)
        except DataError as error:
            yield Unreadable(item.name, index, error, item)
        else:
            yield Frame(image_rgb, index, None, item.name, item)


def _find(source: str, leave_out: Path | None) -> list[Item]:
    path = Path(source)
    if path.is_dir():
        return _in_folder(path, leave_out)
    if path.is_file():
        if path.suffix.lower() in _VIDEO_SUFFIXES:
            raise UsageError("is a video; this version of detkit reads photos only", file=path)
        return [Item(source, Path(path.name), path=path)]
    if glob.has_magic(source):
        matches = sorted(glob.glob(source, recursive=True), key=_natural)  # noqa: PTH207  (absolute patterns too)
        images = [match for match in matches if Path(match).suffix.lower() in PHOTO_SUFFIXES]
        if not matches:
            raise DataError("no file matches this pattern", file=source)
        return [item for match in images or matches[:1] for item in _find(match, leave_out)]
    raise DataError("is no image file" if path.exists() else "no such file or folder", file=source)


def _in_folder(folder: Path, leave_out: Path | None) -> list[Item]:
    seen = set() if leave_out is None else {leave_out.resolve()} - {folder.resolve()}
    found: list[Path] = []
    videos = 0
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_cannot_list):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := Path(parent).resolve()) in seen:  # results, a link back up, or a folder linked twice
            folders.clear()
            continue
        seen.add(real)
        visible = [Path(parent, name) for name in files if not name.startswith(".")]
        found += [path.relative_to(folder) for path in visible if path.suffix.lower() in PHOTO_SUFFIXES]
        videos += sum(path.suffix.lower() in _VIDEO_SUFFIXES for path in visible)
    if not found:
        hint = f" ({videos} videos, which this version of detkit does not read)" if videos else ""
        raise DataError(f"no images in this folder{hint}", file=folder, expected=" ".join(sorted(PHOTO_SUFFIXES)))
    found.sort(key=lambda path: _natural(str(path)))
    return [Item(str(folder / path), path, path=folder / path) for path in found]


def _cannot_list(error: OSError) -> None:
    raise DataError(f"cannot be listed: {error.strerror}", file=error.filename) from error


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2.jpg before 10.jpg: runs of digits compare as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]
