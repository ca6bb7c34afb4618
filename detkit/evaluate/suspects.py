"""The likeliest label errors: where a model that is mostly right disagrees with the labels.

The powers and constants were set on real photos with labels corrupted on purpose, so that the four kinds of error are
even in one ranking. A suspect is a place to look at: a model's own mistakes look the same from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import iou_matrix, xywh_to_xyxy
from detkit.evaluate.columns import Columns
from detkit.evaluate.overlaps import Overlaps, owners, pairs

SuspectKind = Literal["missing label", "wrong class", "badly placed", "nothing there"]
KINDS: tuple[SuspectKind, ...] = get_args(SuspectKind)

_ON_IOU, _NEAR_IOU = 0.5, 0.1  # a box is on an object, or near it
_DOUBT = 0.2  # score that a detection of another class or place must outweigh
_NESTED = 0.35  # a box of which less than this sticks out of the other: the model cut it or drew it too wide
_NESTED_WEIGHT = 0.3
_LOWEST_SCORE = 0.2  # of a detection that may be a missing label
_SEEN_SCORE = 0.05  # support from which an object counts as seen
_UNSEEN_SCORES = (0.03, 0.2)  # support up to which an object is a full suspect, and from which it is none
_UNSEEN_WEIGHT = 0.9
_SAID = 0.3  # from here on a detection names the kind of error of an object that is also unseen
_SAME_THING_IOU = 0.3  # suspects that overlap more are one

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A label that may be wrong, or a place where one may be missing.

    Args:
        kind: what seems wrong.
        score: 0-1, the higher the likelier; comparable between kinds.
        name, position: the photo's name, and its place in the data set.
        label_file, row: where the label is: its line, annotation id or number as in `Sample.rows`; None where unknown.
        label, label_xyxy: the label's class and box in pixels; None for a missing one.
        found, found_xyxy, found_score: the detection that speaks against it; None where there is nothing.
    """

    kind: SuspectKind
    score: float
    name: str
    position: int
    label_file: str | None
    row: int | None
    label: str | None
    label_xyxy: tuple[float, float, float, float] | None
    found: str | None
    found_xyxy: tuple[float, float, float, float] | None
    found_score: float | None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self)


class _Evidence(NamedTuple):
    """What the detections say about the labels."""

    free: BoolArray  # [N] detections that found no truth and lie on no crowd
    on: BoolArray  # [P] pairs that overlap as one thing, whatever the class
    inside: FloatArray  # [P] share of the detection that lies in the truth
    nested: FloatArray  # [P] the larger of that and the share of the truth that lies in the detection
    own: FloatArray  # [M] best score of a detection of its class on each truth


class _Candidates(NamedTuple):
    """Suspects of one kind, C of them; rows of truths or detections, -1 for none."""

    kind: SuspectKind
    score: FloatArray
    truth: NDArray[np.int64]
    detection: NDArray[np.int64]


def label_suspects(table: Overlaps, *, limit: int = 100) -> tuple[Suspect, ...]:
    """Labels to look at again, the likeliest error first; each thing once.

    - missing label: a detection on nothing labelled, by the share of detections alike (class, size, score) that are
      right. Squared, as a detection on nothing is also what a model's own mistakes look like.
    - wrong class: a detection of another class on an object, by how far it outweighs those of the label's class.
    - badly placed: the same for one of its class beside the object; less where one box lies within the other.
    - nothing there: an object without any detection of its class, by the share of objects alike (class, size) that
      have one, squared too; less where other objects hide it.

    Args:
        table: from `find_overlaps`, of detections down to a low score.
        limit: how many at most.
    """
    seen = _evidence(table)
    unseen = _unseen(table, seen)
    said = _disagreeing(table, seen, unseen)
    every = [*said, unseen, _unlabelled(table, seen, said)]
    score = np.concatenate([c.score for c in every])
    truth = np.concatenate([c.truth for c in every])
    detection = np.concatenate([c.detection for c in every])
    kinds = [kind for c in every for kind in [c.kind] * len(c.score)]
    order = np.argsort(-score, kind="stable")
    order = order[score[order] > 0]
    chosen = _each_once(table, truth[order], detection[order], limit)
    return tuple(_suspect(table, kinds[i], float(score[i]), int(truth[i]), int(detection[i])) for i in order[chosen])


def _evidence(table: Overlaps) -> _Evidence:
    asked = table.counts[table.truth]
    sizes = [np.prod(c.boxes_xywh[:, 2:], axis=1) for c in (table.found, table.truths)]
    areas = [sizes[0][table.detection], sizes[1][table.truth]]  # [P] each
    shared = np.where(asked, table.overlap * (areas[0] + areas[1]) / (1 + table.overlap), 0)
    inside, holding = (shared / np.maximum(area, 1e-9) for area in areas)
    on = asked & (table.overlap >= _ON_IOU)
    scores = table.found.scores[table.detection]
    own = _largest(scores, table.truth, on & table.same_class, len(table.counts))
    return _Evidence(owners(table, _ON_IOU) < 0, on, inside, np.maximum(inside, holding), own)


def _disagreeing(table: Overlaps, seen: _Evidence, unseen: _Candidates) -> list[_Candidates]:
    """Objects of which a detection says another class or another place; that they are unseen as labelled counts too."""
    scores, asked, same = table.found.scores[table.detection], table.counts[table.truth], table.same_class
    weight = scores / (scores + seen.own[table.truth] + _DOUBT)
    near = asked & same & (table.overlap >= _NEAR_IOU) & (table.overlap < _ON_IOU)
    apart = np.clip((1 - seen.nested) / _NESTED, _NESTED_WEIGHT, 1)
    said = [
        _best_pairs("wrong class", table, weight, seen.on & ~same & seen.free[table.detection]),
        _best_pairs("badly placed", table, weight * apart, near & seen.free[table.detection]),
    ]
    as_unseen = np.zeros(len(table.counts))
    as_unseen[unseen.truth] = unseen.score
    return [c._replace(score=np.where(c.score > _SAID, np.maximum(c.score, as_unseen[c.truth]), c.score)) for c in said]


def _best_pairs(kind: SuspectKind, table: Overlaps, weight: FloatArray, which: BoolArray) -> _Candidates:
    """The pair of most weight for each truth."""
    rows = np.flatnonzero(which)
    rows = rows[np.argsort(-weight[rows], kind="stable")]
    rows = rows[np.unique(table.truth[rows], return_index=True)[1]]
    return _Candidates(kind, weight[rows], table.truth[rows], table.detection[rows])


def _unseen(table: Overlaps, seen: _Evidence) -> _Candidates:
    """Objects that no detection supports though those alike are mostly seen."""
    truths, scores, same = table.truths, table.found.scores[table.detection], table.same_class
    asked = table.counts[table.truth]
    size = len(table.counts)
    close = _largest(scores, table.truth, asked & same & (table.overlap >= 0.4), size)
    part = _largest(scores, table.truth, asked & same & (table.overlap >= _NEAR_IOU) & (seen.nested >= 0.8), size)
    support = np.maximum(close, 0.7 * part)
    rows = np.flatnonzero(table.counts)
    sides = [(_log_sides(truths)[rows], 0.1, 0.3)]
    usual = _share_alike(support[rows] > _SEEN_SCORE, truths.categories[rows] - 1, sides, table.class_count)
    score = _UNSEEN_WEIGHT * usual**2 * np.interp(support[rows], _UNSEEN_SCORES, (1, 0)) * (1 - _hidden(truths)[rows])
    return _Candidates("nothing there", score, rows, np.full(len(rows), -1))


def _unlabelled(table: Overlaps, seen: _Evidence, said: Sequence[_Candidates]) -> _Candidates:
    """Detections on nothing labelled, of a kind that is mostly right; not those that say what a label should be."""
    found, size = table.found, len(table.found.scores)
    right = _largest(np.ones(len(seen.on)), table.detection, seen.on & table.same_class, size) > 0
    on_any = _largest(np.ones(len(seen.on)), table.detection, seen.on, size) > 0
    judged = np.flatnonzero((found.scores > _LOWEST_SCORE / 2) & (right | (seen.free & ~on_any)))
    features = [(_log_sides(found)[judged], 0.25, 0.5), (found.scores[judged], 0.05, 0.1)]
    share = _share_alike(right[judged], found.categories[judged] - 1, features, table.class_count)
    inside = _largest(seen.inside, table.detection, table.same_class, size)[judged]
    score = share**2 * (1 - np.maximum(0, inside - 0.3))
    spoken_for = np.zeros(size, np.bool_)
    for each in said:
        spoken_for[each.detection[each.score > _SAID]] = True
    kept = ~right[judged] & ~spoken_for[judged] & (found.scores[judged] > _LOWEST_SCORE)
    return _Candidates("missing label", score[kept], np.full(kept.sum(), -1), judged[kept])


def _share_alike(
    yes: BoolArray, labels: NDArray[np.int64], features: Sequence[tuple[FloatArray, float, float]], classes: int
) -> FloatArray:
    """For each of R rows the share of rows alike for which `yes` holds, [R].

    Rows are alike in their features, each given as its values, the width of its bins and the spread (standard
    deviation) of a Gaussian window; rows of other classes weigh 0.3.
    """
    places = [np.maximum(values / width, 0).astype(np.int64) for values, width, _ in features]
    shape = [int(place.max(initial=0)) + 1 for place in places]
    counts = np.zeros((2, classes, *shape))
    np.add.at(counts, (yes.astype(np.int64), labels, *places), 1)
    counts = 0.7 * counts + 0.3 * counts.sum(axis=1, keepdims=True)
    for axis, (length, (_, width, spread)) in enumerate(zip(shape, features, strict=True), start=2):
        steps = np.arange(length)
        window = np.exp(-0.5 * ((steps[:, None] - steps) * width / spread) ** 2)
        counts = np.moveaxis(np.tensordot(window, counts, (1, axis)), 0, axis)
    share: FloatArray = counts[1] / np.maximum(counts.sum(axis=0), 1e-9)
    return share[(labels, *places)]


def _hidden(truths: Columns) -> FloatArray:
    """The share of each truth that lies within another one, [M]; crowds hide nothing."""
    a, b, overlap = pairs(truths, truths._replace(crowd=np.zeros_like(truths.crowd)))
    areas = np.prod(truths.boxes_xywh[:, 2:], axis=1)
    shared = overlap * (areas[a] + areas[b]) / (1 + overlap)
    return _largest(shared / np.maximum(areas[a], 1e-9), a, (a != b) & ~truths.crowd[b], len(areas))


def _log_sides(columns: Columns) -> FloatArray:
    """Logarithm of the root of the area of each box, from 0 for a pixel."""
    return np.log(np.maximum(np.prod(columns.boxes_xywh[:, 2:], axis=1), 1)) / 2


def _largest(values: FloatArray, places: NDArray[np.int64], which: BoolArray, size: int) -> FloatArray:
    """The largest of the chosen values at each place, [size]; 0 without any."""
    result = np.zeros(size)
    np.maximum.at(result, places[which], values[which])
    return result


def _each_once(table: Overlaps, truth: NDArray[np.int64], detection: NDArray[np.int64], limit: int) -> list[int]:
    """Places of the first `limit` suspects, those left out that overlap an earlier one."""
    columns = ((table.truths, truth), (table.found, detection))
    boxes = [np.vstack([xywh_to_xyxy(c.boxes_xywh), np.zeros((1, 4))])[rows] for c, rows in columns]  # [C, 4] each
    images = np.where(truth >= 0, np.append(table.truths.images, 0)[truth], np.append(table.found.images, 0)[detection])
    taken: dict[int, list[NDArray[np.float64]]] = {}
    chosen: list[int] = []
    for at, image in enumerate(images.tolist()):
        if len(chosen) == limit:
            break
        both = np.stack([each[at] for each in boxes])
        earlier = taken.setdefault(image, [])
        if not earlier or iou_matrix(both, np.vstack(earlier)).max() < _SAME_THING_IOU:
            chosen.append(at)
            earlier.append(both)
    return chosen


def _suspect(table: Overlaps, kind: SuspectKind, score: float, truth: int, detection: int) -> Suspect:
    names = table.dataset.class_names
    image = int(table.truths.images[truth] if truth >= 0 else table.found.images[detection])
    position = int(table.positions[image - 1])
    sample = table.dataset.samples[position]
    row = None
    if truth >= 0 and sample.rows is not None:
        row = int(sample.rows[truth - int(np.searchsorted(table.truths.images, image))])

    def told(columns: Columns, at: int) -> tuple[str | None, tuple[float, float, float, float] | None]:
        if at < 0:
            return None, None
        x1, y1, x2, y2 = xywh_to_xyxy(columns.boxes_xywh[at][None])[0].tolist()
        return names[columns.categories[at] - 1], (x1, y1, x2, y2)

    return Suspect(
        kind,
        score,
        sample.name,
        position,
        None if sample.label_file is None else str(sample.label_file),
        row,
        *told(table.truths, truth),
        *told(table.found, detection),
        found_score=None if detection < 0 else float(table.found.scores[detection]),
    )
