"""Images as uint8 [H, W, 3] RGB, upright: read and write files, fit to a model's canvas, and carry boxes back.

The only place where BGR meets RGB. OpenCV is imported on first use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit import boxes
from detkit.decoding import checked_header, decode_bgr
from detkit.errors import DataError, UsageError
from detkit.files import replacing
from detkit.image_header import read_image_header
from detkit.opencv import load_cv2

Image = NDArray[np.uint8]
Fit = Literal["letterbox", "letterbox-corner", "stretch"]

MAX_FILE_BYTES = 1 << 30
_REDUCTIONS = (8, 4, 2)  # what a JPEG can be decoded at a fraction of, largest first


def read_image(path: Path | str) -> Image:
    """Read an image file as upright RGB; see `decode_image`.

    Returns:
        uint8 [H, W, 3].
    Raises:
        DataError: missing, a directory, empty, truncated, damaged, too large, or no image.
    """
    return decode_image(read_image_bytes(path), str(path))


def read_image_bytes(path: Path | str) -> bytes:
    """The bytes of an image file, to be decoded; DataError where it is missing, a directory or too large."""
    try:
        with Path(path).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise DataError("is too large for an image", file=path, found=f"{size:,} bytes", expected="up to 1 GiB")
            return stream.read()
    except OSError as error:
        raise _unreadable(path, error) from error


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
    return _as_rgb(decode_bgr(data, name, checked_header(data, name)))


def decode_reduced(
    data: bytes, name: str, canvas_hw: tuple[int, int], fit: Fit = "letterbox"
) -> tuple[Image, tuple[int, int]]:
    """Decode an image file only as finely as a canvas needs it: a large JPEG at 1/2, 1/4 or 1/8 of its size.

    In both directions there stay at least twice the pixels the canvas shows, so that it looks as from the whole photo.
    Everything else, and every check, is as in `decode_image`; kinds other than JPEG are decoded whole.

    Args:
        data, name: see `decode_image`.
        canvas_hw, fit: what `place` will be given.
    Returns:
        uint8 [h, w, 3], which spans the whole photo, and the photo's own height and width: the `image_hw` of `place`.
    """
    header = checked_header(data, name)
    reduction = 1
    if header is not None and header.kind == "jpeg":
        reduction = _reduction(header.upright_hw, _shown_hw(header.upright_hw, canvas_hw, fit))
    image = _as_rgb(decode_bgr(data, name, header, reduction))
    height, width, _ = image.shape
    return image, header.upright_hw if header is not None and reduction > 1 else (height, width)


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
    image_bgr = cv2.cvtColor(_checked(image_rgb), cv2.COLOR_RGB2BGR)
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


def place(
    image_rgb: Image,
    canvas_hw: tuple[int, int],
    fit: Fit,
    pad_value: int = 114,
    image_hw: tuple[int, int] | None = None,
) -> tuple[Image, Placement]:
    """Fit an image to a canvas as a model card says: "letterbox", the same in the top-left corner, or "stretch"."""
    if fit in ("letterbox", "letterbox-corner"):
        return letterbox(image_rgb, canvas_hw, pad_value, image_hw, centred=fit == "letterbox")
    if fit == "stretch":
        return stretch(image_rgb, canvas_hw, image_hw)
    raise ValueError(f'fit is {fit!r}, expected "letterbox", "letterbox-corner" or "stretch"')


def letterbox(
    image_rgb: Image,
    canvas_hw: tuple[int, int],
    pad_value: int = 114,
    image_hw: tuple[int, int] | None = None,
    *,
    centred: bool = True,
) -> tuple[Image, Placement]:
    """Scale an image to the largest size that fits, keeping its shape, and lay it on a grey canvas.

    Args:
        image_rgb: uint8 [H, W, 3].
        canvas_hw: height and width of the canvas in pixels.
        pad_value: brightness of the border, 0-255.
        image_hw: the photo's own size where `image_rgb` is the whole photo in fewer pixels; see `decode_reduced`.
        centred: in the middle; False is the top-left corner, as some other projects have it.
    Returns:
        The canvas, uint8 [*canvas_hw, 3], and where the photo of size `image_hw` lies on it.
    """
    height, width = image_hw or _checked(image_rgb).shape[:2]
    canvas_height, canvas_width = canvas_hw
    inner_hw = _shown_hw((height, width), canvas_hw, "letterbox")
    top, left = ((outer - inner) // 2 if centred else 0 for outer, inner in zip(canvas_hw, inner_hw, strict=True))
    canvas = np.full((canvas_height, canvas_width, 3), pad_value, np.uint8)
    canvas[top : top + inner_hw[0], left : left + inner_hw[1]] = _resized(image_rgb, inner_hw)
    scale_xy = inner_hw[1] / width, inner_hw[0] / height
    return canvas, Placement((canvas_height, canvas_width), (height, width), scale_xy, (float(left), float(top)))


def stretch(
    image_rgb: Image, canvas_hw: tuple[int, int], image_hw: tuple[int, int] | None = None
) -> tuple[Image, Placement]:
    """Scale an image to fill the canvas, each axis by its own factor; see `letterbox`."""
    height, width = image_hw or _checked(image_rgb).shape[:2]
    canvas_height, canvas_width = canvas_hw
    scale_xy = canvas_width / width, canvas_height / height
    placement = Placement((canvas_height, canvas_width), (height, width), scale_xy, (0.0, 0.0))
    canvas = _resized(image_rgb, placement.canvas_hw)
    return canvas.copy() if canvas is image_rgb else canvas, placement


def _shown_hw(image_hw: tuple[int, int], canvas_hw: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """Height and width an image of that size has on the canvas, in pixels."""
    if fit == "stretch":
        return canvas_hw
    (height, width), (canvas_height, canvas_width) = image_hw, canvas_hw
    ratio = min(canvas_height / height, canvas_width / width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def _reduction(image_hw: tuple[int, int], shown_hw: tuple[int, int]) -> int:
    """The largest whole fraction of an image that has twice the pixels shown, in both directions."""
    fits = (by for by in _REDUCTIONS if all(full // by >= 2 * shown for full, shown in zip(image_hw, shown_hw)))
    return next(fits, 1)


def _resized(image: Image, size_hw: tuple[int, int]) -> Image:
    """It in that size (itself, if it has it): what shrinks is averaged over areas, what grows is interpolated.

    Averaging over whole blocks takes an eighth of the time that areas with parts of pixels do (1280 x 720 to 416 x 234:
    0.28 instead of 2.2 ms), so it comes first where blocks fit; less than a halving may remain, which is interpolated.
    """
    cv2, image = load_cv2(), _checked(image)
    block = _block(image.shape[:2], size_hw)
    if block > 1:
        blocks_hw = image.shape[0] // block, image.shape[1] // block
        image = cv2.resize(image, blocks_hw[::-1], interpolation=cv2.INTER_AREA)
    shrunk_hw = min(image.shape[0], size_hw[0]), min(image.shape[1], size_hw[1])
    if shrunk_hw != image.shape[:2]:
        nearly = block > 1 and all(2 * shrunk > full for full, shrunk in zip(image.shape, shrunk_hw))
        image = cv2.resize(image, shrunk_hw[::-1], interpolation=cv2.INTER_LINEAR if nearly else cv2.INTER_AREA)
    if shrunk_hw != size_hw:
        image = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    return image


def _block(image_hw: Sequence[int], size_hw: tuple[int, int]) -> int:
    """The largest side of the square blocks that an image consists of without rest and that a pixel of it holds."""
    most = min(full // shown for full, shown in zip(image_hw, size_hw))
    return next((side for side in range(most, 1, -1) if all(full % side == 0 for full in image_hw)), 1)


def _as_rgb(pixels_bgr: Image) -> Image:
    cv2 = load_cv2()
    return np.asarray(cv2.cvtColor(pixels_bgr, cv2.COLOR_BGR2RGB))  # 40 times as fast as a slice with step -1


def _checked(image_rgb: Image) -> Image:
    if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.size == 0:
        raise ValueError(f"image is {image_rgb.dtype} {image_rgb.shape}, expected uint8 (H, W, 3) and not empty")
    return image_rgb


def _unreadable(path: Path | str, error: OSError) -> DataError:
    found = "a directory" if isinstance(error, IsADirectoryError) else error.strerror
    if isinstance(error, FileNotFoundError):
        found = "no such file"
    return DataError("cannot be read", file=path, found=found, expected="an image file")
