"""Items, frames and detections made by hand, for the tests of the sinks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from detkit.detections import Detections
from detkit.infer.frames import Frame, Item, VideoInfo
from detkit.infer.records import Record, record, run_record

CLASSES = ("red", "blau & grün")
POINTS = ("nose", "tail")


def photo(relative: str, path: Path | None = None, name: str | None = None) -> Item:
    return Item(name or f"in/{relative}", Path(relative), path=path)


def video(relative: str) -> Item:
    return Item(f"in/{relative}", Path(relative), "video")


def frame_of(item: Item, index: int = 0, size_hw: tuple[int, int] = (30, 50), number: int | None = None) -> Frame:
    image_rgb = np.full((*size_hw, 3), 90, np.uint8)
    if number is None:
        return Frame(image_rgb, index, None, item.name, item)
    info = VideoInfo(size_hw, Fraction(25), Fraction(1, 25))
    return Frame(image_rgb, index, number / 25, item.name, item, number, number, info)


def found(size_hw: tuple[int, int] = (30, 50), **columns: Any) -> Detections:
    """A red box of 10.25 x 20 pixels and a blue one that ends at the photo's edge."""
    height, width = size_hw
    corners = np.array([[1.5, 2, 11.75, 22], [width / 2, height / 2, width, height]], np.float32)
    return Detections(size_hw, corners, [0, 1], np.array([0.9, 0.5], np.float32), **columns)


def nothing(size_hw: tuple[int, int] = (30, 50)) -> Detections:
    return Detections.empty(size_hw)


def record_of(frame: Frame, detections: Detections, point_names: tuple[str, ...] = ()) -> Record:
    return record(frame, detections, CLASSES, point_names)


def header(**settings: Any) -> Record:
    model = {"file": "m.onnx", "sha256": "ab" * 32, "engine": "onnxruntime", "class_names": CLASSES}
    return run_record(**model, settings={"conf": 0.25, "size": (640, 640)} | settings)
