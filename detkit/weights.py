"""Model files: find one, verify it, and read its card (class names, input size, thresholds, licences)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from detkit.errors import WeightsError

CARD_KEY = "detkit"  # the metadata key in .onnx and .safetensors files
CARD_FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of itself; JSON under the metadata key `detkit` in .onnx and .safetensors.

    Args:
        task: "yolo" (later "localize", "landmarks", "window").
        architecture: how to build the network again, the arguments of `models.build`.
        class_names: names in label order.
        input_hw: canvas height and width in pixels.
        fit: "letterbox" (keep the aspect ratio, pad) or "stretch": how a photo meets the canvas.
        pad_value: grey level of the letterbox's padding, 0-255.
        anchors_wh_px: per pyramid level, A anchors as [width, height] in canvas pixels.
        thresholds: {"conf": score below which a box is dropped, "iou": NMS overlap}.
        training: data set name and content hash, images and boxes used and left out, epochs, seed, metrics.
        licences: {"code": ..., "weights": ..., "data": ...}.
    """

    task: str
    architecture: dict[str, Any]
    class_names: tuple[str, ...]
    input_hw: tuple[int, int]
    fit: str = "letterbox"
    pad_value: int = 114
    anchors_wh_px: tuple[tuple[tuple[float, float], ...], ...] = ()
    thresholds: dict[str, float] = field(default_factory=lambda: {"conf": 0.25, "iou": 0.6})
    training: dict[str, Any] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    format_version: int = CARD_FORMAT_VERSION

    def to_json(self) -> str:
        """The card as one JSON object."""
        return json.dumps(asdict(self))
