"""A small world for reports: five photos with one box of each fate, and names that would break a careless page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.evaluate.coco import evaluate
from detkit.evaluate.intervals import bootstrap
from detkit.evaluate.report import write_report

SIZE_HW = (120, 200)
CAT, SCRIPT = "cat", "<script>document.title = 'broken'</script>"
HOSTILE_FILE = "</script><img src=x onerror=alert(1)>&\"'.jpg"
RIGHT, WRONG, MISSED, OFF = (20, 20, 80, 80), (110, 30, 150, 90), (120, 10, 190, 60), (10, 10, 60, 60)
CONF = 0.5


def found(*rows: tuple[float, ...], size_hw: tuple[int, int] = SIZE_HW) -> Detections:
    """Rows of x1, y1, x2, y2, label, score."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(size_hw, table[:, :4], table[:, 4].astype(int), table[:, 5])


def truth(*rows: tuple[float, ...], crowd: Any = None, size_hw: tuple[int, int] = SIZE_HW) -> Detections:
    """Rows of x1, y1, x2, y2, label."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    return Detections(size_hw, table[:, :4], table[:, 4].astype(int), crowd=crowd)


def photo(path: Path, seed: int, size_hw: tuple[int, int] = SIZE_HW) -> Path:
    """A noisy JPEG, which does not shrink well."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    return path


def small_world(folder: Path) -> tuple[Dataset, list[Detections]]:
    """Photo 0 has a right and a wrong box, 1 one missed and one badly placed, 2 nothing, 3 a crowd; 4 is no file."""
    folder.mkdir(exist_ok=True)
    truths = [
        truth((*RIGHT, 0)),
        truth((*MISSED, 1), (*RIGHT, 0)),
        truth(),
        truth((*RIGHT, 0), (100, 0, 200, 120, 1), crowd=[False, True]),
        truth((*RIGHT, 0)),
    ]
    boxes = [
        found((*RIGHT, 0, 0.9), (*WRONG, 1, 0.8), (*OFF, 0, 0.2)),
        found((*MISSED, 1, 0.3), (*OFF, 0, 0.7)),
        found(),
        found((*RIGHT, 0, 0.95), (*WRONG, 1, 0.6)),
        found((*RIGHT, 0, 0.85)),
    ]
    names = ["zero.jpg", HOSTILE_FILE, "two.jpg", "three.jpg", "gone.jpg"]
    samples = []
    for k, (name, each) in enumerate(zip(names, truths, strict=True)):
        path = folder / f"{k}.jpg" if name == "gone.jpg" else photo(folder / f"{k}.jpg", k)
        samples.append(Sample(name, path, each, k + 1, label_file=folder / "labels.json", rows=np.arange(len(each))))
    return Dataset("toy", (CAT, SCRIPT), tuple(samples), folder, "coco", "val", (1, 2)), boxes


def report(target: Path, dataset: Dataset, boxes: list[Detections], **settings: Any) -> str:
    """Write a report and give the page."""
    parts = {"result": evaluate(dataset, boxes), "intervals": bootstrap(dataset, boxes, draws=20), "conf": CONF}
    write_report(target, dataset, boxes, **(parts | settings))
    return target.read_text("utf-8")
