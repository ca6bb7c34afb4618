"""What an image file's first bytes say: its kind, size, EXIF orientation and transparency, without decoding pixels."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed FF 00 nor a restart marker
_JPEG_SEGMENTS = frozenset((0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xC0, 0xD0), *range(0xE0, 0xF0)))
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_ORIENTATION = 256, 257, 274


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Kind ("jpeg", "png", ...), stored size in pixels, EXIF orientation 1-8, and whether there may be transparency."""

    kind: str
    stored_hw: tuple[int, int]
    orientation: int = 1
    has_alpha: bool = False

    @property
    def upright_hw(self) -> tuple[int, int]:
        """Size after the EXIF orientation is applied: 5 to 8 swap the sides."""
        return self.stored_hw if self.orientation < 5 else self.stored_hw[::-1]


def read_image_header(stream: BinaryIO) -> ImageHeader | None:
    """Read JPEG, PNG, GIF, BMP, WebP and TIFF headers.

    Args:
        stream: a seekable binary file, at its start.
    Returns:
        The header, or None for another kind of file or one cut off before its size.
    """
    start = stream.read(12)
    stream.seek(0)
    try:
        if start.startswith(b"\xff\xd8\xff"):
            header = _jpeg(stream)
        elif start.startswith(_PNG_MAGIC):
            header = _png(stream)
        elif start[:4] == b"RIFF" and start[8:] == b"WEBP":
            header = _webp(stream)
        elif start.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack("<HH", stream.read(10)[6:])
            header = ImageHeader("gif", (height, width))
        elif start.startswith(b"BM"):
            header = _bmp(stream)
        elif start.startswith((b"II*\0", b"MM\0*")):
            tags = _tiff_tags(stream)
            header = ImageHeader("tiff", (tags[_TIFF_HEIGHT], tags[_TIFF_WIDTH]), _orientation(tags))
        else:
            return None
    except (struct.error, KeyError, IndexError, OverflowError):  # cut off, or its offsets lead nowhere
        return None
    return header if header is not None and min(header.stored_hw) > 0 else None


def is_whole_jpeg(data: bytes) -> bool:
    """Whether an end-of-image marker closes the image; what follows it does not matter, nor thumbnails within."""
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        code = data[marker.start() + 1]
        if code == 0xD9:
            return True
        position = marker.end()
        if code in _JPEG_SEGMENTS:
            position += int.from_bytes(data[position : position + 2], "big")
    return False


def pixels_of_png(data: bytes) -> bytes | None:
    """The PNG with only the chunks that make its pixels, or None where one is missing or its checksum is wrong.

    What is left out (colour profiles, texts, animation) makes libpng print warnings and changes no pixel OpenCV reads.
    """
    parts = [_PNG_MAGIC]
    for kind, start, length in _png_chunks(BytesIO(data)):
        end = start + length + 4
        if kind not in _PNG_PIXEL_CHUNKS:
            continue
        if len(data) < end or zlib.crc32(data[start - 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return None
        parts.append(data[start - 8 : end])
        if kind == b"IEND":
            return b"".join(parts)
    return None


def _jpeg(stream: BinaryIO) -> ImageHeader | None:
    orientation = None
    stream.seek(2)
    while True:
        byte = stream.read(1)
        if not byte:
            return None
        if byte != b"\xff":
            continue
        while (code := stream.read(1)) == b"\xff":
            pass
        if code == b"" or code[0] not in _JPEG_SEGMENTS:
            continue
        (length,) = struct.unpack(">H", stream.read(2))
        end = stream.tell() + length - 2
        if 0xC0 <= code[0] <= 0xCF and code[0] not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">xHH", stream.read(5))
            return ImageHeader("jpeg", (height, width), orientation or 1)
        if code[0] == 0xE1 and orientation is None:
            orientation = _exif_orientation(stream.read(length - 2))
        stream.seek(end)


def _png(stream: BinaryIO) -> ImageHeader | None:
    size_hw, orientation, has_alpha = None, 1, False
    for kind, _, length in _png_chunks(stream):
        if kind == b"IHDR":
            width, height, color_type = struct.unpack(">IIxB", stream.read(10))
            size_hw, has_alpha = (height, width), color_type >= 4
        elif kind == b"tRNS":
            has_alpha = True
        elif kind == b"eXIf":
            orientation = _exif_orientation(b"Exif\0\0" + stream.read(length)) or 1
    return None if size_hw is None else ImageHeader("png", size_hw, orientation, has_alpha)


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's kind, where its data start, and their length."""
    position = len(_PNG_MAGIC)
    while True:
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, position + 8, length
        if kind == b"IEND":
            return
        position += length + 12


def _webp(stream: BinaryIO) -> ImageHeader | None:
    stream.seek(12)
    kind = stream.read(8)[:4]
    body = stream.read(10)
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", body[1:5])
        return ImageHeader("webp", ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1), 1, bool(bits >> 28 & 1))
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return ImageHeader("webp", (height & 0x3FFF, width & 0x3FFF))
    if kind != b"VP8X":
        return None
    width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
    orientation = _webp_orientation(stream) if body[0] & 0x08 else 1
    return ImageHeader("webp", (height, width), orientation, bool(body[0] & 0x10))


def _webp_orientation(stream: BinaryIO) -> int:
    position = 12
    while True:
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8:
            return 1
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            exif = stream.read(length)
            return _exif_orientation(exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif) or 1
        position += 8 + length + length % 2


def _bmp(stream: BinaryIO) -> ImageHeader:
    stream.seek(14)
    (header_length,) = struct.unpack("<I", stream.read(4))
    layout = "<HH" if header_length == 12 else "<ii"
    width, height = struct.unpack(layout, stream.read(struct.calcsize(layout)))
    return ImageHeader("bmp", (abs(height), width))  # a negative height stores the rows from the top


def _exif_orientation(payload: bytes) -> int | None:
    """Orientation 1-8 in an Exif block, or None for another block (XMP)."""
    if not payload.startswith(b"Exif\0\0"):
        return None
    try:
        return _orientation(_tiff_tags(BytesIO(payload[6:])))
    except (struct.error, OverflowError):
        return 1


def _orientation(tags: dict[int, int]) -> int:
    value = tags.get(_TIFF_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def _tiff_tags(stream: BinaryIO) -> dict[int, int]:
    """The first value of each integer tag in the first directory."""
    order = ">" if stream.read(2) == b"MM" else "<"
    (directory,) = struct.unpack(order + "2xI", stream.read(6))
    stream.seek(directory)
    (count,) = struct.unpack(order + "H", stream.read(2))
    tags = {}
    for _ in range(count):
        tag, kind, _, value = struct.unpack(order + "HHI4s", stream.read(12))
        if kind in (3, 4):  # SHORT, LONG
            tags[tag] = struct.unpack(order + ("H2x" if kind == 3 else "I"), value)[0]
    return tags
