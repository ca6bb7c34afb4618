"""What went wrong: which class is taken for which, and what each type of error costs in AP50."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from detkit.errors import UsageError
from detkit.evaluate.coco import UNDEFINED
from detkit.evaluate.matching import Matching, average_precisions
from detkit.evaluate.overlaps import LOWEST_IOU, Conf, Overlaps, closest, owners, thresholds, told_apart

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1  # TIDE's: from here on an object is found, below it is not even touched
BACKGROUND = "background"

ErrorType = Literal["classification", "localization", "both", "duplicate", "background", "missed"]
ERROR_TYPES: tuple[ErrorType, ...] = get_args(ErrorType)
MEANINGS = {
    "classification": "on an object of another class",
    "localization": "right class, box off: IoU 0.1 to 0.5",
    "both": "another class and box off",
    "duplicate": "a second box on an object found",
    "background": "on nothing: IoU below 0.1",
    "missed": "an object without any of these",
    "false positive": "all wrong boxes together",
    "false negative": "all objects not found",
}


@dataclass(frozen=True, slots=True, eq=False)
class ConfusionMatrix:
    """What each object was taken for: a row is what it truly is, a column what it was predicted as.

    Args:
        class_names: K names; the last row and column, beyond them, are the background.
        counts: int64 [K + 1, K + 1]. The last column holds objects nobody found, the last row boxes on nothing.
        conf: the threshold of each class, [K]: boxes below it are left out.
        iou: overlap from which a box is on an object.
        ignored: boxes on crowds of their class, which count neither way.
    """

    class_names: tuple[str, ...]
    counts: NDArray[np.int64]
    conf: tuple[float, ...]
    iou: float
    ignored: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; `labels` names rows and columns."""
        labels = [*self.class_names, BACKGROUND]
        return {
            "labels": labels,
            "rows": "truth",
            "columns": "predicted",
            "counts": self.counts.tolist(),
            "conf": list(self.conf),
            "iou": self.iou,
            "ignored": self.ignored,
        }


@dataclass(frozen=True, slots=True)
class ErrorCost:
    """One type of error: how many there are, how many of them with boxes as shown to a user, and AP50 lost by them.

    `count` has all detections, also those of very low score; `shown` those at or above the working threshold. For
    "missed" and "false negative" both count objects.
    """

    kind: str
    count: int
    shown: int
    cost: float


@dataclass(frozen=True, slots=True)
class ErrorTypes:
    """What AP50 is lost to, after TIDE (Bolya et al., ECCV 2020).

    Args:
        AP50: as `evaluate` has it; -1 where there is nothing to find.
        types: the six types in TIDE's order. Each cost is what AP50 gains when all errors of that type are mended and
            no other; so costs do not add up to what is missing to 1.
        totals: the same for all wrong boxes ("false positive") and all objects not found ("false negative").
        conf: the working threshold of each class.
    """

    AP50: float
    types: tuple[ErrorCost, ...]
    totals: tuple[ErrorCost, ...]
    conf: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self)


def confusion_matrix(table: Overlaps, *, conf: Conf, iou: float = 0.5) -> ConfusionMatrix:
    """Count what each object was taken for.

    Boxes are matched whatever their class, the highest score first: each takes the free object it overlaps most, if
    by `iou` or more, and each object is taken once. So every object and every box shown is counted exactly once.

    Args:
        table: from `find_overlaps`.
        conf: the working threshold, one for all classes or one for each.
        iou: overlap from which a box is on an object, 0.05 to 1.
    Raises:
        UsageError: a setting out of its range.
    """
    if not LOWEST_IOU <= iou <= 1:
        raise UsageError("no such overlap", found=f"iou {iou}", expected=f"{LOWEST_IOU:g} to 1")
    shown, classes = table.shown(conf), table.class_count
    owner = owners(table, iou, any_class=True, shown=shown)
    right, ignored = told_apart(table, owner)
    predicted, true = table.found.categories - 1, np.append(table.truths.categories - 1, classes)
    alone = shown & ~right & ~ignored
    missed = table.counts.copy()
    missed[owner[right]] = False
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    np.add.at(counts, (true[owner[right]], predicted[right]), 1)
    counts[-1, :-1] = np.bincount(predicted[alone], minlength=classes)
    counts[:-1, -1] = np.bincount(true[:-1][missed], minlength=classes)
    limits = tuple(thresholds(conf, classes).tolist())
    return ConfusionMatrix(table.dataset.class_names, counts, limits, iou, int((shown & ignored).sum()))


class _Told(NamedTuple):
    """Every detection and truth told apart."""

    hit: NDArray[np.bool_]  # [N]
    ignored: NDArray[np.bool_]  # [N]
    kinds: dict[str, NDArray[np.bool_]]  # type -> [N]; every wrong detection has exactly one
    target: NDArray[np.int64]  # [N] the truth that a classification or localization error is about
    found: NDArray[np.bool_]  # [M] truths that a detection hit


def error_types(table: Overlaps, *, conf: Conf) -> ErrorTypes:
    """Sort every wrong box and every missed object by type and count what each type costs, as TIDE does.

    A wrong box is a localization error where it overlaps an object of its class by 0.1 to 0.5; else a classification
    error where it overlaps one of another class by 0.5 or more; else a duplicate where it overlaps one of its class by
    0.5 or more (a better box has it); else background where it overlaps nothing by 0.1; else both. Missed are objects
    not found of which no classification or localization error is about.

    Mended are classification and localization errors by making the best box of each object not found right and
    leaving out the others; other wrong boxes are left out; missed objects are not asked for.

    Args:
        table: from `find_overlaps`.
        conf: the working threshold, for the counts of what a user would see; AP50 takes all boxes.
    """
    told = tell_apart(table)
    whole = _ap50(table, told.hit, told.ignored)
    shown = table.shown(conf)
    costs = [_cost(table, told, kind, shown, whole) for kind in ERROR_TYPES]
    wrong = ~told.hit & ~told.ignored
    lost, lost_shown = table.counts & ~told.found, table.counts & ~found_as_shown(table, told, shown)
    without = _gain(whole, _ap50(table, told.hit, told.ignored | wrong))
    complete = _gain(whole, _ap50(table, told.hit, told.ignored, left_out=lost))
    totals = (
        ErrorCost("false positive", int(wrong.sum()), int((wrong & shown).sum()), without),
        ErrorCost("false negative", int(lost.sum()), int(lost_shown.sum()), complete),
    )
    return ErrorTypes(whole, tuple(costs), totals, tuple(thresholds(conf, table.class_count).tolist()))


def tell_apart(table: Overlaps) -> _Told:
    owner = owners(table, FOREGROUND_IOU)
    hit, ignored = told_apart(table, owner)
    asked, same = table.counts[table.truth], table.same_class
    own, own_truth = closest(table, asked & same)
    other, other_truth = closest(table, asked & ~same)
    rest = ~hit & ~ignored
    kinds: dict[str, NDArray[np.bool_]] = {}
    for kind, applies in (
        ("localization", (own >= BACKGROUND_IOU) & (own < FOREGROUND_IOU)),
        ("classification", other >= FOREGROUND_IOU),
        ("duplicate", own >= FOREGROUND_IOU),
        ("background", np.maximum(own, other) < BACKGROUND_IOU),
        ("both", np.ones_like(rest)),
    ):
        kinds[kind] = rest & applies
        rest = rest & ~applies
    target = np.where(kinds["localization"], own_truth, np.where(kinds["classification"], other_truth, -1))
    told = _Told(hit, ignored, kinds, target, np.zeros(len(table.counts), np.bool_))
    told.found[owner[hit]] = True
    return told


def found_as_shown(table: Overlaps, told: _Told, shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Truths hit by a detection that is shown, [M]: matching takes the best first, so the others change nothing."""
    found = np.zeros(len(table.counts), np.bool_)
    owner = owners(table, FOREGROUND_IOU, shown=shown & told.hit)
    found[owner[owner >= 0]] = True
    return found


def missed_as_shown(
    table: Overlaps, told: _Told, found: NDArray[np.bool_], shown: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Truths not found that no classification or localization error is about, [M]."""
    missed = table.counts & ~found
    missed[told.target[(told.target >= 0) & shown]] = False
    return missed


def _cost(table: Overlaps, told: _Told, kind: str, shown: NDArray[np.bool_], whole: float) -> ErrorCost:
    if kind == "missed":
        missed = missed_as_shown(table, told, told.found, np.ones_like(shown))
        seen = missed_as_shown(table, told, found_as_shown(table, told, shown), shown)
        mended = _ap50(table, told.hit, told.ignored, left_out=missed)
        return ErrorCost(kind, int(missed.sum()), int(seen.sum()), _gain(whole, mended))
    rows = told.kinds[kind]
    hit, categories = told.hit.copy(), table.found.categories.copy()
    if kind in ("classification", "localization"):
        able = np.flatnonzero(rows & ~np.append(told.found, True)[told.target])
        able = able[np.argsort(-table.found.scores[able], kind="stable")]
        best = able[np.unique(told.target[able], return_index=True)[1]]
        hit[best], categories[best] = True, table.truths.categories[told.target[best]]
    mended = _ap50(table, hit, told.ignored | (rows & ~hit), categories)
    return ErrorCost(kind, int(rows.sum()), int((rows & shown).sum()), _gain(whole, mended))


def _gain(whole: float, mended: float) -> float:
    return mended - whole if whole > UNDEFINED else UNDEFINED


def _ap50(
    table: Overlaps,
    hit: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    categories: NDArray[np.int64] | None = None,
    left_out: NDArray[np.bool_] | None = None,
) -> float:
    """AP50 of detections with changed verdicts or classes, `left_out` truths not asked for; -1 without any truth.

    A class of which no truth is left to ask for is perfect if nothing wrong is left either, and 0 otherwise.
    """
    categories = table.found.categories if categories is None else categories
    rows = np.lexsort((-table.found.scores, categories))
    asked = table.counts if left_out is None else table.counts & ~left_out
    truths = np.flatnonzero(asked)
    truths = truths[np.argsort(table.truths.categories[truths], kind="stable")]
    classes = np.arange(1, table.class_count + 2)
    matching = Matching(
        image_count=len(table.positions),
        starts=np.searchsorted(categories[rows], classes),
        images=table.found.images[rows] - 1,
        hit=hit[rows][None],
        ignored=ignored[rows][None],
        truth_starts=np.searchsorted(table.truths.categories[truths], classes),
        truth_images=table.truths.images[truths] - 1,
    )
    aps = average_precisions(matching, np.ones((len(table.positions), 1), np.int16))[0, :, 0]
    wrong = np.bincount(categories[~hit & ~ignored] - 1, minlength=table.class_count) > 0
    aps = np.where(aps == UNDEFINED, ~wrong, aps)[table.truth_counts() > 0]
    return float(aps.mean()) if aps.size else UNDEFINED
