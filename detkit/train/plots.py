"""Pictures for people who would rather look: what the network is fed, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Sample
from detkit.detections import Detections
from detkit.draw import draw
from detkit.images import place, read_image, write_image
from detkit.weights import ModelCard

Image = NDArray[np.uint8]
_COLUMNS = 4
SHEET_PHOTOS = 12


def write_batch_sheet(path: Path, canvases: Image, truths: Sequence[Detections], class_names: Sequence[str]) -> None:
    """Write a batch as the network sees it, uint8 [B, S, S, 3], with its boxes; crowd boxes (not learnt) are dashed."""
    write_image(path, _sheet([draw(c, t, class_names) for c, t in zip(canvases, truths, strict=True)]))


def write_val_sheet(
    path: Path, samples: Sequence[Sample], found: Sequence[Detections], card: ModelCard, side_px: int
) -> None:
    """Write some photos of the val split with what the model finds on them."""
    tiles = []
    for sample, detections in zip(samples, found, strict=True):
        picture = draw(read_image(sample.image_path), detections, card.class_names)
        tiles.append(place(picture, (side_px, side_px), "letterbox")[0])
    if tiles:
        write_image(path, _sheet(tiles))


def _sheet(tiles: Sequence[Image]) -> Image:
    """Equal tiles in rows of four; the last row is filled with grey."""
    blank = np.full_like(tiles[0], 114)
    padded = [*tiles, *[blank] * (-len(tiles) % _COLUMNS)]
    rows = [np.hstack(padded[i : i + _COLUMNS]) for i in range(0, len(padded), _COLUMNS)]
    return np.vstack(rows)
