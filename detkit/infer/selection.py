"""Which of a network's boxes become detections: classes, thresholds, non-max suppression, and back to the photo."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.images import Placement
from detkit.nms import nms, soft_nms
from detkit.weights import ModelCard

Float32 = NDArray[np.float32]
Suppression = Literal["class", "agnostic", "soft"]
MAX_DET = 100  # boxes a photo, where nobody asks for more or fewer


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of a network's boxes become detections.

    Args:
        conf: a box scored below this is dropped.
        iou: of two boxes of a class that overlap more than this, the better stays.
        max_det: at most so many detections for a photo, the best.
        nms: "class"; "agnostic": boxes of different classes suppress each other too; "soft": the score of an overlapped
            box is multiplied by 1 - IoU (soft-NMS, linear: Bodla et al., ICCV 2017) and dropped when it falls below
            `conf`.
        classes: labels to look for, or None for all. Boxes of other classes are dropped before anything else, so
            neither do they suppress nor do they count among the `max_candidates`.
        class_conf: a threshold for each of the K classes, in the place of `conf`, or None.
        max_candidates: at most so many (box, class) pairs enter non-max suppression, the best.
    """

    conf: float
    iou: float
    max_det: int = MAX_DET
    nms: Suppression = "class"
    classes: tuple[int, ...] | None = None
    class_conf: tuple[float, ...] | None = None
    max_candidates: int = 3000

    def __post_init__(self) -> None:
        for name, value in (
            ("conf", self.conf),
            ("iou", self.iou),
            *(("class_conf", c) for c in self.class_conf or ()),
        ):
            if not 0 <= value <= 1:
                raise UsageError(f"{name} of a prediction", found=value, expected="0 to 1")
        for name in ("max_det", "max_candidates"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} of a prediction", found=getattr(self, name), expected="1 or more")
        if self.nms not in get_args(Suppression):
            raise UsageError("nms of a prediction", found=self.nms, expected=" or ".join(get_args(Suppression)))
        if self.classes is not None and (not self.classes or min(self.classes) < 0):
            raise UsageError(
                "classes of a prediction", found=self.classes, expected="one label or more, each 0 or more"
            )

    def thresholds(self, class_count: int) -> Float32:
        """The score from which on a box of each class counts, float32 [K]; infinite for a class not looked for.

        Raises:
            UsageError: `classes` or `class_conf` belong to a model with another number of classes.
        """
        if self.class_conf is not None and len(self.class_conf) != class_count:
            found, expected = f"{len(self.class_conf)} thresholds", f"{class_count}, one for each class of the model"
            raise UsageError("class_conf of a prediction", found=found, expected=expected)
        if self.classes is not None and max(self.classes) >= class_count:
            found, expected = f"label {max(self.classes)}", f"below {class_count}, the number of classes of the model"
            raise UsageError("classes of a prediction", found=found, expected=expected)
        wanted = np.full(class_count, self.conf) if self.class_conf is None else np.array(self.class_conf)
        if self.classes is not None:
            wanted[np.setdiff1d(np.arange(class_count), self.classes)] = np.inf
        return wanted.astype(np.float32)


def class_labels(names: str | Sequence[str], class_names: Sequence[str]) -> tuple[int, ...]:
    """The labels of classes given by name, as `Selection.classes` takes them.

    Args:
        names: "person,car", or a list of such texts; a class whose name holds a comma is named alone in its text.
        class_names: the model's, in label order.
    Returns:
        Labels in ascending order, each once.
    Raises:
        UsageError: no name, or one the model does not know; it says the nearest one and those there are.
    """
    texts = [names] if isinstance(names, str) else names
    asked = [name for text in texts for name in ([text] if text in class_names else text.split(","))]
    asked = [name.strip() for name in asked if name.strip()]
    if not asked:
        raise UsageError("no class is named", expected=_listed(class_names))
    for name in asked:
        if name not in class_names:
            folded = {known.casefold(): known for known in class_names}
            near = difflib.get_close_matches(name.casefold(), folded, n=1)
            hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
            raise UsageError(f"the model knows no class {name!r}{hint}", expected=_listed(class_names))
    return tuple(sorted({class_names.index(name) for name in asked}))


def check_within_graph(selection: Selection, card: ModelCard, file: Path | None) -> None:
    """Refuse to look for boxes that a graph with non-max suppression inside has dropped already.

    Raises:
        UsageError: it asks for lower scores, more overlap, more boxes, or another kind of suppression.
    """
    if not card.max_det:
        return
    inside = Selection(card.thresholds["conf"], card.thresholds["iou"], class_conf=card.class_conf())
    count = len(card.class_names)
    asked, left = (float(s.thresholds(count).min(initial=1)) for s in (selection, inside))
    for what, found, expected, is_beyond in (
        ("conf", asked, f"{left:g} or more", (selection.thresholds(count) < inside.thresholds(count)).any()),
        ("iou", selection.iou, f"{inside.iou:g} or less", selection.iou > inside.iou),
        ("max_det", selection.max_det, f"{card.max_det} or fewer", selection.max_det > card.max_det),
        ("nms", selection.nms, "'class' or 'agnostic'", selection.nms == "soft"),
    ):
        if is_beyond:
            inside_note = "has non-max suppression inside, which has dropped the other boxes; export it without --nms"
            shown = found if isinstance(found, str) else f"{found:g}"
            raise UsageError(f"{what}: the model {inside_note}", file=file, found=shown, expected=expected)


def select(
    boxes_xyxy: Float32,
    scores_matrix: Float32,
    placement: Placement,
    selection: Selection,
    points_xyv: Float32 | None = None,
) -> Detections:
    """Turn what a network says of one canvas into detections on the photo; a box may win in several classes.

    Args:
        boxes_xyxy: [N, 4] in canvas pixels.
        scores_matrix: [N, K] in 0-1.
        placement: where the photo lies on the canvas.
        selection: classes, thresholds and limits.
        points_xyv: [N, P, 3] in canvas pixels, or None.
    Returns:
        Detections in the photo's pixels, clipped to it, best first; boxes wholly outside it are gone.
    """
    thresholds = selection.thresholds(scores_matrix.shape[1])
    rows, labels, scores = candidates(boxes_xyxy, scores_matrix, selection)
    kept, scores = _suppressed(boxes_xyxy[rows], scores, labels, selection, thresholds)
    rows, labels = rows[kept], labels[kept]
    on_photo_xyxy = placement.to_image(boxes_xyxy[rows])
    chosen = shown(on_photo_xyxy, selection)
    points = None if points_xyv is None else placement.points_to_image(points_xyv[rows[chosen]])
    return Detections(placement.image_hw, on_photo_xyxy[chosen], labels[chosen], scores[chosen], points)


def candidates(
    boxes_xyxy: Float32, scores_matrix: Float32, selection: Selection
) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """Rows, labels and scores of what enters non-max suppression, in their order of appearance; as `select` has it."""
    rows, labels, scores = _counting(scores_matrix, selection.thresholds(scores_matrix.shape[1]))
    best = _best(scores, selection.max_candidates)
    best = best[np.isfinite(boxes_xyxy[rows[best]]).all(axis=1)]
    return rows[best], labels[best], scores[best]


def shown(on_photo_xyxy: Float32, selection: Selection) -> NDArray[np.intp]:
    """Which boxes [N, 4] that were kept, best first and clipped to the photo, become detections."""
    has_area = (on_photo_xyxy[:, 2] > on_photo_xyxy[:, 0]) & (on_photo_xyxy[:, 3] > on_photo_xyxy[:, 1])
    return np.flatnonzero(has_area)[: selection.max_det]


def _counting(scores_matrix: Float32, thresholds: Float32) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """Rows, labels and scores of the boxes that count, in their order of appearance; NaN is no score.

    The lowest threshold leaves few of them, in a single pass over the matrix: a fifth of the time that `nonzero` takes.
    """
    flat = scores_matrix.ravel()
    at = np.flatnonzero(flat >= thresholds.min(initial=np.inf))
    rows, labels = np.divmod(at, max(1, len(thresholds)))
    scores = flat[at]
    counts = scores >= thresholds[labels]
    return rows[counts], labels[counts], scores[counts]


def _suppressed(
    boxes_xyxy: Float32, scores: Float32, labels: NDArray[np.intp], selection: Selection, thresholds: Float32
) -> tuple[NDArray[np.int64], Float32]:
    """Indices of the boxes that stay and their scores, best first."""
    if selection.nms != "soft":
        kept = nms(boxes_xyxy, scores, None if selection.nms == "agnostic" else labels, selection.iou)
        return kept, scores[kept]
    least = float(thresholds.min(initial=np.inf))
    kept, scores = soft_nms(
        boxes_xyxy, scores, labels, method="linear", iou_threshold=selection.iou, score_threshold=least
    )
    stays = scores >= thresholds[labels[kept]]
    return kept[stays], scores[stays]


def _best(scores: Float32, limit: int) -> NDArray[np.intp]:
    """Indices of the `limit` highest scores, in their order of appearance; among equals the earlier ones."""
    if len(scores) <= limit:
        return np.arange(len(scores))
    border = np.partition(scores, -limit)[-limit]
    above, level = np.flatnonzero(scores > border), np.flatnonzero(scores == border)
    return np.sort(np.concatenate([above, level[: limit - len(above)]]))


def _listed(names: Sequence[str], at_most: int = 12) -> str:
    more = "" if len(names) <= at_most else f" and {len(names) - at_most} more"
    return ", ".join(names[:at_most]) + more
