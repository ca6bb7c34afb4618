"""Photos of all kinds in folders, archives and a list, bad ones among them, for tests of whole runs of `detect`."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from small_videos import make_video

RED_LEFT, BLUE_RIGHT = "red", "blue"
GOOD_KINDS = (
    "photo.jpg", "grey.jpg", "turned.jpg", "cmyk.jpg", "photo.png", "deep.png", "clear.png",
    "photo.bmp", "photo.webp", "photo.tiff", "photo.gif",
)  # fmt: skip
BAD_KINDS = (
    "empty.jpg", "text.png", "half.jpg", "half.png", "bomb.png", "dangling.jpg", "film.mp4", "half.webp", "noise.gif",
    "folder-link.bmp",
)  # fmt: skip


@dataclass(slots=True)
class Mixed:
    """What was made.

    Args:
        sources: arguments for `detkit detect`.
        good: the name of each photo that can be read, and the class that is found in it (None: both or none).
        bad: the names of those that cannot.
        frames: of each video.
    """

    sources: list[str] = field(default_factory=list)
    good: dict[str, str | None] = field(default_factory=dict)
    bad: set[str] = field(default_factory=set)
    frames: dict[str, int] = field(default_factory=dict)


def make_mixed(folder: Path, count: int, bad_every: int = 10, film_frames: int = 25) -> Mixed:
    """Write about `count` photos, one in `bad_every` of them bad: most in folders, some in archives and a list."""
    made = Mixed()
    photos = folder / "photos"
    for number in range(count):
        parent = photos / f"day {number % 7}" / ("late" if number % 3 else "")
        parent.mkdir(parents=True, exist_ok=True)
        if number % bad_every == bad_every - 1:
            path = _bad(parent, number, BAD_KINDS[number // bad_every % len(BAD_KINDS)])
            made.bad.add(str(path))
        else:
            kind = GOOD_KINDS[number % len(GOOD_KINDS)]
            path = parent / f"{number}-{kind}"
            path.write_bytes(photo_bytes(kind, number))
            made.good[str(path)] = class_in(kind, number)
    film = make_video(photos / "film.mp4", film_frames, sounds=[("aac", film_frames / 25)])
    made.frames[str(film)] = film_frames
    made.sources.append(str(photos))
    for add in (_add_zip, _add_tar, _add_list):
        add(folder, made)
    return made


def class_in(kind: str, number: int) -> str | None:
    """The class the fake model finds in a photo: red ones and blue ones take turns."""
    return None if kind.startswith(("grey", "cmyk")) else (RED_LEFT, BLUE_RIGHT)[number % 2]


def photo_bytes(kind: str, number: int) -> bytes:
    """A photo whose left half is red, or whose right half is blue; `number` changes its size and a few pixels."""
    height, width = 24 + number % 13, 32 + number % 17
    image_bgr = np.zeros((height, width, 3), np.uint8)
    half = slice(None, width // 2) if number % 2 == 0 else slice(width // 2, None)
    image_bgr[:, half, 2 if number % 2 == 0 else 0] = 255
    image_bgr[0, :8, 1] = [255 * (number >> bit & 1) for bit in range(8)]
    style, _, suffix = kind.partition(".")
    if style == "cmyk":
        return _with_pillow(image_bgr, "JPEG", "CMYK")
    if suffix == "gif":
        return _with_pillow(image_bgr, "GIF", "P")
    image: NDArray[Any] = image_bgr
    if style == "grey":
        image = image_bgr.max(axis=2)
    elif style == "deep":
        image = image_bgr.astype(np.uint16) * 257
    elif style == "clear":
        image = np.dstack([image_bgr, np.full(image_bgr.shape[:2], 255, np.uint8)])
    elif style == "turned":  # EXIF 6: stored on its side, to be turned 90 degrees clockwise
        return _turned(cv2.imencode(".jpg", np.rot90(image_bgr))[1].tobytes())
    return cv2.imencode(f".{suffix}", image)[1].tobytes()


def _with_pillow(image_bgr: NDArray[np.uint8], form: str, mode: str) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image_bgr[:, :, ::-1]).convert(mode).save(stream, form)
    return stream.getvalue()


def _turned(jpeg: bytes) -> bytes:
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([6, 0, 0, 0, 0, 0, 0, 0])
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]


def _bad(parent: Path, number: int, kind: str) -> Path:
    path = parent / f"{number}-{kind}"
    if kind == "dangling.jpg":
        path.symlink_to("nowhere.jpg")
    elif kind == "folder-link.bmp":  # a link in a circle
        path.symlink_to(path.name)
    else:
        path.write_bytes(_bad_bytes(kind, number))
    return path


def _bad_bytes(kind: str, number: int) -> bytes:
    if kind == "empty.jpg":
        return b""
    if kind == "text.png":
        return b"this is no picture\n"
    if kind == "bomb.png":  # says it has 60,000 x 60,000 pixels
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        check = zlib.crc32(b"IHDR" + header)
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", check)
    if kind == "film.mp4":
        return b"\0\0\0\x18ftypmp42" + bytes(400)
    if kind == "noise.gif":
        return b"GIF89a" + np.random.default_rng(number).integers(0, 256, 50, np.uint8).tobytes()
    whole = photo_bytes(kind.replace("half", "photo"), number)
    return whole[: len(whole) // 2]


def _add_zip(folder: Path, made: Mixed) -> None:
    path = folder / "more.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(8):
            archive.writestr(f"in zip/{number}.png", photo_bytes("photo.png", number))
            made.good[f"{path}/in zip/{number}.png"] = class_in("photo.png", number)
        damaged = photo_bytes("photo.png", 77)
        archive.writestr("in zip/damaged.png", damaged)
        archive.writestr("../../out.png", damaged)
    data = bytearray(path.read_bytes())
    at = data.rindex(damaged[:60], 0, data.rindex(damaged))  # the first of the two
    data[at + len(damaged) // 2] ^= 0xFF  # its checksum does not hold any more
    path.write_bytes(data)
    made.bad |= {f"{path}/in zip/damaged.png", f"{path}/../../out.png"}
    made.sources.append(str(path))


def _add_tar(folder: Path, made: Mixed) -> None:
    path = folder / "more.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(8):
            data = photo_bytes("photo.jpg", number)
            member = tarfile.TarInfo(f"in tar/{number}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            made.good[f"{path}/in tar/{number}.jpg"] = class_in("photo.jpg", number)
        link = tarfile.TarInfo("in tar/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    made.bad.add(f"{path}/in tar/link.jpg")
    made.sources.append(str(path))


def _add_list(folder: Path, made: Mixed) -> None:
    (folder / "listed").mkdir()
    lines = []
    for number in range(4):
        path = folder / "listed" / f"{number}.webp"
        path.write_bytes(photo_bytes("photo.webp", number))
        made.good[str(path)] = class_in("photo.webp", number)
        lines.append(f"listed/{number}.webp")
    lines.insert(2, "listed/missing.jpg")
    made.bad.add("listed/missing.jpg")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    made.sources.append(str(folder / "list.txt"))
