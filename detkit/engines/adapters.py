"""How detectors of other projects take pixels and say boxes: the settings of each kind, and decoding as plain NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit import boxes, config
from detkit.engines import Outputs
from detkit.errors import UsageError

Layout = Literal["grid", "objectness", "classes", "rows", "boxes-scores"]
Float32 = NDArray[np.float32]

_STRIDES = (8, 16, 32)  # of the three maps of a grid, in pixels
_LARGEST_SIDE_PX = 4096
_ROUNDING = 0.01  # by how much a score may lie outside 0-1


@dataclass(frozen=True, slots=True)
class Adapter:
    """How a network without a model card takes pixels and what its outputs mean.

    Args:
        layout: "grid": one table [B, N, 5+K] of box, objectness and class scores, boxes still as offsets in the cells
            of three maps (YOLOX); "objectness": the same, decoded (YOLOv5); "classes": one table [B, 4+K, N] without
            objectness (YOLOv8); "rows": finished detections [B, N, 6], box, score and label (YOLOv10, any export with
            NMS); "boxes-scores": boxes [B, N, 4] and scores [B, N, K], or scores and labels [B, N].
        box_format: what the four numbers of a box are.
        box_unit: pixels of the network's canvas, or shares of its width and height.
        activation: what makes the network's scores 0-1; "none" where they are.
        background: which column of the scores is "no object" and is dropped; with labels, "first" says that they
            count from 1.
        channels: order of the colours.
        divide_by: of a pixel, 0-255; then `mean` is taken away and `std` divides, each in the order of `channels`.
            A network that takes uint8 gets the pixels as they are.
        fit, pad_value: how the photo meets the canvas, as in the model card.
        size_px: side of the canvas, where the network takes any; None is the one its file names.
        conf, iou: thresholds, where the user gives none.
        boxes_output, scores_output, labels_output: names of these outputs, where shapes do not tell; "" for the rest.
    """

    layout: Layout
    box_format: Literal["xyxy", "xywh", "cxcywh"]
    box_unit: Literal["px", "share"]
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    background: Literal["none", "first", "last"] = "none"
    channels: Literal["rgb", "bgr"] = "rgb"
    divide_by: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fit: Literal["letterbox", "letterbox-corner", "stretch"] = "letterbox"
    pad_value: int = 114
    size_px: int | None = None
    conf: float = 0.25
    iou: float = 0.6
    boxes_output: str = ""
    scores_output: str = ""
    labels_output: str = ""

    def __post_init__(self) -> None:
        tables = self.layout != "boxes-scores"
        for name, is_wrong, expected in (
            ("divide_by", not 0 < self.divide_by < np.inf, "above 0"),
            ("mean", not np.isfinite(self.mean).all(), "three numbers"),
            ("std", not (np.isfinite(self.std).all() and min(self.std) > 0), "three numbers above 0"),
            ("pad_value", not 0 <= self.pad_value <= 255, "0 to 255"),
            ("conf", not 0 <= self.conf <= 1, "0 to 1"),
            ("iou", not 0 <= self.iou <= 1, "0 to 1"),
            ("size_px", self.size_px is not None and not 1 <= self.size_px <= _LARGEST_SIDE_PX, "1 to 4096"),
            ("box_format", self.layout == "grid" and self.box_format != "cxcywh", "cxcywh for the layout grid"),
            ("box_unit", self.layout == "grid" and self.box_unit != "px", "px for the layout grid"),
            ("activation", tables and self.activation != "none", "none, but for the layout boxes-scores"),
            ("background", tables and self.background != "none", "none, but for the layout boxes-scores"),
            ("boxes_output", tables and bool(self.boxes_output), "nothing, but for the layout boxes-scores"),
            ("scores_output", tables and bool(self.scores_output), "nothing, but for the layout boxes-scores"),
            ("labels_output", tables and bool(self.labels_output), "nothing, but for the layout boxes-scores"),
        ):
            if is_wrong:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {expected}")


# What each project's own export makes; conf and iou as its own evaluation or demonstration has them.
PRESETS: dict[str, tuple[str, ...]] = {
    "yolox": (
        "layout=grid",
        "box_format=cxcywh",
        "box_unit=px",
        "channels=bgr",
        "divide_by=1",
        "fit=letterbox-corner",
        "iou=0.65",
    ),
    "yolox-decoded": (
        "layout=objectness",
        "box_format=cxcywh",
        "box_unit=px",
        "channels=bgr",
        "divide_by=1",
        "fit=letterbox-corner",
        "iou=0.65",
    ),
    "yolov5": ("layout=objectness", "box_format=cxcywh", "box_unit=px", "iou=0.6"),
    "yolov8": ("layout=classes", "box_format=cxcywh", "box_unit=px", "iou=0.7"),
    "end2end": ("layout=rows", "box_format=xyxy", "box_unit=px", "iou=1"),  # they do not overlap any more
    "boxes-scores": ("layout=boxes-scores",),  # the rest is for the user to say
}


class Tables(NamedTuple):
    """The arrays of one run: `boxes` alone for the layouts with one table; of the others `labels` may be None."""

    boxes: NDArray[np.generic]
    scores: NDArray[np.generic] | None = None
    labels: NDArray[np.generic] | None = None


def read_adapter(texts: Sequence[str]) -> Adapter:
    """The adapter of what `--adapter` was given: a preset's name or a TOML file, then `key=value` for single settings.

    Raises:
        UsageError: an unknown name, or a setting that is unknown, missing or wrong.
    """
    name, settings = texts[0], list(texts[1:])
    file = Path(name) if name.lower().endswith(".toml") else None
    if file is None and name not in PRESETS:
        raise UsageError("--adapter", found=repr(name), expected=f"{', '.join(PRESETS)} or a .toml file")
    preset = [] if file is not None else list(PRESETS[name])
    try:
        return config.load(Adapter, file, [*preset, *settings])
    except UsageError as error:
        message = error.message.replace("--set ", "--adapter ", 1)
        if message.startswith("setting ") and file is None:
            message = f"--adapter {name} needs more: add --adapter {message.split(chr(39))[1]}=..."
        raise UsageError(
            message, file=error.file, line=error.line, found=error.found, expected=error.expected
        ) from error


def pixels(batch_rgb: NDArray[np.uint8], adapter: Adapter, dtype: str, *, channels_first: bool) -> NDArray[np.generic]:
    """Canvases as the network takes them.

    Args:
        batch_rgb: uint8 [B, H, W, 3].
        dtype: "uint8", "float32" or "float16".
        channels_first: [B, 3, H, W] instead of [B, H, W, 3].
    """
    batch = batch_rgb[..., ::-1] if adapter.channels == "bgr" else batch_rgb
    values: NDArray[np.generic] = batch
    if dtype != "uint8":
        scale = 1 / (adapter.divide_by * np.array(adapter.std, np.float64))
        shift = np.array(adapter.mean, np.float64) / np.array(adapter.std, np.float64)
        values = (batch * scale.astype(np.float32) - shift.astype(np.float32)).astype(dtype)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if channels_first else values)


def decode(tables: Tables, adapter: Adapter, canvas_hw: tuple[int, int], class_count: int) -> Outputs:
    """Boxes in canvas pixels and scores of each class.

    Raises:
        ValueError: the arrays are not what the adapter says; the message says which.
    """
    table = np.asarray(tables.boxes, np.float32)
    if adapter.layout == "boxes-scores":
        assert tables.scores is not None
        scores = _scores(np.asarray(tables.scores, np.float32), tables.labels, adapter, class_count)
    elif adapter.layout == "rows":
        scores, table = _one_hot(table[..., 4], table[..., 5], class_count), table[..., :4]
    elif adapter.layout == "classes":
        table = table.transpose(0, 2, 1)
        scores, table = table[..., 4:], table[..., :4]
    else:
        scores = table[..., 5:] * table[..., 4:5]
        table = _from_grid(table[..., :4], canvas_hw) if adapter.layout == "grid" else table[..., :4]
    if scores.shape[1:] != (table.shape[1], class_count):
        raise ValueError(f"scores of {scores.shape[-1]} classes, expected {class_count}")
    low, high = (float(end.reduce(scores, axis=None, initial=0)) for end in (np.fmin, np.fmax))  # NaN is no score
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        span = f"from {low:.3g} to {high:.3g}"
        raise ValueError(f"scores {span}, expected 0 to 1 (another adapter, or --adapter activation=sigmoid)")
    return Outputs(_boxes_xyxy(table, adapter, canvas_hw), np.ascontiguousarray(scores))


def grid_cells(canvas_hw: tuple[int, int]) -> int:
    """Rows of a table of the layout "grid": the cells of its three maps."""
    return sum((canvas_hw[0] // stride) * (canvas_hw[1] // stride) for stride in _STRIDES)


def _from_grid(raw: Float32, canvas_hw: tuple[int, int]) -> Float32:
    """Offsets in cells and logarithms of sizes -> cxcywh in pixels (Ge et al. 2021, YOLOX, section 2)."""
    corners, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: canvas_hw[0] // stride, : canvas_hw[1] // stride]
        corners.append(np.stack([columns.ravel(), rows.ravel()], 1))
        strides.append(np.full((rows.size, 1), stride))
    stride_px = np.concatenate(strides).astype(np.float32)  # [N, 1]
    centres = (raw[..., :2] + np.concatenate(corners).astype(np.float32)) * stride_px
    with np.errstate(over="ignore"):  # an infinite box is dropped later
        sizes = np.exp(raw[..., 2:]) * stride_px
    return np.concatenate([centres, sizes], -1)  # [B, N, 4]


def _boxes_xyxy(raw: Float32, adapter: Adapter, canvas_hw: tuple[int, int]) -> Float32:
    rows = raw.reshape(-1, 4)
    if adapter.box_format != "xyxy":
        rows = (boxes.cxcywh_to_xyxy if adapter.box_format == "cxcywh" else boxes.xywh_to_xyxy)(rows)
    if adapter.box_unit == "share":
        rows = boxes.scale(rows, (canvas_hw[1], canvas_hw[0]))
    return np.ascontiguousarray(rows, np.float32).reshape(raw.shape)


def _scores(raw: Float32, labels: NDArray[np.generic] | None, adapter: Adapter, class_count: int) -> Float32:
    """Scores [B, N, K], each 0-1; with labels the network gives one for each box only."""
    if labels is not None:
        offset = np.float32(adapter.background == "first")
        return _one_hot(_activated(raw, adapter), np.asarray(labels, np.float32) - offset, class_count)
    scores = _activated(raw, adapter)
    return {"none": scores, "first": scores[..., 1:], "last": scores[..., :-1]}[adapter.background]


def _activated(raw: Float32, adapter: Adapter) -> Float32:
    if adapter.activation == "sigmoid":
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-raw)), np.float32)
    if adapter.activation == "softmax":
        powers = np.exp(raw - raw.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)
    return raw


def _one_hot(scores: Float32, labels: Float32, class_count: int) -> Float32:
    """Scores [B, N] of boxes of one class each -> [B, N, K]; rows without a score are filling."""
    found = scores > 0
    if found.any() and not (0 <= labels[found].min() and labels[found].max() < class_count):
        span = f"{labels[found].min():g} to {labels[found].max():g}"
        raise ValueError(f"labels {span}, expected 0 to {class_count - 1}, one for each class name")
    rows = np.zeros((*scores.shape, class_count), np.float32)
    at = np.nonzero(found)
    rows[(*at, labels[found].astype(np.int64))] = scores[found]
    return rows
