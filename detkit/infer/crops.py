"""The window a model of points sees of a box: its geometry and its pixels, the same in training and in use."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detkit.boxes import xyxy_to_cxcywh
from detkit.opencv import load_cv2

Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]  # [..., 2, 3]: photo to canvas, both in continuous pixel coordinates

_AVERAGED_BELOW = 0.6  # a window that shrinks more is averaged over areas first, or thin things turn to noise


def windows_cxcys(boxes_xyxy: ArrayLike, margin: float) -> NDArray[np.float64]:
    """The square window around each box: centre x, centre y and side, [N, 3] in photo pixels.

    Args:
        boxes_xyxy: [N, 4].
        margin: room on each side of the box, as a share of its longer side.
    """
    boxes = np.asarray(xyxy_to_cxcywh(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)))
    sides = np.maximum(boxes[:, 2:].max(axis=1), 1e-3) * (1 + 2 * margin)
    return np.column_stack([boxes[:, :2], sides])


def to_canvas_matrix(
    window_cxcys: ArrayLike, side_px: int, *, rotation_deg: float = 0.0, mirrored: bool = False
) -> Matrix:
    """The map that lays one window [3] onto a square canvas: move, turn, scale, and mirror left to right at last.

    Args:
        rotation_deg: what turns clockwise in the picture is positive.
    """
    x, y, side = np.asarray(window_cxcys, np.float64)
    scale, angle = side_px / side, np.deg2rad(rotation_deg)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        turn[0] *= -1
    shift = side_px / 2 - turn @ np.array([x, y])
    return np.column_stack([turn, shift])


def inverse(matrix: Matrix) -> Matrix:
    """The map back, canvas to photo; [..., 2, 3]."""
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)


def move_points(points_xyv: ArrayLike, matrix: Matrix) -> NDArray[np.float32]:
    """Points [..., P, 3] under a map [..., 2, 3]; visibility stays."""
    points = np.asarray(points_xyv, np.float64)
    moved = points[..., :2] @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
    return np.concatenate([moved, points[..., 2:]], axis=-1).astype(np.float32)


def cut(image_rgb: Image, matrix: Matrix, side_px: int, pad_value: int) -> Image:
    """The canvas uint8 [S, S, 3] that a map [2, 3] takes from a photo; grey where the window leaves the photo."""
    cv2 = load_cv2()
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < _AVERAGED_BELOW:
        image_rgb, matrix = _shrunk(image_rgb, matrix, side_px, scale)
    centres = matrix.copy()  # pixel k covers k to k + 1, OpenCV counts from its centre
    centres[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    border = (pad_value, pad_value, pad_value)
    canvas = cv2.warpAffine(
        image_rgb,
        centres,
        (side_px, side_px),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=border,
    )
    return np.asarray(canvas, np.uint8)


def _shrunk(image_rgb: Image, matrix: Matrix, side_px: int, scale: float) -> tuple[Image, Matrix]:
    """The part of the photo the canvas shows, averaged down to the canvas's scale, and the map from there."""
    corners = np.array([[0, 0, 1], [side_px, 0, 1], [0, side_px, 1], [side_px, side_px, 1]], np.float64)
    seen_xy = move_points(corners, inverse(matrix))[:, :2]
    photo_wh = np.array(image_rgb.shape[1::-1])
    low = np.clip(np.floor(seen_xy.min(axis=0)), 0, photo_wh - 1).astype(int)
    high = np.clip(np.ceil(seen_xy.max(axis=0)), low + 1, photo_wh).astype(int)
    part = image_rgb[low[1] : high[1], low[0] : high[0]]
    size_wh = np.maximum(np.rint((high - low) * scale), 1).astype(int)
    small = load_cv2().resize(part, tuple(size_wh.tolist()), interpolation=load_cv2().INTER_AREA)
    back = (high - low) / size_wh  # photo pixels per pixel of `small`
    moved = np.column_stack([matrix[:, :2] * back, matrix[:, 2] + matrix[:, :2] @ low])
    return np.asarray(small, np.uint8), moved
