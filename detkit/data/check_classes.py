"""The part of `detkit data check` that looks at the set as a whole: classes, ids and flags, split by split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from detkit.data.dataset import Dataset
from detkit.data.findings import Finding

RARE_BOXES = 10
_MIN_CORNER_BOXES = 4  # fewer boxes prove nothing


def class_counts(dataset: Dataset) -> NDArray[np.int64]:
    """Boxes of each class, int64 [K], crowd boxes included."""
    count = len(dataset.class_names)
    labels = [sample.truth.labels for sample in dataset]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=count)[:count]


def class_findings(datasets: Sequence[Dataset]) -> Iterator[Finding]:
    """Classes nobody labelled, those missing in a split, and those too rare to learn."""
    if not datasets:
        return
    first = datasets[0]
    for dataset in datasets[1:]:
        if dataset.class_names != first.class_names:
            what = f"the splits {first.split} and {dataset.split} have different classes"
            found = ", ".join(sorted(set(first.class_names) ^ set(dataset.class_names))) or "another order"
            yield Finding("class-lists-differ", what, dataset.source, found=found)
            return
    counts = np.array([class_counts(dataset) for dataset in datasets])  # [splits, K]
    learn = next((row for row, dataset in enumerate(datasets) if dataset.split == "train"), 0)
    for label, name in enumerate(first.class_names):
        if not counts[:, label].any():
            yield Finding("class-unused", f"no box has the class {name!r}", first.source, found=name)
            continue
        for row, dataset in enumerate(datasets):
            if not counts[row, label]:
                what = f"the split {dataset.split} has no box of the class {name!r}"
                yield Finding("class-missing-in-split", what, dataset.source, found=name)
        if 0 < counts[learn, label] < RARE_BOXES:
            what = f"the class {name!r} has few boxes in {datasets[learn].split or 'the set'}"
            expected = f"at least {RARE_BOXES}"
            yield Finding("class-rare", what, first.source, found=f"{counts[learn, label]} boxes", expected=expected)


def id_findings(datasets: Iterable[Dataset]) -> Iterator[Finding]:
    """Annotations with id 0 (COCO), crowd boxes, and boxes of COCO that make sense only as corners."""
    for dataset in datasets:
        crowds = sum(int(sample.truth.crowd.sum()) for sample in dataset if sample.truth.crowd is not None)
        if crowds:
            where = f" in the split {dataset.split}" if dataset.split else ""
            yield Finding("crowd", f"{crowds} crowd or difficult boxes{where}", dataset.source, found=str(crowds))
        if dataset.format != "coco":
            continue
        for sample in dataset:
            if sample.rows is not None and (sample.rows == 0).any():
                what = "an annotation has the id 0"
                yield Finding("annotation-id-zero", what, sample.label_file, item=0, photo=sample.image_path)
        yield from _corners(dataset)


def _corners(dataset: Dataset) -> Iterator[Finding]:
    """Boxes [x, y, w, h] that reach over the edge, all of which lie on the photo if w, h are the other corner."""
    beyond = fitting = total = 0
    for sample in dataset:
        boxes_xyxy = sample.truth.boxes_xyxy
        corners, limits = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], np.array(sample.truth.size_hw[::-1]) + 1
        beyond += int((boxes_xyxy[:, 2:] > limits).any(1).sum())
        fitting += int(((corners > boxes_xyxy[:, :2]) & (corners <= limits)).all(1).sum())
        total += len(boxes_xyxy)
    if beyond and fitting == total >= _MIN_CORNER_BOXES:
        what = (
            f"all {total} boxes fit their photos as x1, y1, x2, y2 and {beyond} of them do not as x, y, width, height"
        )
        yield Finding("box-as-corners", what, dataset.source, expected="[x, y, width, height]")


def ids_from_one(datasets: Sequence[Dataset], findings: Sequence[Finding]) -> Finding | None:
    """YOLO's class ids counted from 1: one is just beyond the list, and 0 never occurs."""
    if not datasets or datasets[0].format != "yolo":
        return None
    unknown = [finding for finding in findings if finding.code == "class-unknown"]
    count = len(datasets[0].class_names)
    beyond = {_class_id(finding) for finding in unknown}
    if beyond != {count} or any(class_counts(dataset)[0] for dataset in datasets):
        return None
    what = f"class ids run from 1 to {count}, and no box has the class 0 ({datasets[0].class_names[0]!r})"
    return Finding("class-ids-from-one", what, datasets[0].source, found=f"1 to {count}", expected=f"0 to {count - 1}")


def _class_id(finding: Finding) -> int:
    try:
        return int(float((finding.found or "").strip("'\"").split()[0]))
    except (ValueError, IndexError, OverflowError):
        return -1
