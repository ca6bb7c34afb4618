"""Images as uint8 [H, W, 3] RGB, upright: read and write files, fit to a model's canvas, and carry boxes back.

The only place where BGR meets RGB and where EXIF orientation is applied. OpenCV is imported on first use.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit import boxes
from detkit.errors import DataError, UsageError
from detkit.files import replacing
from detkit.image_header import ImageHeader, is_whole_jpeg, pixels_of_png, read_image_header
from detkit.opencv import load_cv2

Image = NDArray[np.uint8]
Fit = Literal["letterbox", "stretch"]

_MAX_PIXELS = 200_000_000
_MAX_FILE_BYTES = 1 << 30
_ORIENTED_HERE = ("jpeg", "png", "webp")  # OpenCV turns the other kinds itself, or they carry no EXIF
_KINDS = "a JPEG, PNG, WebP, BMP, GIF or TIFF image"


def read_image(path: Path | str) -> Image:
    """Read an image file as upright RGB; see `decode_image`.

    Returns:
        uint8 [H, W, 3].
    Raises:
        DataError: missing, a directory, empty, truncated, damaged, too large, or no image.
    """
    try:
        with Path(path).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > _MAX_FILE_BYTES:
                raise DataError("is too large for an image", file=path, found=f"{size:,} bytes", expected="up to 1 GiB")
            data = stream.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Image:
    """Decode an image file held in memory.

    EXIF orientation is applied, 16 bits a channel become 8 by dropping the low ones, grey becomes three equal
    channels, a transparent PNG or WebP is laid on white, and of an animation the first frame is taken.

    Args:
        data: the whole file.
        name: its name for error messages.
    Returns:
        uint8 [H, W, 3].
    Raises:
        DataError: empty, truncated, damaged, too large, or no image.
    """
    if not data:
        raise DataError("is empty", file=name, found="0 bytes", expected=_KINDS)
    header = read_image_header(BytesIO(data))
    if header is None:
        pixels = _decoded(data, name, None)
        return np.ascontiguousarray(pixels[:, :, ::-1])
    if header.stored_hw[0] * header.stored_hw[1] > _MAX_PIXELS:
        found = f"{header.stored_hw[1]} x {header.stored_hw[0]} pixels"
        raise DataError("is too large an image", file=name, found=found, expected=f"up to {_MAX_PIXELS:,} pixels")
    pixels = _decoded(_whole(data, name, header), name, header)
    if pixels.shape[2] == 4:
        pixels = _on_white(pixels)
    if header.kind in _ORIENTED_HERE:
        pixels = _upright(pixels, header.orientation)
    return np.ascontiguousarray(pixels[:, :, ::-1])


def read_size_hw(path: Path | str) -> tuple[int, int]:
    """Height and width of the upright image, from its header where the kind is known, so in well under 1 ms.

    Raises:
        DataError: missing, a directory, empty, or no image. Damage after the header goes unnoticed.
    """
    try:
        with Path(path).open("rb") as stream:
            header = read_image_header(stream)
    except OSError as error:
        raise _unreadable(path, error) from error
    if header is not None:
        return header.upright_hw
    height, width, _ = read_image(path).shape
    return height, width


def write_image(path: Path | str, image_rgb: Image) -> None:
    """Write an RGB image in the format its suffix names; a reader never sees a half-written file.

    Args:
        path: .jpg, .png, .webp, .bmp or .tiff, in a folder that exists.
        image_rgb: uint8 [H, W, 3].
    Raises:
        UsageError: the suffix names no format OpenCV writes.
        RunError: the file cannot be written.
    """
    cv2, target = load_cv2(), Path(path)
    image_bgr = np.ascontiguousarray(_checked(image_rgb)[:, :, ::-1])
    try:
        done, data = cv2.imencode(target.suffix or ".", image_bgr)
    except cv2.error as error:
        found = target.suffix or "no suffix"
        raise UsageError("cannot be written as an image", file=path, found=found, expected=".jpg or .png") from error
    if not done:
        raise DataError("cannot be encoded", file=path, found=f"{image_bgr.shape[1]} x {image_bgr.shape[0]} pixels")
    with replacing(target) as partial:
        partial.write_bytes(data.tobytes())


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image lies on a canvas: canvas = image * scale + offset, in pixels.

    Args:
        canvas_hw: height and width of the canvas.
        image_hw: height and width of the image before it was placed.
        scale_xy: canvas pixels per image pixel.
        offset_xy: the image's top-left corner on the canvas.
    """

    canvas_hw: tuple[int, int]
    image_hw: tuple[int, int]
    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float]

    def to_canvas(self, boxes_xyxy: ArrayLike) -> boxes.FloatArray:
        """Boxes [N, 4] on the image -> the same on the canvas."""
        return boxes.shift(boxes.scale(boxes_xyxy, self.scale_xy), self.offset_xy)

    def to_image(self, boxes_xyxy: ArrayLike) -> boxes.FloatArray:
        """Boxes [N, 4] on the canvas -> the same on the image, clipped to it."""
        (scale_x, scale_y), (offset_x, offset_y) = self.scale_xy, self.offset_xy
        moved = boxes.shift(boxes_xyxy, (-offset_x, -offset_y))
        return boxes.clip(boxes.scale(moved, (1 / scale_x, 1 / scale_y)), self.image_hw)

    def points_to_canvas(self, points_xyv: ArrayLike) -> NDArray[np.float32]:
        """Points [N, P, 3] on the image -> the same on the canvas; visibility stays."""
        scale, offset = np.array([*self.scale_xy, 1], np.float32), np.array([*self.offset_xy, 0], np.float32)
        return np.asarray(np.asarray(points_xyv, np.float32) * scale + offset)

    def points_to_image(self, points_xyv: ArrayLike) -> NDArray[np.float32]:
        """Points [N, P, 3] on the canvas -> the same on the image, not clipped; visibility stays."""
        scale, offset = np.array([*self.scale_xy, 1], np.float32), np.array([*self.offset_xy, 0], np.float32)
        return np.asarray((np.asarray(points_xyv, np.float32) - offset) / scale)


def place(image_rgb: Image, canvas_hw: tuple[int, int], fit: Fit, pad_value: int = 114) -> tuple[Image, Placement]:
    """Fit an image to a canvas as a model card says: "letterbox" or "stretch"."""
    if fit == "letterbox":
        return letterbox(image_rgb, canvas_hw, pad_value)
    if fit == "stretch":
        return stretch(image_rgb, canvas_hw)
    raise ValueError(f'fit is {fit!r}, expected "letterbox" or "stretch"')


def letterbox(image_rgb: Image, canvas_hw: tuple[int, int], pad_value: int = 114) -> tuple[Image, Placement]:
    """Scale an image to the largest size that fits, keeping its shape, and centre it on a grey canvas.

    Args:
        image_rgb: uint8 [H, W, 3].
        canvas_hw: height and width of the canvas in pixels.
        pad_value: brightness of the border, 0-255.
    Returns:
        The canvas, uint8 [*canvas_hw, 3], and where the image lies on it.
    """
    height, width = _checked(image_rgb).shape[:2]
    canvas_height, canvas_width = canvas_hw
    ratio = min(canvas_height / height, canvas_width / width)
    inner_hw = max(1, round(height * ratio)), max(1, round(width * ratio))
    top, left = (canvas_height - inner_hw[0]) // 2, (canvas_width - inner_hw[1]) // 2
    canvas = np.full((canvas_height, canvas_width, 3), pad_value, np.uint8)
    canvas[top : top + inner_hw[0], left : left + inner_hw[1]] = _resized(image_rgb, inner_hw)
    scale_xy = inner_hw[1] / width, inner_hw[0] / height
    return canvas, Placement((canvas_height, canvas_width), (height, width), scale_xy, (float(left), float(top)))


def stretch(image_rgb: Image, canvas_hw: tuple[int, int]) -> tuple[Image, Placement]:
    """Scale an image to fill the canvas, each axis by its own factor; see `letterbox`."""
    height, width = _checked(image_rgb).shape[:2]
    canvas_height, canvas_width = canvas_hw
    scale_xy = canvas_width / width, canvas_height / height
    placement = Placement((canvas_height, canvas_width), (height, width), scale_xy, (0.0, 0.0))
    return _resized(image_rgb, placement.canvas_hw), placement


def _resized(image: Image, size_hw: tuple[int, int]) -> Image:
    """A copy of that size: what shrinks is averaged over areas, what grows is interpolated."""
    cv2 = load_cv2()
    shrunk_hw = min(image.shape[0], size_hw[0]), min(image.shape[1], size_hw[1])
    if shrunk_hw != image.shape[:2]:
        image = cv2.resize(image, shrunk_hw[::-1], interpolation=cv2.INTER_AREA)
    if shrunk_hw != size_hw:
        image = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    return image.copy()


def _checked(image_rgb: Image) -> Image:
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.size == 0:
        raise ValueError(f"image is {image_rgb.dtype} {image_rgb.shape}, expected uint8 (H, W, 3) and not empty")
    return image_rgb


def _unreadable(path: Path | str, error: OSError) -> DataError:
    found = "a directory" if isinstance(error, IsADirectoryError) else error.strerror
    if isinstance(error, FileNotFoundError):
        found = "no such file"
    return DataError("cannot be read", file=path, found=found, expected="an image file")


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


def _decoded(data: bytes, name: str, header: ImageHeader | None) -> Any:
    """Pixels as OpenCV gives them: uint8 BGR, or BGRA of 8 or 16 bits for what may be transparent."""
    cv2 = load_cv2()
    flags = cv2.IMREAD_COLOR
    if header is not None and header.kind in _ORIENTED_HERE:
        flags = cv2.IMREAD_UNCHANGED if header.has_alpha else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
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
