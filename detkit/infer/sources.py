"""Where pictures come from: files, folders, patterns, lists, archives, pipes, cameras and URLs, found before reading.

What `detkit detect` takes: "-" is standard input, then come URLs, files and folders, cameras and glob patterns, so that
a file that is really called "0" or "a[1].jpg" wins over the camera and the pattern.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Hashable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from detkit.data.folders import PHOTO_SUFFIXES
from detkit.errors import DataError, DetkitError
from detkit.images import read_image_bytes
from detkit.infer.addresses import camera_item, fetch_photo, masked, url_item
from detkit.infer.frames import Item
from detkit.infer.kinds import (
    VIDEO_SUFFIXES,
    is_archive,
    is_typescript,
    kind_of_file,
    kind_of_name,
    photo_suffix,
    starts_like_video,
)
from detkit.infer.lists import LIST_SUFFIXES, ListedPath, parse_paths
from detkit.infer.refused import Refused

if TYPE_CHECKING:
    from detkit.infer.archive_reader import ArchiveReader

STDIN = "-"


def find_items(
    sources: str | Path | Item | Iterable[str | Path | Item],
    leave_out: Path | None = None,
    *,
    stdin: BinaryIO | None = None,
) -> tuple[Item, ...]:
    """Find the photos, videos and streams of any sources.

    Args:
        sources: image and video files; folders (photos and videos in all they hold, hidden files and archives apart);
            glob patterns; .txt and .lst files and "-" with a path a line; zip and tar archives; "-" with an image;
            cameras ("0", "cam0", "/dev/video0"); URLs. An `Item` stays what it is.
        leave_out: a folder not to look into: where results go.
        stdin: what "-" reads; the program's standard input by default.
    Returns:
        The items in the order given, folders in natural order (2.jpg before 10.jpg); each file once. What a list or
        an archive names and cannot be read is a `Refused` item in its place.
    Raises:
        DataError: a source that is missing, damaged or empty.
        UsageError: a URL of a kind that is not read.
    """
    given = [sources] if isinstance(sources, (str, Path, Item)) else list(sources)
    finder = _Finder(leave_out, stdin)
    found: dict[Hashable, Item] = {}
    for source in given:
        for item in [source] if isinstance(source, Item) else finder.find(str(source)):
            found.setdefault(finder.identity(item), item)
    return _named_apart(found.values())


def read_photo_bytes(item: Item, archives: ArchiveReader | None = None) -> bytes:
    """The bytes of a photo's file, wherever it lies; threads may call it at the same time.

    Args:
        item: a photo that `find_items` found.
        archives: keeps archives open from one call to the next; without, each call opens its own, which takes long
            for a compressed tar.
    Raises:
        DataError: it cannot be read, or is no photo.
    """
    if isinstance(item, Refused):
        raise item.error
    if item.kind != "photo":
        raise DataError(f"is a {item.kind}", file=item.name, expected="a photo")
    if item.data is not None:
        return item.data
    if item.path is not None and item.path.exists() and not item.path.is_file():
        raise DataError("is a device, pipe or folder", file=item.name, expected="an image file")
    if item.member is not None:
        from detkit.infer.archive_reader import ArchiveReader

        reader = archives or ArchiveReader()
        try:
            return reader.read(item)
        finally:
            if archives is None:
                reader.close()
    return read_image_bytes(item.path or item.name) if item.url is None else fetch_photo(item.url, item.name)


def _named_apart(items: Iterable[Item]) -> tuple[Item, ...]:
    """The items, each with its own name: URLs may differ in what is masked, a list may name a missing file twice."""
    times: dict[str, int] = {}
    apart = []
    for item in items:
        count = times[item.name] = times.get(item.name, 0) + 1
        apart.append(item if count == 1 else replace(item, name=f"{item.name} ({count})"))
    return tuple(apart)


class _Finder:
    """What one call of `find_items` keeps in mind."""

    def __init__(self, leave_out: Path | None, stdin: BinaryIO | None) -> None:
        self._leave_out, self._stdin = leave_out, stdin
        self._piped: list[Item] | None = None
        self._real_folders: dict[str, str] = {}

    def find(self, source: str) -> list[Item]:
        """The items of one source."""
        try:
            if source == STDIN:
                return self._in_stdin()
            return self._find_one(source) or self._matching(source)
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", file=source) from error

    def identity(self, item: Item) -> Hashable:
        """Equal for two items that are the same file, member or stream."""
        if isinstance(item, Refused):
            return item.name, str(item.error)
        if item.path is None:
            return item.name, item.url, item.data
        parent, leaf = os.path.split(item.path)
        if parent not in self._real_folders:
            self._real_folders[parent] = os.path.realpath(parent)
        return self._real_folders[parent], leaf, item.member

    def _find_one(self, source: str, *, in_list: bool = False) -> list[Item]:
        """The items of anything but standard input and patterns; none where it is nothing else."""
        address = url_item(source)
        if address is not None:
            return [address]
        path = Path(source)
        if path.is_dir():
            return _in_folder(path, self._leave_out)
        if path.is_file():
            return self._in_file(source, path, lists=not in_list)
        if in_list:
            return []
        if path.is_fifo():  # from `detkit detect <(find photos)`
            return self._in_bytes(path.read_bytes(), source)
        camera = camera_item(source)
        if camera is not None:
            return [camera]
        if path.exists():
            raise DataError("is no image file", file=source)
        return []

    def _in_file(self, source: str, path: Path, *, lists: bool) -> list[Item]:
        if is_archive(source):
            from detkit.infer.archives import find_members

            return find_members(source)
        if lists and path.suffix.lower() in LIST_SUFFIXES:
            return self._listed(path.read_bytes(), source, os.path.dirname(source))  # noqa: PTH120
        return [_file_item(source)]

    def _in_stdin(self) -> list[Item]:
        """What standard input holds; it is read once."""
        if self._piped is None:
            stream = self._stdin or (None if sys.stdin is None else sys.stdin.buffer)
            self._piped = self._in_bytes(b"" if stream is None else stream.read(), STDIN)
        return self._piped

    def _in_bytes(self, data: bytes, name: str) -> list[Item]:
        """The photo that the bytes are, or what they list."""
        shown = "standard input" if name == STDIN else name
        suffix = photo_suffix(data)
        if suffix is not None:
            return [Item(name, Path("stdin" + suffix), data=data)]
        if not data:
            raise DataError("is empty", file=shown, expected="an image, or a path on each line")
        if starts_like_video(data[:1024]):
            raise DataError("is a video; a video is read from a file", file=shown, expected="an image, or paths")
        return self._listed(data, shown, "")

    def _listed(self, data: bytes, name: str, folder: str) -> list[Item]:
        """What a list names; a relative path starts at the list's folder or, if it is not there, at the current one."""
        items = [item for line in parse_paths(data, name) for item in self._in_line(line, name, folder)]
        if not items:
            raise DataError("lists no paths", file=name, expected="a path on each line")
        return items

    def _in_line(self, line: ListedPath, name: str, folder: str) -> list[Item]:
        text = line.text if line.exact else line.text.strip()
        path = _placed((line.text, text), folder)
        if path is None and text.startswith("#") and not line.exact:
            return []
        relative = _safe_relative(masked(text), folder)
        try:
            items = self._find_one(path or text, in_list=True)
            if not items:
                raise DataError("no such file or folder", file=text)
        except (DetkitError, OSError) as error:
            said = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            return [Refused(masked(text), relative, error=DataError(said, file=name, line=line.number))]
        is_the_file = len(items) == 1 and items[0].path == Path(path or text) and items[0].member is None
        return [replace(items[0], relative=relative)] if is_the_file else items

    def _matching(self, pattern: str) -> list[Item]:
        """The photos and videos a pattern matches; where it matches none, whatever else: archives, folders, lists."""
        if not glob.has_magic(pattern):
            raise DataError("no such file or folder", file=pattern)
        matches = sorted(glob.glob(pattern, recursive=True), key=_natural)  # noqa: PTH207  (absolute patterns too)
        if not matches:
            raise DataError("no file matches this pattern", file=pattern)
        chosen = [match for match in matches if kind_of_name(match)] or matches
        return [item for match in chosen for item in self._find_one(match) or [_file_item(match)]]


def _placed(texts: Iterable[str], folder: str) -> str | None:
    """The first that exists, in the list's folder or the current one."""
    candidates = (path for text in dict.fromkeys(texts) if text for path in (os.path.join(folder, text), text))  # noqa: PTH118
    return next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110


def _safe_relative(text: str, folder: str) -> Path:
    """A listed path as one below the folder for results: as it stands there, or its file name where it leads out."""
    below, home = Path(os.path.normpath(text)), Path(folder).absolute()
    if below.is_absolute() and below.is_relative_to(home):
        below = below.relative_to(home)
    if below.anchor or below.parts[:1] == ("..",):
        below = Path(below.name)
    return below if below.name not in ("", "..") else Path("listed")


def _file_item(path: str) -> Item:
    return Item(path, Path(Path(path).name), kind_of_file(path), Path(path))


def _in_folder(folder: Path, leave_out: Path | None) -> list[Item]:
    seen = set() if leave_out is None else {leave_out.resolve()} - {folder.resolve()}
    found: list[str] = []
    refused: list[Item] = []
    archives = 0

    def cannot_list(error: OSError) -> None:
        refusal = DataError(f"cannot be listed: {error.strerror}", file=error.filename)
        if not found and Path(error.filename) == folder:
            raise refusal from error
        refused.append(Refused(str(error.filename), Path(error.filename).relative_to(folder), error=refusal))

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=cannot_list):
        folders[:] = _visible_folders(parent, folders)
        if (real := Path(parent).resolve()) in seen:  # results, a link back up, or a folder linked twice
            folders.clear()
            continue
        seen.add(real)
        visible = [os.path.join(parent, name) for name in files if not name.startswith(".")]  # noqa: PTH118
        found += [path for path in visible if kind_of_name(path) and not is_typescript(path)]
        archives += sum(map(is_archive, visible))
    if not found and not refused:
        hint = f" ({archives} archives, which are read when they are named)" if archives else ""
        kinds = " ".join(sorted(PHOTO_SUFFIXES | VIDEO_SUFFIXES))
        raise DataError(f"no photos or videos in this folder{hint}", file=folder, expected=kinds)
    relative = (Path(path).relative_to(folder) for path in found)
    items = [Item(str(folder / path), path, kind_of_name(path.name) or "photo", folder / path) for path in relative]
    return sorted([*items, *refused], key=lambda item: _natural(str(item.relative)))


def _visible_folders(parent: str, names: Iterable[str]) -> list[str]:
    """In natural order, links last: what can be reached in two ways goes by its own name, whatever the disk's order."""
    visible = (name for name in names if not name.startswith("."))
    return sorted(visible, key=lambda name: (os.path.islink(os.path.join(parent, name)), _natural(name)))  # noqa: PTH114, PTH118


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2.jpg before 10.jpg: runs of digits compare as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]
