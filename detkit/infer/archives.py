"""The photos in zip and tar archives: nothing is written to disk, and no name leads out of the archive.

Members keep the order they lie in, since a compressed tar can only be read quickly from its start to its end.
"""

from __future__ import annotations

import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from detkit.data.folders import PHOTO_SUFFIXES
from detkit.errors import DataError
from detkit.images import MAX_FILE_BYTES
from detkit.infer.frames import Item
from detkit.infer.kinds import kind_of_name
from detkit.infer.refused import Refused

_ENCRYPTED, _UTF8_NAME = 0x1, 0x800  # bits of a zip member's flags
DAMAGE = (  # what the standard library raises, depending on where the damage is
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error,
    EOFError, OSError, RuntimeError, ValueError, IndexError, KeyError, OverflowError,
)  # fmt: skip


class _Member(NamedTuple):
    """One file of an archive: its key there, its name for people, and why it cannot be read, if so."""

    key: str
    shown: str
    fault: str | None


def find_members(archive: str) -> list[Item]:
    """The photos in an archive, in the order they lie there; hidden files, other files and archives within are left.

    A photo or video that cannot be read (a name that leads out of the archive, a link, an encrypted member, any video)
    is an item whose reading says why.

    Raises:
        DataError: the archive is damaged or holds no photos.
    """
    try:
        members = list(_zip_members(archive) if archive.lower().endswith(".zip") else _tar_members(archive))
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError("is a damaged archive, or none", file=archive, found=reason(error)) from error
    items: list[Item] = []
    times: dict[str, int] = {}
    for key, shown, fault in members:
        name, relative = f"{archive}/{shown}", safe_relative(shown)
        if relative is None:
            fault = "its name leads out of the archive"
        elif any(part.startswith(".") or part == "__MACOSX" for part in relative.parts):
            continue
        times[key] = times.get(key, 0) + 1
        if times[key] > 1:
            name, fault = f"{name} ({times[key]})", "is in the archive once more under this name; the first is read"
        if fault is None and relative is not None:
            items.append(Item(name, relative, path=Path(archive), member=key))
        else:
            items.append(Refused(name, relative or Path("refused"), error=DataError(fault or "", file=name)))
    if not items:
        raise DataError("no photos in this archive", file=archive, expected=" ".join(sorted(PHOTO_SUFFIXES)))
    return items


def safe_relative(name: str) -> Path | None:
    r"""A member's name as a path that stays below wherever it is put, or None where it does not.

    `\` separates folders like `/`, as archives made on Windows have it.
    """
    text = name.replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or "\0" in text or text.startswith("/"):
        return None
    if any(not part.strip(" .") or re.match("[A-Za-z]:", part) for part in parts):  # "..", ".. ", a drive
        return None
    return Path(*parts)


def _zip_members(archive: str) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = info.external_attr >> 16
            shown = info.filename
            if not info.flag_bits & _UTF8_NAME:  # many programs write UTF-8 and do not say so
                with suppress(UnicodeError):
                    shown = shown.encode("cp437").decode()
            if info.is_dir() or not _concerns_us(shown):
                continue
            fault = _fault(shown, info.file_size)
            if info.flag_bits & _ENCRYPTED:
                fault = "is encrypted"
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                fault = f"is {'a link' if stat.S_ISLNK(mode) else 'no file'}; only files are read"
            yield _Member(info.filename, shown, fault)


def _tar_members(archive: str) -> Iterator[_Member]:
    with open_tar(Path(archive)) as file:
        last = -1
        for info in file:
            if info.offset <= last:
                raise ValueError("a size that leads backwards")
            last = info.offset
            if info.isdir() or not _concerns_us(info.name):
                continue
            fault = _fault(info.name, info.size)
            if not info.isreg():
                linked = f"a link to {info.linkname}" if info.issym() or info.islnk() else "no file"
                fault = f"is {linked}; only files are read"
            yield _Member(info.name, info.name, fault)
        _check_end(file)


def _concerns_us(name: str) -> bool:
    return kind_of_name(name.replace("\\", "/")) is not None


def _fault(name: str, size: int) -> str | None:
    if kind_of_name(name) == "video":
        return "is a video in an archive, where videos are not read; unpack it first"
    return f"is too large for an image: {size:,} bytes" if size > MAX_FILE_BYTES else None


def open_tar(path: Path) -> tarfile.TarFile:
    """Open a tar archive of any compression; names that are no UTF-8 stay what they are."""
    return tarfile.open(path, "r:*", encoding="utf-8", errors="surrogateescape")


def is_compressed(file: tarfile.TarFile) -> bool:
    """Whether going back means decompressing from the start."""
    return not isinstance(file.fileobj, io.BufferedReader)


def _check_end(file: tarfile.TarFile) -> None:
    """ValueError unless the archive ends as it should: the library takes a damaged header in the middle for the end."""
    stream: Any = file.fileobj
    stream.seek(file.offset)
    end = stream.read(tarfile.BLOCKSIZE)
    if end != bytes(tarfile.BLOCKSIZE):
        raise ValueError("a damaged header in the middle" if end else "a file that ends without an end mark")
    while is_compressed(file) and stream.read(1 << 20):  # checks the checksum at the end
        pass


def reason(error: Exception) -> str:
    """What the standard library says, in one line."""
    text = str(error).strip().split("\n")[0]
    return text if text and not isinstance(error, KeyError) else type(error).__name__
