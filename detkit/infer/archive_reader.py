"""Members of zip and tar archives, read in place by several threads."""

from __future__ import annotations

import tarfile
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO

from detkit.errors import DataError
from detkit.images import MAX_FILE_BYTES
from detkit.infer.archives import DAMAGE, is_compressed, open_tar, reason
from detkit.infer.frames import Item
from detkit.infer.kinds import kind_of_name

_OPEN_ARCHIVES = 8  # files kept open at a time
_KEPT_BYTES = 64 << 20  # of members of a compressed tar that were passed before someone asked for them


class ArchiveReader:
    """Reads members of any number of archives, which it keeps open; threads may share it."""

    def __init__(self) -> None:
        self._archives: OrderedDict[Path, _Zip | _Tar] = OrderedDict()  # latest used last
        self._lock = threading.Lock()

    def read(self, item: Item) -> bytes:
        """The bytes of the photo `item.member` in the archive `item.path`.

        In a compressed tar, items are best asked for in their order, though not to the dot: what was passed is kept for
        a while. Going back means decompressing from the start.

        Raises:
            DataError: it cannot be read, or is larger than 1 GiB.
        """
        if item.path is None or item.member is None:
            raise ValueError(f"{item.name} is no member of an archive")
        try:
            return self._archive(item.path).read(item.member)
        except DAMAGE as error:
            raise DataError("cannot be read from its archive", file=item.name, found=reason(error)) from error

    def close(self) -> None:
        """Close all archives; reading opens them again."""
        with self._lock:
            archives, self._archives = self._archives, OrderedDict()
        for archive in archives.values():
            archive.close()

    def _archive(self, path: Path) -> _Zip | _Tar:
        with self._lock:
            if path not in self._archives:
                self._archives[path] = _Zip(path) if path.suffix.lower() == ".zip" else _Tar(path)
            self._archives.move_to_end(path)
            archive = self._archives[path]
            surplus = self._archives.popitem(last=False)[1] if len(self._archives) > _OPEN_ARCHIVES else None
        if surplus is not None:
            surplus.close()
        return archive


class _Zip:
    """A zip archive; members are decompressed side by side."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._file: zipfile.ZipFile | None = None
        self._infos: dict[str, zipfile.ZipInfo] = {}

    def read(self, member: str) -> bytes:
        with self._lock:
            if self._file is None:
                self._file = zipfile.ZipFile(self._path)
                self._infos = {info.filename: info for info in reversed(self._file.infolist())}  # the first wins
            info = self._infos[member]
            _check_size(info.file_size)
            stream = self._file.open(info)
        try:
            return _whole(stream, info.file_size)
        finally:
            with self._lock:
                stream.close()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None


class _Tar:
    """A tar archive, compressed or not; one thread reads at a time, and a compressed one forwards where possible."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._file: tarfile.TarFile | None = None
        self._infos: list[tarfile.TarInfo] = []  # as far as they were met
        self._places: dict[str, int] = {}
        self._next = 0  # the place in `_infos` of what follows in the file
        self._kept: dict[str, bytes] = {}
        self._kept_bytes = 0

    def read(self, member: str) -> bytes:
        with self._lock:
            try:
                return self._read(member)
            except DAMAGE:
                self._reset()
                raise

    def close(self) -> None:
        with self._lock:
            self._reset()

    def _read(self, member: str) -> bytes:
        if member in self._kept:
            return self._take(member)
        if self._file is None:
            self._file = open_tar(self._path)
        compressed, place = is_compressed(self._file), self._places.get(member)
        if place is not None and (place < self._next or not compressed):
            self._next = place
        while (info := self._step(self._file)) is not None:
            if info.name == member:
                return self._data(self._file, info)
            if compressed and _is_kept(info):
                self._keep(info.name, self._data(self._file, info))
        raise KeyError(f"no member {member}")

    def _step(self, file: tarfile.TarFile) -> tarfile.TarInfo | None:
        """What follows in the archive."""
        if self._next == len(self._infos):
            info = file.next()
            if info is None:
                return None
            self._places.setdefault(info.name, self._next)
            self._infos.append(info)
        self._next += 1
        return self._infos[self._next - 1]

    def _data(self, file: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
        _check_size(info.size)
        stream = file.extractfile(info) if info.isreg() else None
        if stream is None:
            raise ValueError("no file")
        return _whole(stream, info.size)

    def _keep(self, name: str, data: bytes) -> None:
        if name in self._kept:
            self._take(name)
        self._kept[name] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > _KEPT_BYTES:
            self._take(next(iter(self._kept)))

    def _take(self, name: str) -> bytes:
        data = self._kept.pop(name)
        self._kept_bytes -= len(data)
        return data

    def _reset(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._infos, self._places, self._next = None, [], {}, 0
        self._kept, self._kept_bytes = {}, 0


def _is_kept(info: tarfile.TarInfo) -> bool:
    """Whether someone may ask for a member that is being passed."""
    return info.isreg() and info.size <= _KEPT_BYTES and kind_of_name(info.name) == "photo"


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{size:,} bytes, more than 1 GiB")


def _whole(stream: IO[bytes], size: int) -> bytes:
    """All of a member, and no more than it said it has."""
    data = stream.read(size + 1)
    if len(data) != size:
        raise EOFError(f"{len(data):,} bytes of {size:,}")
    return data
