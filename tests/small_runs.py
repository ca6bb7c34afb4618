"""Small real training runs for the tests: shapes to learn, and settings that train in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.images import read_image, write_image
from detkit.models.yolo import YoloSettings
from detkit.train.fit import Fit
from detkit.train.prepare import new_card, plan_anchors
from detkit.train.run_folder import RunFolder
from detkit.train.settings import TrainSettings, resolve

PHOTO = Path(__file__).parent / "data" / "photos" / "chelsea.jpg"
COLOURS = {"red": (230, 30, 40), "blue": (30, 60, 230)}


def make_shapes(folder: Path, count: int, *, seed: int = 0, side: int = 96) -> Dataset:
    """Squares and bars of two colours on crops of a real photo; one image has no object."""
    folder.mkdir(parents=True, exist_ok=True)
    background, rng = read_image(PHOTO), np.random.default_rng(seed)
    samples = []
    for number in range(count):
        size_hw = (side, side + 32)
        y, x = rng.integers(0, background.shape[0] - size_hw[0]), rng.integers(0, background.shape[1] - size_hw[1])
        image = background[y : y + size_hw[0], x : x + size_hw[1]].copy()
        boxes, labels = [], []
        for slot in range(0 if number == 3 else int(rng.integers(1, 4))):
            label = int(rng.integers(2))
            width, height = (int(v) for v in rng.integers(12, 32, 2))
            left, top = 4 + slot * 40, int(rng.integers(0, side - height))
            image[top : top + height, left : left + width] = list(COLOURS.values())[label]
            boxes.append([left, top, left + width, top + height])
            labels.append(label)
        path = folder / f"{number}.png"
        write_image(path, image)
        truth = Detections(size_hw, np.array(boxes).reshape(-1, 4), np.array(labels))
        samples.append(Sample(path.name, path, truth, number + 1))
    return Dataset("shapes", tuple(COLOURS), tuple(samples), folder, "coco", "train", (1, 2))


def tiny_settings(**changes: object) -> TrainSettings:
    base = TrainSettings(
        epochs=3,
        batch_size=4,
        size_px=96,
        precision="fp32",
        model=YoloSettings("lenet5", pretrained=False, width=16, anchors_per_scale=2),
    )
    return resolve(replace(base, **changes))  # type: ignore[arg-type]


def start(folder: Path, data: Dataset, settings: TrainSettings, *, begin: bool = True) -> Fit:
    card = new_card(data, plan_anchors(data, settings), settings)
    fit = Fit(RunFolder(folder), data, data, settings, card)
    if begin:
        fit.begin()
    return fit
