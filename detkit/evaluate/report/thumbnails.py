"""Photos as small JPEGs within the page, as large as what may be spent on them allows."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detkit.errors import DataError
from detkit.images import Image, decode_reduced, read_image, read_image_bytes
from detkit.opencv import load_cv2

# longest side in pixels and JPEG quality, the best first
LEVELS = (
    *((800, 82), (640, 80), (520, 78), (440, 76), (400, 74), (370, 72), (340, 71), (320, 69), (300, 66)),
    *((280, 62), (260, 58), (240, 52), (220, 47), (200, 43), (160, 40)),
)

_TRIED = 24  # photos that are encoded to choose a level
_SLACK = 1.04  # the others may be a little larger than those
_PREFIX = "data:image/jpeg;base64,"

Picture = tuple[str, tuple[int, int]]  # a data: URI, and the picture's width and height


def thumbnails(paths: Mapping[int, Path], budget_bytes: int) -> dict[int, Picture]:
    """Small pictures of photos, all of one quality, in not more bytes of text than that.

    Args:
        paths: by any key, the most important first; one at least.
        budget_bytes: for all data: URIs together.
    Returns:
        By key; photos that cannot be read are left out, and the last ones where even the smallest are too many.
    """
    keys = list(paths)
    tried = keys[:: max(1, len(keys) // _TRIED)]
    chosen = len(LEVELS) - 1
    for level in range(len(LEVELS) - 1):
        taken = sum(len(_thumbnail(paths[key], level)[0]) for key in tried)
        if taken * len(keys) * _SLACK <= budget_bytes * len(tried):
            chosen = level
            break
    for level in range(chosen, len(LEVELS)):
        pictures = {key: _thumbnail(path, level) for key, path in paths.items()}
        taken = sum(len(uri) for uri, _ in pictures.values())
        if taken <= budget_bytes:
            break
    for key in reversed(keys):
        if taken <= budget_bytes:
            break
        taken -= len(pictures.pop(key)[0])
    return {key: picture for key, picture in pictures.items() if picture[0]}


def _thumbnail(path: Path, level: int) -> Picture:
    """One photo; "" where it cannot be read."""
    side_px, quality = LEVELS[level]
    try:
        image_rgb, (height, width) = decode_reduced(read_image_bytes(path), str(path), (side_px, side_px))
    except DataError:
        return "", (0, 0)
    scale = min(1.0, side_px / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return jpeg(image_rgb, size_wh, quality), size_wh


def crop(
    path: Path, box_xyxy: Sequence[float], side_px: int, quality: int = 72
) -> tuple[str, tuple[float, ...]] | None:
    """A box of a photo with its surroundings.

    Args:
        path: the photo.
        box_xyxy: in its pixels.
        side_px: longest side of the picture.
        quality: of the JPEG.
    Returns:
        The data: URI, and which part of the photo it shows, xyxy in pixels; None where it cannot be read.
    """
    try:
        image_rgb = read_image(path)
    except DataError:
        return None
    height, width, _ = image_rgb.shape
    x1, y1, x2, y2 = box_xyxy
    half = 0.5 * max(1.5 * max(x2 - x1, y2 - y1), 64.0)
    left, top = max(0, int((x1 + x2) / 2 - half)), max(0, int((y1 + y2) / 2 - half))
    right, bottom = min(width, int((x1 + x2) / 2 + half) + 1), min(height, int((y1 + y2) / 2 + half) + 1)
    if right <= left or bottom <= top:
        return None
    part = image_rgb[top:bottom, left:right]
    scale = side_px / max(part.shape[:2])
    size_wh = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    return jpeg(part, size_wh, quality), (float(left), float(top), float(right), float(bottom))


def jpeg(image_rgb: Image, size_wh: tuple[int, int], quality: int) -> str:
    """An image of that size as a data: URI."""
    cv2 = load_cv2()
    shrinks = size_wh[0] <= image_rgb.shape[1]
    if size_wh != image_rgb.shape[1::-1]:
        image_rgb = cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(image_rgb[:, :, ::-1]), settings)
    return _PREFIX + base64.b64encode(data.tobytes()).decode("ascii")
