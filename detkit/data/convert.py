"""Convert a data set from one label format to another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detkit.boxes import area
from detkit.data import formats
from detkit.data.dataset import Dataset
from detkit.data.label_files import read_bytes
from detkit.errors import UsageError

_OUTLINE = re.compile(rb'"segmentation"\s*:\s*(\[\s*\[|\{)')
_AREA_TOLERANCE = 1e-3  # relative: what a file's rounding does to a box's area


@dataclass(frozen=True, slots=True)
class Written:
    """A data set that was written: its splits, read back from the new files, and a line for each thing left out."""

    datasets: tuple[Dataset, ...]
    lost: tuple[str, ...]


def convert(
    source: Path,
    target: Path,
    to: formats.Format,
    *,
    format: formats.Format | None = None,  # noqa: A002
    split: str | None = None,
) -> Iterator[Dataset | Written]:
    """Write the data set at `source` as one of another format; photos are hard-linked, or copied to another disk.

    Args:
        source: a folder, a data.yaml, or a COCO or CSV label file.
        target: a new or empty folder; it appears when all is written, or not at all.
        to: the new format.
        format: what to take `source` for; None finds out.
        split: only this one.
    Yields:
        Each split once it is read; last, what was written.
    Raises:
        UsageError: `target` has content or lies inside `source`.
        DataError: `source` cannot be read, or not be written in the new format.
    """
    refuse_target(source, target)
    datasets: list[Dataset] = []
    for dataset in formats.read_all(source, split, format):
        datasets.append(dataset)
        yield dataset
    lost = formats.write(datasets, target, to)
    lost += [*_lost_outlines(datasets), *(_lost_ids_and_areas(datasets) if to != "coco" else ())]
    yield Written(tuple(formats.read_all(target, format=to)), tuple(lost))


def refuse_target(source: Path, target: Path) -> None:
    """Refuse, before the long work, a folder to write to that has content or lies inside the data set.

    Raises:
        UsageError: it has or does.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError("the target exists and is not an empty folder", file=target, expected="a new folder")
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise UsageError("the target lies inside the data set", file=target, expected=f"a folder outside {source}")


def _lost_outlines(datasets: Sequence[Dataset]) -> Iterator[str]:
    files = [dataset.source for dataset in datasets if dataset.format == "coco"]
    if any(_OUTLINE.search(read_bytes(file)) for file in files):
        yield "the outlines (segmentation) are left out: detkit keeps the boxes"


def _lost_ids_and_areas(datasets: Sequence[Dataset]) -> Iterator[str]:
    """What only COCO's files say: ids of their own, and areas of shapes within the boxes."""
    ids = datasets[0].category_ids
    if ids != tuple(range(1, len(ids) + 1)):
        yield "the category ids are left out: only COCO has them; the order of the classes stays"
    shapes = 0
    for sample in (sample for dataset in datasets for sample in dataset):
        if sample.areas_px is not None:
            own = area(sample.truth.boxes_xyxy)
            shapes += int((np.abs(sample.areas_px - own) > _AREA_TOLERANCE * own + 1).sum())
    if shapes:
        yield f"the areas of {shapes} shapes are left out: only COCO has them; eval sorts by the boxes' areas instead"
