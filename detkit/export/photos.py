"""Photos to prove an export on, and to calibrate one by: of a data set, of a folder, or noise where there are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from detkit.data import formats
from detkit.data.dataset import Dataset, check_class_names
from detkit.errors import DataError
from detkit.images import place, read_image
from detkit.infer.crops import cut, to_canvas_matrix, windows_cxcys
from detkit.infer.sources import find_items
from detkit.opencv import load_cv2
from detkit.weights import ModelCard

Image = NDArray[np.uint8]
T = TypeVar("T")

_OCTAVES = (2, 4, 8, 16, 32, 64)  # waves across the picture, each finer one weaker: as photos have them
_PATCHES = 12  # flat ones with edges
_MEAN, _DEVIATION = 120, 60  # grey levels


@dataclass(frozen=True, slots=True)
class Photos:
    """Photos for a proof.

    Args:
        name: what they are, for people.
        images: files, or pixels uint8 [H, W, 3] RGB.
        labels: those of the same photos in the same order, or None.
    """

    name: str
    images: Sequence[Path | Image]
    labels: Dataset | None = None

    def __len__(self) -> int:
        return len(self.images)

    def read(self) -> Iterator[Image]:
        """The pixels of each."""
        for image in self.images:
            yield read_image(image) if isinstance(image, Path) else image

    def canvases(self, card: ModelCard) -> Iterator[Image]:
        """What a model sees of each photo, uint8 [H, W, 3]; a model of points sees each labelled box."""
        for index, image_rgb in enumerate(self.read()):
            if card.task != "landmarks" or self.labels is None:
                yield place(image_rgb, card.input_hw, card.fit, card.pad_value)[0]
                continue
            boxes = self.labels.samples[index].truth.boxes_xyxy
            for window in windows_cxcys(boxes, card.crop_margin):
                matrix = to_canvas_matrix(window, card.input_hw[0])
                yield cut(image_rgb, matrix, card.input_hw[0], card.pad_value)


def find_photos(data: Path, count: int, card: ModelCard, split: str = "val") -> Photos:
    """Photos evenly spread over a split of a data set, or over a folder of images.

    Args:
        data: a data set, a folder or an image.
        count: at most so many.
        card: of the model, whose classes must be the data set's.
        split: of the data set; where it has none of this name, its first.
    Raises:
        DataError: there are no photos.
        WeightsError: the classes differ.
    """
    if not data.exists():
        raise DataError("no such data set or folder", file=data)
    try:
        splits = formats.splits(data)
        split = split if split in splits else splits[0]
    except DataError:
        files = [item.path for item in find_items(data) if item.kind == "photo" and item.path is not None]
        if not files:
            raise DataError("no photos", file=data, expected="a data set or a folder of images") from None
        return Photos(str(data), _spread(files, count))
    dataset = formats.read(data, split)
    check_class_names(card.class_names, dataset)
    with_boxes = [sample for sample in dataset.samples if len(sample.truth)]  # all that a model of points looks at
    samples = tuple(_spread(with_boxes if card.task == "landmarks" else dataset.samples, count))
    if not samples:
        raise DataError(f"no photos in its split {split!r}", file=data)
    name = f"{data}, split {split}" if split else str(data)
    return Photos(name, [sample.image_path for sample in samples], replace(dataset, samples=samples))


def noise_photos(count: int, size_hw: tuple[int, int]) -> Photos:
    """Pictures of nothing with the colours, waves and edges of photos; the same every time."""
    rng = np.random.default_rng(0)
    return Photos("noise", [_noise(rng, size_hw) for _ in range(count)])


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, evenly spread."""
    last, steps = len(items) - 1, max(1, min(count, len(items)) - 1)
    return [items[round(last * step / steps)] for step in range(min(count, len(items)))]


def _noise(rng: np.random.Generator, size_hw: tuple[int, int]) -> Image:
    cv2, (height, width) = load_cv2(), size_hw
    picture = np.zeros((height, width, 3))
    for waves in _OCTAVES:
        grid = rng.normal(size=(waves + 1, waves + 1, 3))
        picture += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / np.sqrt(waves)
    picture = (picture - picture.mean()) / picture.std() * _DEVIATION + _MEAN
    for _ in range(_PATCHES):
        x, y = rng.integers(0, width), rng.integers(0, height)
        part = picture[y : y + rng.integers(8, max(9, height // 2)), x : x + rng.integers(8, max(9, width // 2))]
        part[...] = 0.3 * part + 0.7 * rng.integers(0, 256, 3)
    return np.clip(picture, 0, 255).astype(np.uint8)
