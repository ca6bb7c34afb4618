"""The proof of an export: source and export look at the same photos, and their boxes are matched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detkit.boxes import iou_matrix
from detkit.detections import Detections
from detkit.engines import Engine
from detkit.errors import RunError
from detkit.evaluate.coco import CONF_FLOOR, evaluate
from detkit.evaluate.landmarks import evaluate_landmarks
from detkit.export.photos import Photos
from detkit.export.settings import Precision
from detkit.infer.landmarks import LandmarkPredictor
from detkit.infer.predictor import Predictor
from detkit.weights import ModelCard

_MATCH_IOU = 0.5
_BEST_ROWS = 300  # of a network that sees no object anywhere


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an export may differ.

    Args:
        box_px, score: a coordinate of a matched box, in pixels of the canvas, and its score.
        within: share of the matched boxes that must differ by no more than that.
        matched: share of the boxes that must be matched.
    """

    box_px: float
    score: float
    within: float = 1.0
    matched: float = 1.0


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(0.1, 1e-3),
    "fp16": Tolerance(1.0, 0.01, within=0.95, matched=0.95),
    "int8": Tolerance(8.0, 0.1, within=0.9, matched=0.9),
}


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found.

    Args:
        photos: what they are; `images` how many.
        boxes: those that source or export call an object; `matched` of them both have. Where there is none, the best
            rows of the networks are compared instead.
        within: of the matched, those that differ by no more than the tolerance.
        box_px: the largest difference of a coordinate of matched boxes, or of their points, in pixels of the canvas.
        score: the largest difference of their scores, or of a point's visibility.
        figures: "AP" and "AP50", or "NME" of points, as (source, export), where the photos are labelled.
        tolerance: what is allowed.
    """

    photos: str
    images: int
    boxes: int
    matched: int
    within: int
    box_px: float
    score: float
    figures: dict[str, tuple[float, float]]
    tolerance: Tolerance

    @property
    def share(self) -> float:
        """Of the boxes, those that both have."""
        return self.matched / self.boxes if self.boxes else 1.0

    @property
    def passed(self) -> bool:
        """Whether enough of the boxes are there and within tolerance; NaN is not."""
        is_within = self.within >= self.tolerance.within * self.matched
        return is_within and self.share >= self.tolerance.matched

    def require(self) -> None:
        """Raise RunError unless all is within tolerance."""
        if self.passed:
            return
        allowed = self.tolerance
        what = f"the export does not give the source's boxes on {self.photos}, so it was not kept"
        found = f"{self.matched} of {self.boxes} boxes matched, up to {self.box_px:.3g} px and {self.score:.3g} apart"
        limits = f"{allowed.box_px:g} px and {allowed.score:g}"
        expected = f"{allowed.matched:.0%}, and {allowed.within:.0%} of them at most {limits}"
        raise RunError(what, found=found, expected=expected)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "photos": self.photos,
            "images": self.images,
            "boxes": self.boxes,
            "matched": self.matched,
            "within": self.within,
            "box_px": _number(self.box_px),
            "score": _number(self.score),
            "figures": {name: {"source": a, "export": b, "delta": b - a} for name, (a, b) in self.figures.items()},
            "tolerance": asdict(self.tolerance),
            "passed": self.passed,
        }


def verify(source: Engine, export: Engine, photos: Photos, tolerance: Tolerance) -> Iterator[int | Proof]:
    """Look at the photos with both; gives how many photos are done, and at last the proof.

    Args:
        source, export: their cards agree but for `max_det`.
    """
    card, found = export.card, []
    for number, engine in enumerate((source, export)):
        predictions: list[Detections] = []
        for detections in _predictions(engine, card, photos):
            predictions.append(detections)
            yield number * len(photos) + len(predictions)
        found.append(predictions)
    proof = _compare(card, photos, (found[0], found[1]), tolerance)
    yield proof if proof.boxes or card.max_det else _compare_rows(source, export, photos, proof)


def _predictions(engine: Engine, card: ModelCard, photos: Photos) -> Iterator[Detections]:
    """What an engine says of each photo: boxes down to a low score, where the export can give them."""
    if card.task == "landmarks":
        yield from _points(LandmarkPredictor(engine), photos)
        return
    predictor = Predictor(engine, conf=None if card.max_det else CONF_FLOOR, max_det=card.max_det or None)
    for image in photos.images:
        yield predictor.predict(image) if isinstance(image, np.ndarray) else next(predictor.predict_files([image]))


def _points(predictor: LandmarkPredictor, photos: Photos) -> Iterator[Detections]:
    """The points of the labelled boxes; of the whole photo, where there are none."""
    if photos.labels is not None:
        yield from predictor.stream_truth(photos.labels.samples)
        return
    for image_rgb in photos.read():
        size_hw = image_rgb.shape[0], image_rgb.shape[1]
        whole = np.array([[0, 0, size_hw[1], size_hw[0]]], np.float32)
        points = predictor.points(image_rgb, whole)
        yield Detections(size_hw, whole, np.zeros(1, np.int64), points[..., 2].mean(axis=1), points)


def _compare_rows(source: Engine, export: Engine, photos: Photos, proof: Proof) -> Proof:
    """The same for networks that see no object: the best rows of each canvas, whatever they score."""
    moved, scored = [], []
    for canvas in photos.canvases(export.card):
        a, b = source.run(canvas[None]), export.run(canvas[None])
        best = np.argsort(-a.scores[0].max(axis=1), kind="stable")[:_BEST_ROWS]
        moved.append(np.abs(a.boxes_xyxy[0, best].astype(float) - b.boxes_xyxy[0, best]).max(axis=1))
        scored.append(np.abs(a.scores[0, best].astype(float) - b.scores[0, best]).max(axis=1))
    rows = sum(map(len, moved))
    return replace(proof, boxes=rows, matched=rows, **_apart(moved, scored, proof.tolerance))


def _compare(
    card: ModelCard, photos: Photos, found: tuple[list[Detections], list[Detections]], tolerance: Tolerance
) -> Proof:
    counted = matched = 0
    moved, scored = [], []
    for a, b in zip(*found, strict=True):
        rows_a, rows_b = _pairs(a, b)
        shown_a, shown_b = _shown(a, card, 0), _shown(b, card, 0)
        either = shown_a[rows_a] | shown_b[rows_b]
        rows_a, rows_b = rows_a[either], rows_b[either]
        matched += len(rows_a)
        counted += len(rows_a) + _lonely(a, card, rows_a, tolerance) + _lonely(b, card, rows_b, tolerance)
        moved.append(_distances(card, a[rows_a], b[rows_b]))
        scored.append(_score_distances(a[rows_a], b[rows_b]))
    figures = {} if photos.labels is None else _figures(card, photos, found)
    apart = _apart(moved, scored, tolerance)
    return Proof(photos.name, len(photos), counted, matched, figures=figures, tolerance=tolerance, **apart)


def _apart(
    moved: Sequence[NDArray[np.float64]], scored: Sequence[NDArray[np.float64]], tolerance: Tolerance
) -> dict[str, Any]:
    """The fields of a proof that say how far the matched boxes are apart."""
    box_px, score = (np.concatenate([np.zeros(0), *parts]) for parts in (moved, scored))
    within = (box_px <= tolerance.box_px) & (score <= tolerance.score)  # NaN is not
    largest = {"box_px": float(box_px.max(initial=0.0)), "score": float(score.max(initial=0.0))}
    return {"within": int(within.sum())} | largest


def _pairs(a: Detections, b: Detections) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of boxes of one class that are each other's, the best overlap first."""
    overlap = iou_matrix(a.boxes_xyxy, b.boxes_xyxy) * (a.labels[:, None] == b.labels)
    at, of = np.nonzero(overlap >= _MATCH_IOU)
    rows: list[tuple[int, int]] = []
    taken: tuple[set[int], set[int]] = set(), set()
    for place in np.argsort(-overlap[at, of], kind="stable"):
        i, j = int(at[place]), int(of[place])
        if i not in taken[0] and j not in taken[1]:
            rows.append((i, j))
            taken[0].add(i)
            taken[1].add(j)
    pairs = np.array(rows, np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _shown(found: Detections, card: ModelCard, margin: float) -> NDArray[np.bool_]:
    """Which boxes are above their class's threshold, by more than a margin; a model of points shows all."""
    if card.task == "landmarks":
        return np.ones(len(found), np.bool_)
    conf = card.class_conf() or (card.thresholds["conf"],) * len(card.class_names)
    assert found.scores is not None
    return np.asarray(found.scores >= np.array(conf, np.float32)[found.labels] + margin)


def _lonely(found: Detections, card: ModelCard, paired: NDArray[np.intp], tolerance: Tolerance) -> int:
    """Boxes that are shown and that the other side has not; one at the threshold's edge may be on either side of it."""
    alone = _shown(found, card, tolerance.score)
    alone[paired] = False
    return int(alone.sum())


def _distances(card: ModelCard, a: Detections, b: Detections) -> NDArray[np.float64]:
    """Largest difference of a coordinate for each pair, in pixels of the canvas."""
    scale = _scales(card, a)
    moved = np.abs(a.boxes_xyxy.astype(float) - b.boxes_xyxy).max(axis=1, initial=0)
    if a.points_xyv is not None and b.points_xyv is not None:
        apart = np.abs(a.points_xyv[..., :2].astype(float) - b.points_xyv[..., :2])
        moved = np.maximum(moved, apart.max(axis=(1, 2), initial=0))
    return moved * scale


def _scales(card: ModelCard, found: Detections) -> NDArray[np.float64]:
    """Pixels of the canvas for one of the photo, for each box."""
    if card.task == "landmarks":
        sides = (found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]).max(axis=1, initial=1e-3)
        return card.input_hw[0] / (sides.astype(float) * (1 + 2 * card.crop_margin))
    both = np.array(card.input_hw) / np.array(found.size_hw)
    return np.full(len(found), both.max() if card.fit == "stretch" else both.min())


def _score_distances(a: Detections, b: Detections) -> NDArray[np.float64]:
    assert a.scores is not None
    assert b.scores is not None
    apart = np.abs(a.scores.astype(float) - b.scores)
    if a.points_xyv is not None and b.points_xyv is not None:
        seen = np.abs(a.points_xyv[..., 2].astype(float) - b.points_xyv[..., 2])
        apart = np.maximum(apart, seen.max(axis=1, initial=0))
    return apart


def _figures(
    card: ModelCard, photos: Photos, found: tuple[list[Detections], list[Detections]]
) -> dict[str, tuple[float, float]]:
    """How good both are on these photos."""
    assert photos.labels is not None
    if card.task == "landmarks":
        a, b = (evaluate_landmarks(photos.labels, predictions).NME for predictions in found)
        return {"NME": (a, b)}
    plain = [[replace(one, points_xyv=None) for one in predictions] for predictions in found]
    results = [evaluate(photos.labels, predictions) for predictions in plain]
    return {name: (getattr(results[0], name), getattr(results[1], name)) for name in ("AP", "AP50")}


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def proof_of(source: Engine, export: Engine, photos: Photos, tolerance: Tolerance) -> Proof:
    """`verify` without the reports."""
    *_, proof = verify(source, export, photos, tolerance)
    assert isinstance(proof, Proof)
    return proof
