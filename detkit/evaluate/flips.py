"""Which photos flipped: truths that one model finds and the other misses, and false alarms that are new or gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import iou_matrix
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.evaluate.outcomes import FALSE_ALARM, Outcome, outcomes
from detkit.evaluate.thresholds import IOU, study_thresholds

Kind = Literal["lost", "new_false", "found", "gone_false"]
_HARM: dict[Kind, int] = {"lost": 1, "new_false": 1, "found": -1, "gone_false": -1}
_UNCHOSEN = 0.25  # the threshold of a class without truths, or of which nothing is found


@dataclass(frozen=True, slots=True)
class Flip:
    """One change from model A to model B.

    Args:
        kind: "lost" (a truth that A finds and B misses), "found" (the reverse), "new_false" (a false alarm of B that A
            does not raise) or "gone_false" (the reverse).
        class_name: the class.
        box_xyxy: the truth's box, or that of the false alarm, in the photo's pixels.
        row: its place among the photo's truths, or among the detections of the model that raises the false alarm.
        score: of a false alarm; None for a truth.
    """

    kind: Kind
    class_name: str
    box_xyxy: tuple[float, float, float, float]
    row: int
    score: float | None = None


@dataclass(frozen=True, slots=True)
class PhotoFlips:
    """The changes on one photo, those for the worse first; `index` is its position in the data set."""

    name: str
    image_id: int
    index: int
    flips: tuple[Flip, ...]

    @property
    def harm(self) -> int:
        """Changes for the worse less those for the better."""
        return sum(_HARM[flip.kind] for flip in self.flips)

    def count(self, kind: Kind) -> int:
        """How many changes of a kind."""
        return sum(flip.kind == kind for flip in self.flips)


@dataclass(frozen=True, slots=True)
class Flips:
    """Every photo on which something changed, the most harmed first, the most improved last.

    `confs_a` and `confs_b` are the thresholds at which the models were looked at, by class; `iou` is the overlap from
    which a box finds a truth.
    """

    photos: tuple[PhotoFlips, ...]
    confs_a: dict[str, float]
    confs_b: dict[str, float]
    iou: float

    def count(self, kind: Kind) -> int:
        """How many changes of a kind, on all photos."""
        return sum(photo.count(kind) for photo in self.photos)

    def worse(self) -> list[PhotoFlips]:
        """Photos that B does worse on, the worst first."""
        return [photo for photo in self.photos if photo.harm > 0]

    def better(self) -> list[PhotoFlips]:
        """Photos that B does better on, the best first."""
        return sorted((photo for photo in self.photos if photo.harm < 0), key=lambda photo: photo.harm)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "counts": {kind: self.count(kind) for kind in _HARM},
            "confs_a": self.confs_a,
            "confs_b": self.confs_b,
            "iou": self.iou,
            "photos": [_photo_dict(photo) for photo in self.photos],
        }


def find_flips(
    dataset: Dataset,
    predictions_a: Sequence[Detections],
    predictions_b: Sequence[Detections],
    *,
    conf: float | None = None,
    iou: float = IOU,
) -> Flips:
    """What changes from model A to model B, photo by photo, for somebody who uses them at a threshold.

    Args:
        dataset: the labelled photos; boxes on crowds count neither way.
        predictions_a, predictions_b: one per sample each, in the data set's order.
        conf: the threshold of both; None takes for each model and class the one with its best F1 on these photos, so
            that models whose scores mean different things can be compared.
        iou: overlap from which a box finds a truth, and from which two false alarms are the same.
    Raises:
        DataError: predictions that do not fit the data set. UsageError: conf or iou out of its range.
    """
    if not (0 < iou <= 1 and (conf is None or 0 <= conf <= 1)):
        raise UsageError(
            "no such threshold", found=f"conf {conf}, iou {iou}", expected="conf 0-1, iou above 0, up to 1"
        )
    both = (predictions_a, predictions_b)
    confs_a, confs_b = (_working_confs(dataset, predictions, conf, iou) for predictions in both)
    results = [outcomes(dataset, predictions, iou) for predictions in both]
    photos = []
    for index, (sample, a, b, result_a, result_b) in enumerate(zip(dataset, *both, *results, strict=True)):
        seen_a, seen_b = _Seen.at(a, result_a, confs_a), _Seen.at(b, result_b, confs_b)
        flips = _flips(sample, dataset.class_names, seen_a, seen_b, iou)
        if flips:
            photos.append(PhotoFlips(sample.name, sample.image_id, index, tuple(flips)))
    photos.sort(key=lambda photo: (-photo.harm, -len(photo.flips), photo.index))
    by_name_a, by_name_b = (dict(zip(dataset.class_names, confs.tolist(), strict=True)) for confs in (confs_a, confs_b))
    return Flips(tuple(photos), by_name_a, by_name_b, iou)


def _working_confs(
    dataset: Dataset, predictions: Sequence[Detections], conf: float | None, iou: float
) -> NDArray[np.float64]:
    """The threshold of each class, [K]."""
    if conf is not None:
        return np.full(len(dataset.class_names), conf)
    choices = study_thresholds(dataset, predictions, iou=iou, draws=2)
    return np.array([_UNCHOSEN if choice.conf is None else choice.conf for choice in choices])


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What a model shows on one photo at its thresholds: truths found, and rows of its false alarms, best first."""

    boxes: Detections
    found: set[int]
    false_alarms: NDArray[np.int64]

    @classmethod
    def at(cls, boxes: Detections, outcome: Outcome, confs: NDArray[np.float64]) -> _Seen:
        assert boxes.scores is not None
        kept = boxes.scores >= confs[boxes.labels]
        false_alarms = np.flatnonzero(kept & (outcome.owner == FALSE_ALARM))
        order = np.argsort(-boxes.scores[false_alarms], kind="stable")
        return cls(boxes, set(outcome.owner[kept & (outcome.owner >= 0)].tolist()), false_alarms[order])


def _flips(sample: Sample, names: Sequence[str], a: _Seen, b: _Seen, iou: float) -> list[Flip]:
    shared_a, shared_b = _shared(a, b, iou)
    truths = [("lost", sorted(a.found - b.found)), ("found", sorted(b.found - a.found))]
    alarms = [("new_false", b, shared_b), ("gone_false", a, shared_a)]
    flips = [_flip(kind, sample.truth, row, names) for kind, rows in truths for row in rows]
    for kind, seen, shared in alarms:
        flips += [_flip(kind, seen.boxes, row, names) for row in seen.false_alarms.tolist() if row not in shared]
    return sorted(flips, key=lambda flip: list(_HARM).index(flip.kind))


def _flip(kind: Any, boxes: Detections, row: int, names: Sequence[str]) -> Flip:
    x1, y1, x2, y2 = boxes.boxes_xyxy[row].tolist()
    score = None if boxes.scores is None else float(boxes.scores[row])
    return Flip(kind, names[boxes.labels[row]], (x1, y1, x2, y2), row, score)


def _shared(a: _Seen, b: _Seen, iou: float) -> tuple[set[int], set[int]]:
    """Rows of the false alarms both models raise: each of B's takes the free one of A's that it overlaps most."""
    rows_a, rows_b = a.false_alarms, b.false_alarms
    matrix = iou_matrix(b.boxes.boxes_xyxy[rows_b], a.boxes.boxes_xyxy[rows_a])
    matrix = np.where(b.boxes.labels[rows_b][:, None] == a.boxes.labels[rows_a], matrix, 0)
    shared_a: set[int] = set()
    shared_b: set[int] = set()
    for place, row in enumerate(rows_b.tolist()):
        if len(rows_a) and matrix[place].max() >= iou:
            best = int(matrix[place].argmax())
            shared_a.add(int(rows_a[best]))
            shared_b.add(row)
            matrix[:, best] = 0
    return shared_a, shared_b


def _photo_dict(photo: PhotoFlips) -> dict[str, Any]:
    rows = [
        {"kind": f.kind, "class": f.class_name, "box_xyxy": [round(v, 2) for v in f.box_xyxy], "score": f.score}
        for f in photo.flips
    ]
    return {"name": photo.name, "image_id": photo.image_id, "harm": photo.harm, "flips": rows}
