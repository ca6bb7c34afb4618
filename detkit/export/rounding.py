"""Rounds a convolution to int8 so that its output, not each weight, changes least (Frantar 2022, "GPTQ")."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import NodeProto, helper

_PLACES = 256  # of one input at which a layer is looked at
_COLUMNS = 576  # weights of a filter that make good each other's errors: 64 channels of 3x3
_BLOCK = 64  # columns rounded before the later ones hear of it
_DAMPING = 0.01  # of the mean square of an input, added so that rare inputs are not relied upon
_LARGEST = 127

Float32 = NDArray[np.float32]


class Moments:
    """Mean products of what a convolution's weights are multiplied with, gathered input by input.

    Args:
        layer: a Conv node.
        weights: its own, [O, C / groups, h, w].
    """

    def __init__(self, layer: NodeProto, weights: Float32) -> None:
        found = {attribute.name: helper.get_attribute_value(attribute) for attribute in layer.attribute}
        self.weights, self.groups = weights, int(found.get("group", 1))
        self._pads = found.get("pads") or [0, 0, 0, 0]
        self._strides, self._dilations = found.get("strides") or [1, 1], found.get("dilations") or [1, 1]
        self.parts = [slice(start, start + _COLUMNS) for start in range(0, weights[0].size, _COLUMNS)]
        self.products: list[Any] = [0.0] * len(self.parts)  # of each part, [groups, D, D]
        self._rng = np.random.default_rng(0)

    def add(self, maps: Float32) -> None:
        """Look at some places of an input [B, C, H, W]."""
        patches = self._patches(maps[0])  # [groups, places, D]
        for index, part in enumerate(self.parts):
            some = patches[:, :, part]
            self.products[index] = self.products[index] + some.transpose(0, 2, 1) @ some

    def _patches(self, map_chw: Float32) -> Float32:
        height, width = self.weights.shape[2:]
        (top, left, bottom, right), (down, across), (apart_y, apart_x) = self._pads, self._strides, self._dilations
        padded = np.pad(map_chw, ((0, 0), (top, bottom), (left, right)))
        seen_hw = (height - 1) * apart_y + 1, (width - 1) * apart_x + 1
        windows = sliding_window_view(padded, seen_hw, (1, 2))[:, ::down, ::across, ::apart_y, ::apart_x]
        rows, columns = windows.shape[1:3]
        places = self._rng.integers(0, rows * columns, min(_PLACES, rows * columns))
        some = windows[:, places // columns, places % columns]  # [C, places, h, w]
        grouped = some.reshape(self.groups, -1, *some.shape[1:])  # [groups, C / groups, places, h, w]
        return np.ascontiguousarray(grouped.swapaxes(1, 2).reshape(self.groups, len(places), -1))


def rounded(moments: Moments, scales: Float32) -> NDArray[np.int8]:
    """Weights as int8, [O, C / groups, h, w].

    Args:
        moments: of the layer.
        scales: of each output channel, [O] or one for all: what one step of int8 means.
    """
    groups, shape = moments.groups, moments.weights.shape
    rows = moments.weights.reshape(groups, shape[0] // groups, -1)  # [groups, O / groups, D]
    steps = np.broadcast_to(scales, shape[:1]).reshape(groups, -1)
    parts = [_round_part(rows[:, :, part], p, steps) for part, p in zip(moments.parts, moments.products, strict=True)]
    return np.concatenate(parts, axis=2).reshape(shape)


def _round_part(rows: Float32, products: Float32, steps: Float32) -> NDArray[np.int8]:
    """Columns [groups, R, D], the weightiest first; the columns not rounded yet take over each one's error."""
    count = rows.shape[2]
    squares = np.einsum("gdd->gd", products)
    order = np.argsort(-squares.mean(0), kind="stable")
    damping = _DAMPING * squares.mean(1).astype(np.float64) + 1e-9
    ordered = products[:, order][:, :, order] + np.eye(count) * damping[:, None, None]
    passed_on = np.linalg.cholesky(np.linalg.inv(ordered)).swapaxes(1, 2).astype(np.float32)  # upper triangles
    left, result = rows[:, :, order], np.empty(rows.shape, np.int8)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = np.empty((*rows.shape[:2], end - start), np.float32)
        for column in range(start, end):
            whole = np.clip(np.round(left[:, :, column] / steps), -_LARGEST, _LARGEST)
            result[:, :, order[column]] = whole
            error = (left[:, :, column] - whole * steps) / passed_on[:, column, column, None]
            left[:, :, column + 1 : end] -= error[:, :, None] * passed_on[:, None, column, column + 1 : end]
            errors[:, :, column - start] = error
        left[:, :, end:] -= errors @ passed_on[:, start:end, end:]
    return result
