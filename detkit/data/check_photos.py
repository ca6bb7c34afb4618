"""The photos' part of `detkit data check`: what the files are, whether they decode, whether they fit their labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Sample
from detkit.data.duplicates import image_hash
from detkit.data.findings import Fault, Finding, finding_of
from detkit.data.folders import photo_fault
from detkit.errors import DataError
from detkit.image_header import ImageHeader, read_image_header
from detkit.images import decode_image
from detkit.opencv import load_cv2

_KIND_OF = {".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}
KIND_SUFFIXES = {"jpeg": ".jpg", "tiff": ".tif"}
_SMALL, _THUMBNAIL = 64, 16  # sides in pixels: what the hash is made from, and what settles whether two look the same


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """What is known of one image file; `digest`, `look` and `thumbnail` only after decoding (see `inspect_photos`).

    Args:
        header: None where the file is none of the kinds whose headers are known.
        fault: why it cannot be used.
        look: its `image_hash`. thumbnail: float32 [16, 16], grey.
    """

    path: Path
    header: ImageHeader | None = None
    byte_count: int = 0
    fault: Fault | None = None
    digest: bytes | None = None
    look: int | None = None
    thumbnail: NDArray[np.float32] | None = None


def inspect_photos(paths: Sequence[Path], *, decode: bool = True) -> Iterator[PhotoFacts]:
    """Look at image files in as many threads as there are cores.

    Args:
        paths: the photos.
        decode: read all pixels; otherwise only the headers, which finds no damage behind them.
    Returns:
        One report per photo, in order.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(paths), 256):  # in portions: what is read ahead has to wait in memory
            yield from pool.map(_decoded if decode else _opened, paths[start : start + 256])


def _opened(path: Path) -> PhotoFacts:
    try:
        with path.open("rb") as stream:
            header, size = read_image_header(stream), os.fstat(stream.fileno()).st_size
    except OSError as error:
        return PhotoFacts(path, fault=photo_fault(path, DataError(f"cannot be read: {error.strerror}", file=path)))
    if header is None:
        return _decoded(path)
    return PhotoFacts(path, header, size)


def _decoded(path: Path) -> PhotoFacts:
    header, size = None, 0
    try:
        data = path.read_bytes()
        header, size = read_image_header(BytesIO(data)), len(data)
        image_rgb = decode_image(data, str(path))
    except OSError as error:
        return PhotoFacts(path, fault=photo_fault(path, DataError(f"cannot be read: {error.strerror}", file=path)))
    except DataError as error:
        return PhotoFacts(path, header, size, photo_fault(path, error))
    cv2 = load_cv2()
    small = cv2.resize(image_rgb, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    thumbnail = cv2.resize(grey, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    return PhotoFacts(path, header, size, None, digest_of(data), image_hash(small), thumbnail)


def digest_of(data: bytes) -> bytes:
    """16 bytes that differ for different files."""
    return hashlib.blake2b(data, digest_size=16).digest()


def photo_findings(sample: Sample, facts: PhotoFacts) -> Iterator[Finding]:
    """What is wrong with one photo, by itself and against its labels."""
    path, header = facts.path, facts.header
    if facts.fault is not None:
        yield finding_of(facts.fault)
        return
    if header is None:
        return
    suffix = path.suffix.lower()
    if suffix and _KIND_OF.get(suffix, suffix[1:]) != header.kind:
        expected = KIND_SUFFIXES.get(header.kind, f".{header.kind}")
        what = f"the file is a {header.kind.upper()}"
        yield Finding("image-extension", what, path, photo=path, found=suffix, expected=expected)
    if sample.truth.size_hw != header.upright_hw:
        yield _wrong_size(sample, header)
    elif header.orientation > 1 and len(sample.truth) and (header.orientation < 5 or not _records_size(sample)):
        what = f"EXIF orientation {header.orientation} on a photo with {len(sample.truth)} labels"
        yield Finding("image-orientation", what, path, photo=path)
    if not len(sample.truth):
        yield Finding("image-unlabelled", "no labels", path, photo=path)


def _records_size(sample: Sample) -> bool:
    """Whether the sample's label file records its photo's size (COCO and VOC do)."""
    return sample.label_file is not None and sample.label_file.suffix.lower() in (".json", ".xml")


def _wrong_size(sample: Sample, header: ImageHeader) -> Finding:
    recorded, path = sample.truth.size_hw, sample.image_path
    found = f"{recorded[1]}x{recorded[0]}"
    true = f"{header.upright_hw[1]}x{header.upright_hw[0]}"
    if header.orientation > 4 and recorded == header.stored_hw:
        what = f"labelled on its unrotated pixels, but EXIF orientation {header.orientation} turns it"
        return Finding("image-rotated", what, sample.label_file, photo=path, found=found, expected=true)
    what = f"the recorded size is not that of {path.name}"
    return Finding("image-size-wrong", what, sample.label_file, photo=path, found=found, expected=true)
