"""`detkit data fix`: a mended copy of a data set, and what was changed in it.

Reading mends single boxes already (see `findings`); here follow the faults that only the photos or the whole set show.
A photo with a fault nobody can mend is left out with all its boxes: trained on, what it lacks would be background.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detkit.boxes import scale
from detkit.data import formats
from detkit.data.check import CheckReport
from detkit.data.check_boxes import same_boxes
from detkit.data.check_photos import KIND_SUFFIXES, PhotoFacts
from detkit.data.dataset import Dataset, Sample
from detkit.data.findings import CODES, Finding
from detkit.detections import Detections
from detkit.errors import DataError
from detkit.files import replacing

LOG_NAME = "fix.log"
LEFT_OUT = "the photo is left out"
_SAME_SHAPE = 0.01  # relative difference of two aspect ratios


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is other in the copy: the finding it mends, and what was done."""

    finding: Finding
    done: str

    def to_dict(self) -> dict[str, Any]:
        """The change as a line of the log has it."""
        row = self.finding.to_dict()
        return {"code": row["code"], "done": self.done} | {
            name: row[name] for name in ("message", "file", "line", "item", "photo", "found", "expected")
        }


@dataclass(frozen=True, slots=True)
class Mended:
    """A data set without faults: its splits, and every change in the order of the findings.

    Args:
        datasets: what to write. changes: what is other than in the source.
        lost: what the format cannot carry, as its writer says.
    """

    datasets: tuple[Dataset, ...]
    changes: tuple[Change, ...]
    lost: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """How often each thing was done."""
        return dict(Counter(f"{change.finding.code}: {change.done}" for change in self.changes).most_common())


def mend(report: CheckReport, facts: Iterable[PhotoFacts]) -> Mended:
    """Mend what a check found, in memory.

    Args:
        report: of every split. facts: of all its photos.
    """
    by_photo: dict[Path | None, list[Finding]] = {}
    for finding in report.findings:
        by_photo.setdefault(finding.photo, []).append(finding)
    known = {fact.path: fact for fact in facts}
    of_set = by_photo.get(None, [])
    changes: dict[Finding, str] = {}
    datasets = []
    for dataset in report.datasets:
        samples = []
        set_codes = {f.code for f in of_set if f.code != "box-as-corners" or f.file == dataset.source}
        for sample in dataset:
            own = by_photo.get(sample.image_path, [])
            mended = _mended(_as_the_set(sample, set_codes), own, known[sample.image_path], changes)
            samples += [] if mended is None else [mended]
        datasets.append(replace(dataset, samples=tuple(samples)))
    kept = {sample.image_path for dataset in datasets for sample in dataset}
    dropped = {sample.image_path for dataset in report.datasets for sample in dataset} - kept
    for finding in report.findings:
        code = CODES[finding.code]
        if finding.photo in dropped and (finding in changes or code.severity == "error"):
            changes[finding] = LEFT_OUT
        elif finding not in changes and (code.severity == "error" or finding.code == "annotation-id-zero"):
            lost = LEFT_OUT if finding.photo is not None else "it is left out"
            changes[finding] = code.mended or lost
    ordered = tuple(Change(finding, changes[finding]) for finding in report.findings if finding in changes)
    return Mended(tuple(datasets), ordered)


def _as_the_set(sample: Sample, codes: set[str]) -> Sample:
    """The sample with the faults of the whole set mended: ids from 1, corners for sides."""
    truth = sample.truth
    if "class-ids-from-one" in codes:
        truth = replace(truth, labels=truth.labels - 1)
    if "box-as-corners" in codes:
        corners_xy = truth.boxes_xyxy[:, 2:] - truth.boxes_xyxy[:, :2]
        truth = replace(truth, boxes_xyxy=np.hstack([truth.boxes_xyxy[:, :2], corners_xy]))
        return replace(sample, truth=truth, areas_px=None)
    return replace(sample, truth=truth)


def _mended(
    sample: Sample, findings: Sequence[Finding], facts: PhotoFacts, changes: dict[Finding, str]
) -> Sample | None:
    """The sample without its faults; None where one of them cannot be mended."""
    for finding in findings:
        if finding.severity == "error" and not CODES[finding.code].mended:
            return None
    for finding in findings:
        if finding.code == "image-size-wrong" and facts.header is not None:
            resized = _resized(sample, facts.header.upright_hw)
            changes[finding] = LEFT_OUT if resized is None else "the true size is recorded, the boxes are scaled to it"
            if resized is None:
                return None
            sample = resized
        elif finding.code == "image-rotated" and facts.header is not None:
            sample = replace(sample, truth=upright(sample.truth, facts.header.orientation))
            changes[finding] = CODES[finding.code].mended
        elif finding.code == "image-extension" and facts.header is not None:
            suffix = KIND_SUFFIXES.get(facts.header.kind, f".{facts.header.kind}")
            sample = replace(sample, name=str(Path(sample.name).with_suffix(suffix)))
            changes[finding] = f"the photo is called {sample.name}"
        elif finding.code == "box-twice":
            changes[finding] = CODES[finding.code].mended
    if any(finding.code == "box-twice" for finding in findings):
        sample = _without_copies(sample)
    return sample


def _resized(sample: Sample, size_hw: tuple[int, int]) -> Sample | None:
    """The boxes on the photo's true size, if that has the same shape as the recorded one."""
    truth = sample.truth
    scale_xy = size_hw[1] / truth.size_hw[1], size_hw[0] / truth.size_hw[0]
    if len(truth) and abs(scale_xy[0] / scale_xy[1] - 1) > _SAME_SHAPE:
        return None
    boxes_xyxy = np.asarray(scale(truth.boxes_xyxy, scale_xy), np.float32)
    points = truth.points_xyv
    points = None if points is None else points * np.array([*scale_xy, 1], np.float32)
    areas = None if sample.areas_px is None else sample.areas_px * scale_xy[0] * scale_xy[1]
    return replace(
        sample, truth=replace(truth, size_hw=size_hw, boxes_xyxy=boxes_xyxy, points_xyv=points), areas_px=areas
    )


def upright(truth: Detections, orientation: int) -> Detections:
    """Boxes on the stored pixels of a photo -> the same on the photo as EXIF turns it.

    Args:
        truth: its `size_hw` is the stored size.
        orientation: EXIF's 1 to 8; 5 to 8 lie on their side; 2, 3, 6, 7 mirror x; 3, 4, 7, 8 mirror y.
    """
    (height, width), boxes_xyxy, points = truth.size_hw, truth.boxes_xyxy, truth.points_xyv
    if orientation >= 5:
        height, width = width, height
        boxes_xyxy = boxes_xyxy[:, [1, 0, 3, 2]]
        points = None if points is None else points[:, :, [1, 0, 2]]
    for axis, side, mirrored in ((0, width, (2, 3, 6, 7)), (1, height, (3, 4, 7, 8))):
        if orientation in mirrored:
            boxes_xyxy = boxes_xyxy.copy()
            boxes_xyxy[:, [axis, axis + 2]] = side - boxes_xyxy[:, [axis + 2, axis]]
            if points is not None:
                points = points.copy()
                points[:, :, axis] = np.where(points[:, :, 2] > 0, side - points[:, :, axis], points[:, :, axis])
    return replace(truth, size_hw=(height, width), boxes_xyxy=boxes_xyxy, points_xyv=points)


def _without_copies(sample: Sample) -> Sample:
    truth = sample.truth
    kept = np.arange(len(truth)) if truth.crowd is None else np.flatnonzero(~truth.crowd)
    labels = truth.labels
    copies = [row for row, other in same_boxes(sample, kept) if labels[row] == labels[other]]
    rows = np.setdiff1d(np.arange(len(truth)), np.array(copies, np.int64))
    areas = None if sample.areas_px is None else sample.areas_px[rows]
    return replace(sample, truth=truth[rows], areas_px=areas, rows=None)


def write(mended: Mended, target: Path) -> Mended:
    """Write the mended data set in its own format, photos hard-linked or copied, with a line per change in `fix.log`.

    Args:
        mended: what to write. target: a new or empty folder.
    Returns:
        The same, with what the format could not carry.
    Raises:
        UsageError: the folder has content. DataError: nothing is left.
    """
    kept = [dataset for dataset in mended.datasets if len(dataset)]
    if not kept:
        raise DataError("no photo is left", file=target, found="0 photos without a fault that cannot be mended")
    lost = formats.write(kept, target, _format(kept[0]))
    done = replace(mended, lost=tuple(lost))
    with replacing(target / LOG_NAME) as partial:
        lines = (f"{json.dumps(change.to_dict())}\n" for change in mended.changes)
        partial.write_text("".join(lines), encoding="utf-8")
    return done


def _format(dataset: Dataset) -> formats.Format:
    name = dataset.format
    assert name in ("coco", "yolo", "voc", "csv")
    return name  # type: ignore[return-value]
