"""What kind of thing a file is: by its suffix, or, without one that says so, by its first bytes."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

from detkit.data.folders import PHOTO_SUFFIXES
from detkit.image_header import read_image_header
from detkit.infer.frames import Kind

VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".m2ts", ".3gp",
    ".ogv", ".mjpeg", ".mjpg",
})  # fmt: skip
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_SUFFIX_OF_KIND = {"jpeg": ".jpg", "png": ".png", "gif": ".gif", "bmp": ".bmp", "webp": ".webp", "tiff": ".tif"}
_PHOTO_STARTS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n": ".png"}  # of files cut off before their size is said
_PHOTO_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")  # of files that begin as MP4 does
_VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\0\0\x01\xba", b"\0\0\x01\xb3")  # Matroska, Flash, MPEG


def kind_of_name(name: str) -> Kind | None:
    """ "photo" or "video" by the suffix, or None."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  (lists have a hundred thousand of them)
    return "photo" if suffix in PHOTO_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None


def kind_of_file(path: str) -> Kind:
    """ "video" where the suffix or, failing that, the first bytes say so; anything else is tried as a photo."""
    return kind_of_name(path) or ("video" if starts_like_video(_start(path)) else "photo")


def is_archive(path: str) -> bool:
    """Whether a file is an archive, by its suffix."""
    return path.lower().endswith(ARCHIVE_SUFFIXES)


def starts_like_video(start: bytes) -> bool:
    """Whether a file's first bytes are those of an MP4, Matroska, AVI, Flash, MPEG or transport stream."""
    if start[4:8] == b"ftyp":
        return start[8:12] not in _PHOTO_BRANDS
    is_transport_stream = len(start) > 188 and start[0] == start[188] == 0x47
    return start.startswith(_VIDEO_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"AVI ") or is_transport_stream


def photo_suffix(data: bytes) -> str | None:
    """The suffix of a photo's kind where bytes start like one (it may still be damaged), else None."""
    if data.startswith(b"BM") and data[6:10] != bytes(4):  # a path that starts with BM
        return None
    header = read_image_header(BytesIO(data))
    if header is not None:
        return _SUFFIX_OF_KIND[header.kind]
    return next((suffix for start, suffix in _PHOTO_STARTS.items() if data.startswith(start)), None)


def is_typescript(path: str) -> bool:
    """Whether a .ts file is a program's text, not a transport stream."""
    return path.lower().endswith(".ts") and os.path.isfile(path) and b"\0" not in _start(path)  # noqa: PTH113


def _start(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(1024)
    except OSError:  # said when it is read
        return b""
