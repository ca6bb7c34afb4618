"""The bytes of an image file -> upright pixels, or one line that says what is wrong with them.

The only place where EXIF orientation is applied. OpenCV is imported on first use.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.errors import DataError
from detkit.image_header import ImageHeader, is_whole_jpeg, pixels_of_png, read_image_header
from detkit.opencv import load_cv2

_MAX_PIXELS = 200_000_000
_ORIENTED_HERE = ("jpeg", "png", "webp")  # OpenCV turns the other kinds itself, or they carry no EXIF
_KINDS = "a JPEG, PNG, WebP, BMP, GIF or TIFF image"


def checked_header(data: bytes, name: str) -> ImageHeader | None:
    """The header of an image held in memory, or None where its kind is not known.

    Raises:
        DataError: no bytes, or more pixels than are decoded.
    """
    if not data:
        raise DataError("is empty", file=name, found="0 bytes", expected=_KINDS)
    header = read_image_header(BytesIO(data))
    if header is not None and header.stored_hw[0] * header.stored_hw[1] > _MAX_PIXELS:
        found = f"{header.stored_hw[1]} x {header.stored_hw[0]} pixels"
        raise DataError("is too large an image", file=name, found=found, expected=f"up to {_MAX_PIXELS:,} pixels")
    return header


def decode_bgr(data: bytes, name: str, header: ImageHeader | None, reduction: int = 1) -> NDArray[np.uint8]:
    """Decode an image file held in memory.

    Args:
        data, name: the whole file, and its name for error messages.
        header: what `checked_header` gave.
        reduction: 2, 4 or 8 decodes a JPEG at that fraction of its size; the result spans the whole photo.
    Returns:
        Upright, uint8 [H, W, 3], blue first.
    Raises:
        DataError: truncated, damaged or no image.
    """
    if header is None:
        return np.asarray(_decoded(data, name, None))
    pixels = _decoded(_whole(data, name, header), name, header, reduction)
    if reduction > 1:
        pixels = _spanning(pixels, header.stored_hw, reduction)
    if pixels.shape[2] == 4:
        pixels = _on_white(pixels)
    if header.kind in _ORIENTED_HERE:
        pixels = _upright(pixels, header.orientation)
    return np.asarray(pixels)


def _whole(data: bytes, name: str, header: ImageHeader) -> bytes:
    """The bytes to decode, once it is certain that none are missing: decoders fill gaps with grey and say nothing."""
    if header.kind == "jpeg" and not is_whole_jpeg(data):
        found = f"{len(data):,} bytes without an end-of-image marker"
        raise DataError("is a truncated JPEG", file=name, found=found, expected="a whole file")
    if header.kind != "png":
        return data
    pixel_data = pixels_of_png(data)
    if pixel_data is None:
        found = f"a missing chunk or a wrong checksum in {len(data):,} bytes"
        raise DataError("is a truncated or damaged PNG", file=name, found=found, expected="a whole file")
    return pixel_data


def _decoded(data: bytes, name: str, header: ImageHeader | None, reduction: int = 1) -> Any:
    """Pixels as OpenCV gives them: uint8 BGR, or BGRA of 8 or 16 bits for what may be transparent."""
    cv2 = load_cv2()
    flags = cv2.IMREAD_COLOR
    if header is not None and header.kind in _ORIENTED_HERE:
        flags = cv2.IMREAD_UNCHANGED if header.has_alpha else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    if reduction > 1:
        flags = getattr(cv2, f"IMREAD_REDUCED_COLOR_{reduction}") | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is not None:
        return pixels
    if header is None:
        raise DataError("is not an image", file=name, found=f"a file that starts with {data[:8]!r}", expected=_KINDS)
    found = f"a damaged, truncated or unsupported {header.kind.upper()}"
    raise DataError("cannot be decoded", file=name, found=found, expected=_KINDS)


def _spanning(pixels: Any, stored_hw: tuple[int, int], reduction: int) -> Any:
    """Reduced pixels that end where the photo does.

    The last column and row of a photo whose sides the reduction does not divide hold padding beside the photo's edge;
    left there, it would move every box by up to half a canvas pixel.
    """
    if all(side % reduction == 0 for side in stored_hw):
        return pixels
    cv2, (height, width) = load_cv2(), pixels.shape[:2]
    scale_x, scale_y = stored_hw[1] / reduction / width, stored_hw[0] / reduction / height
    back = np.array([[scale_x, 0, scale_x / 2 - 0.5], [0, scale_y, scale_y / 2 - 0.5]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP  # sharper than linear, which would blur edges twice
    return cv2.warpAffine(pixels, back, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _on_white(pixels_bgra: Any) -> Any:
    if pixels_bgra.dtype == np.uint16:
        pixels_bgra = (pixels_bgra >> 8).astype(np.uint8)
    color, alpha = pixels_bgra[:, :, :3], pixels_bgra[:, :, 3:]
    if alpha.min() == 255:
        return color
    return ((color.astype(np.uint16) * alpha + 255 * (255 - alpha.astype(np.uint16)) + 127) // 255).astype(np.uint8)


def _upright(pixels: Any, orientation: int) -> Any:
    """Undo EXIF orientation: 5 to 8 lie on their side; then 2, 3, 6 and 7 mirror x, and 3, 4, 7 and 8 mirror y."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
